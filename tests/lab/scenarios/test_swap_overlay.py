"""A trial's overlay that fills up: foreseen, reported, extended while it is written."""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import MIB, Lab, configured, dmsnap, rarely, refused, run, sha256
from faulty_disk import faulty_disk
from lost_state import lose_stack

from dmsnap._native.label import AREA_BYTES
from dmsnap.errors import ExitCode

SIZE = 64 * MIB
RECOVERY_SIZE = 160 * MIB


def fill(name: str, mib: int, *, seek: int = 0) -> None:
    run(
        "dd", "if=/dev/urandom", f"of=/dev/mapper/{name}", "bs=1M", f"count={mib}", f"seek={seek}",
        "oflag=direct",
    )  # fmt: skip


@pytest.mark.selection
@pytest.mark.parametrize("store", ["directory", rarely("group")])
def test_extended_while_it_is_used(lab: Lab, store: str) -> None:
    """16 MiB that are nearly full; with more room all that was written stays, and more fits."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    place = lab.group(lab.disk(256 * MIB)) if store == "group" else lab.store()
    name = lab.protect(primary, recovery, "--store", place)
    with configured("cow_limit_bytes = 16777216"):
        dmsnap("swap", name)
        fill(name, 4)
        (status,) = dmsnap("status", name, expected=None)
        overlay = status["overlay"]
        assert overlay["state"] == "OK"
        assert 4 * MIB < overlay["used_bytes"] < overlay["total_bytes"] == 16 * MIB
        # Two thirds of it in some seconds: it will be full soon.
        fill(name, 6, seek=4)
        (status,) = dmsnap("status", name, expected=ExitCode.UNHEALTHY)
        assert 0 < status["overlay"]["seconds_left"] < 3600
        assert "dmsnap swap extend" in status["problems"][0]
        # The limit keeps it from being extended by itself.
        fill(name, 4, seek=10)
        assert dmsnap("status", name, expected=None)[0]["overlay"]["total_bytes"] == 16 * MIB
    content = sha256(f"/dev/mapper/{name}")
    result = dmsnap("swap", "extend", name, "--size", "48MiB")
    assert result["total_bytes"] == 48 * MIB
    assert result["used_bytes"] > 14 * MIB
    assert sha256(f"/dev/mapper/{name}") == content
    fill(name, 20, seek=30)
    content = sha256(f"/dev/mapper/{name}")
    refused(ExitCode.POINT_INVALID, "swap", "extend", name, "--size", "32MiB")
    # All of it survives that the devices are taken down, as at a restart, and built again.
    for device in (name, f"dmsnap-{name}-origin-2"):
        run("dmsetup", "remove", device)
    dmsnap("assemble", name)
    assert sha256(f"/dev/mapper/{name}") == content
    assert dmsnap("swap", "commit", name)["state"] == "promoted"
    assert sha256(f"/dev/mapper/{name}") == sha256(recovery, SIZE) == content


def test_commands_keep_ahead(lab: Lab) -> None:
    """Over the warning level, any command that works on the volume doubles it, up to all of it."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    name = lab.protect(primary, recovery)
    dmsnap("swap", name)
    fill(name, 14)
    dmsnap("swap", "commit", name, "--dry-run")
    (status,) = dmsnap("status", name, expected=None)
    assert status["overlay"]["total_bytes"] == 32 * MIB
    dmsnap("swap", "extend", name)
    result = dmsnap("swap", "extend", name, "--size", "1GiB")
    assert 64 * MIB < result["total_bytes"] < 66 * MIB
    fill(name, 64)
    dmsnap("swap", "commit", name)


def test_no_room_to_extend(lab: Lab) -> None:
    """What the store cannot give is said, and the trial goes on."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    group = lab.group(lab.disk(48 * MIB))
    with configured("cow_limit_bytes = 16777216"):
        name = lab.protect(primary, recovery, "--store", group)
        dmsnap("swap", name)
    refused(ExitCode.NO_SPACE, "swap", "extend", name, "--size", "48MiB")
    fill(name, 14)
    dmsnap("swap", "revert", name)
    refused(ExitCode.WRONG_STATE, "swap", "extend", name)


def test_damaged_undo_stores(lab: Lab) -> None:
    """Header or areas of a store, on the way to the wanted point: refused, nothing changed.

    The kernel takes a header of zeroes for a store that is to be made, and makes it.
    """
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    name = lab.protect(primary, recovery)
    for number in range(3):
        fill(name, 2, seek=number)
        dmsnap("sync", name)
    label = dmsnap("inspect", "label", recovery)
    _, middle, _ = (entry["store_offset_bytes"] for entry in label["history"])
    points = [entry["point_uuid"] for entry in label["history"]]
    to = ("--portal", "127.0.0.1:3270", "--initiator", "iqn.2026-01.org.example:a")
    for at, piece in ((middle, os.urandom(16)), (middle, bytes(16)), (middle + 4096, b"\xff" * 64)):
        with spoiled(recovery, at, piece):
            tables, before = run("dmsetup", "table"), start_of(recovery, middle)
            for words in (
                ("swap", name, "--to", points[1]),
                ("point", "mount", points[1]),
                ("export", points[1], *to),
            ):
                assert points[1] in refused(ExitCode.CORRUPT, *words)
            refused(ExitCode.CORRUPT, "swap", name, "--to", points[2])
            assert (run("dmsetup", "table"), start_of(recovery, middle)) == (tables, before)
            # What does not need it is still there.
            dmsnap("swap", name, "--to", points[0])
            dmsnap("swap", "revert", name)
    dmsnap("swap", name, "--to", points[2])
    assert dmsnap("status", name)[0]["trial_point"] == points[2]
    # By a boot, and on a host that knows no more than the label, it is no other.
    lose_stack(lab)
    with spoiled(recovery, middle, bytes(16)):
        refused(ExitCode.CORRUPT, "assemble", "--boot", name)
        assert not any(start_of(recovery, middle)[:16])
    dmsnap("assemble", "--boot", name)
    dmsnap("swap", "revert", name)
    dmsnap("unprotect", name)
    with spoiled(recovery, middle, bytes(16)):
        swap = ("swap", "--from-label", recovery, "--store", lab.store(), "--to", points[1])
        before = dmsnap("inspect", "label", recovery)
        refused(ExitCode.CORRUPT, *swap)
        assert dmsnap("inspect", "label", recovery) == before
        assert not any(start_of(recovery, middle)[:16])


@contextmanager
def spoiled(disk: str, at: int, piece: bytes) -> Iterator[None]:
    """Other bytes somewhere on a disk, and afterwards those that were there."""
    with Path(disk).open("r+b", buffering=0) as device:
        before = os.pread(device.fileno(), len(piece), at)
        os.pwrite(device.fileno(), piece, at)
        os.fsync(device.fileno())
        yield
        os.pwrite(device.fileno(), before, at)
        os.fsync(device.fileno())


def start_of(disk: str, at: int) -> bytes:
    """The first bytes of a store, as the disk has them."""
    fd = os.open(disk, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, MIB) as buffer:
            return buffer[: os.preadv(fd, [buffer], at)]
    finally:
        os.close(fd)


def test_a_truncated_recovery_volume(lab: Lab) -> None:
    """The label lies at its end: without it there is nothing that could be trusted."""
    primary = lab.disk(SIZE)
    with faulty_disk(lab, RECOVERY_SIZE) as disk:
        name = lab.protect(primary, disk.path)
        dmsnap("sync", name)
        front = run("dmsetup", "table", name)
        disk.shrink(RECOVERY_SIZE - AREA_BYTES)
        refused(ExitCode.CORRUPT, "swap", name)
        disk.load(((SIZE, 64 * MIB), "error"))
        (oldest, _) = dmsnap("point", "list", name)
        error = dmsnap("swap", name, "--to", oldest["id"], expected=None)
        assert error["exit_code"] in (ExitCode.OS, ExitCode.CORRUPT)
        assert run("dmsetup", "table", name) == front
        disk.load()
        dmsnap("swap", name, "--to", oldest["id"])
        dmsnap("swap", "revert", name)
        dmsnap("unprotect", name)


def test_a_point_that_was_found_wrong(lab: Lab) -> None:
    """Refused unless --force says that it is wanted as it is."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    fill_bytes = os.urandom(MIB)
    Path(primary).write_bytes(fill_bytes)
    name = lab.protect(primary, recovery)
    with Path(recovery).open("r+b", buffering=0) as device:
        os.pwrite(device.fileno(), b"spoiled!" * 64, 4096)
        os.fsync(device.fileno())
    refused(ExitCode.AUDIT_FAILED, "verify", name, "--full")
    front = run("dmsetup", "table", name)
    sentence = refused(ExitCode.POINT_INVALID, "swap", name)
    assert "is not what it should be" in sentence
    assert run("dmsetup", "table", name) == front
    dmsnap("swap", name, "--force")
    dmsnap("swap", "revert", name)
    dmsnap("sync", name)
    dmsnap("swap", name)
