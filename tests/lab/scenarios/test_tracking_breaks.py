"""What breaks tracking makes the next sync compare both sides in full, and say why."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import MIB, Lab, configured, dm_devices, dmsnap, run
from faulty_disk import faulty_disk
from patience import sectors_written, until
from raw_volume import KIB, SECTOR, Protected, check_tidy, protected, write_direct

from dmsnap.errors import ExitCode

SIZE = 12 * MIB


@pytest.fixture
def volume(lab: Lab) -> Protected:
    """Protected and synced, so that the era would be used."""
    made = protected(lab, SIZE)
    write_direct(made.front, os.urandom(4 * KIB), MIB)
    assert made.sync()["tracker"] == "era"
    return made


def check_compared(volume: Protected, reason: str) -> None:
    """The next sync compares everything and says why; the one after it trusts the era again."""
    result = volume.sync()
    assert result["tracker"] == "compare"
    assert reason in result["reason"]
    assert result["bytes_dirty"] == volume.size_bytes
    volume.check_equal()
    write_direct(volume.front, os.urandom(4 * KIB), 2 * MIB)
    result = volume.sync("--audit", "full")
    assert result["tracker"] == "era"
    assert result["bytes_dirty"] == volume.block_bytes


def remove_stack(volume: Protected) -> None:
    run("dmsetup", "remove", volume.name)
    for name in dm_devices():
        run("dmsetup", "remove", name)


def test_the_volume_was_written_while_the_stack_was_gone(lab: Lab, volume: Protected) -> None:
    remove_stack(volume)
    write_direct(volume.primary, os.urandom(64 * KIB), 5 * MIB)
    before = volume.label()
    volume.sync(expected=ExitCode.STACK_CHANGED)
    assert volume.label() == before
    dmsnap("assemble", volume.name)
    check_compared(volume, "built anew")
    check_tidy(volume, lab)


def test_only_the_front_was_gone(lab: Lab, volume: Protected) -> None:
    run("dmsetup", "remove", volume.name)
    write_direct(volume.primary, os.urandom(64 * KIB), 5 * MIB)
    volume.sync(expected=ExitCode.STACK_CHANGED)
    dmsnap("assemble", volume.name)
    check_compared(volume, "built anew")
    check_tidy(volume, lab)


def test_a_foreign_table_in_the_front(lab: Lab, volume: Protected) -> None:
    """What LVM's refresh does to a layer that it does not know."""
    table = f"0 {SIZE // SECTOR} linear {volume.primary} 0"
    run("dmsetup", "load", volume.name, "--table", table)
    run("dmsetup", "resume", volume.name)
    write_direct(volume.front, os.urandom(64 * KIB), 5 * MIB)
    before = volume.label()
    refused = volume.sync(expected=ExitCode.STACK_CHANGED)
    assert "another table" in refused["error"]
    assert volume.label() == before
    (status,) = dmsnap("status", volume.name, expected=ExitCode.UNHEALTHY)
    assert any("another table" in problem for problem in status["problems"])
    dmsnap("assemble", volume.name)
    assert run("dmsetup", "table", volume.name).split()[2] == "era"
    check_compared(volume, "built anew")
    check_tidy(volume, lab)


def test_a_foreign_table_in_the_origin(lab: Lab, volume: Protected) -> None:
    """Points would be taken and hold nothing: writes past the snapshot-origin copy nothing."""
    (origin,) = (name for name in dm_devices() if "-origin-" in name)
    run("dmsetup", "load", origin, "--table", f"0 {SIZE // SECTOR} linear {volume.primary} 0")
    run("dmsetup", "resume", origin)
    volume.sync(expected=ExitCode.STACK_CHANGED)
    dmsnap("assemble", volume.name)
    assert run("dmsetup", "table", origin).split()[2] == "snapshot-origin"
    check_compared(volume, "built anew")
    check_tidy(volume, lab)


def test_a_front_that_somebody_suspended(lab: Lab, volume: Protected) -> None:
    """An era device that is suspended answers nothing: it must not be asked."""
    run("dmsetup", "suspend", volume.name)
    refused = volume.sync(expected=ExitCode.STACK_CHANGED)
    assert "is suspended" in refused["error"]
    dmsnap("assemble", volume.name)
    check_compared(volume, "built anew")
    check_tidy(volume, lab)


@pytest.mark.selection
def test_somebody_wrote_past_the_front(lab: Lab, volume: Protected) -> None:
    """As root may, with the stack in place: no layer of dmsnap's sees it."""
    write_direct(volume.primary, os.urandom(8 * KIB), 7 * MIB)
    (told,) = dmsnap("status", volume.name, expected=ExitCode.UNHEALTHY)
    assert f"8 KiB were written to {volume.primary} past" in told["problems"][0]
    check_compared(volume, f"8 KiB were written to {volume.primary} past")
    (told,) = dmsnap("status", volume.name)
    check_tidy(volume, lab)


def write_to_origin(volume: Protected, generation: int = 1) -> None:
    """As root may: past dm-era, and by the origin to the device, which counts it as it should."""
    origin = f"/dev/mapper/dmsnap-{volume.name}-origin-{generation}"
    write_direct(origin, os.urandom(8 * KIB), 7 * MIB)


def test_somebody_wrote_to_the_hidden_origin(lab: Lab, volume: Protected) -> None:
    """Twice, and once beside a write to the device itself; the front is written to all along."""
    write_direct(volume.front, os.urandom(64 * KIB), 3 * MIB)
    write_to_origin(volume)
    (told,) = dmsnap("status", volume.name, expected=ExitCode.UNHEALTHY)
    assert f"8 KiB were written to {volume.primary} past" in told["problems"][0]
    write_direct(volume.front, os.urandom(128 * KIB), 3 * MIB)
    check_compared(volume, f"8 KiB were written to {volume.primary} past")
    assert dmsnap("status", volume.name)[0]["problems"] == []
    write_direct(volume.primary, os.urandom(4 * KIB), 6 * MIB)
    write_to_origin(volume)
    check_compared(volume, f"12 KiB were written to {volume.primary} past")
    # With a point that lives the origin cuts what it is given in chunks: that counts the same.
    (point,) = dmsnap("point", "create", volume.name)
    write_direct(volume.front, os.urandom(MIB), 2 * MIB + SECTOR)
    assert volume.sync("--audit", "full")["tracker"] == "era"
    dmsnap("point", "delete", point["id"])
    assert dmsnap("status", volume.name)[0]["problems"] == []
    check_tidy(volume, lab)


@pytest.mark.parametrize("when", ["before the swap", "during the trial"])
@pytest.mark.parametrize("ending", ["revert", "commit"])
def test_somebody_wrote_to_the_origin_of_a_volume_that_is_swapped(
    volume: Protected, when: str, ending: str
) -> None:
    """Neither the next sync nor a failback takes it for unchanged."""
    if when == "before the swap":
        write_to_origin(volume)
    dmsnap("swap", volume.name)
    write_direct(volume.front, os.urandom(64 * KIB), 3 * MIB)
    if when == "during the trial":
        write_to_origin(volume)
    dmsnap("swap", ending, volume.name)
    if ending == "revert":
        check_compared(volume, "past")
        return
    write_direct(volume.front, os.urandom(64 * KIB), 4 * MIB)
    assert dmsnap("failback", volume.name)["tracker"] == "compare"
    volume.check_equal()
    assert dmsnap("status", volume.name)[0]["problems"] == []


def test_a_trial_and_a_failback_that_nobody_passed_by(volume: Protected) -> None:
    """What the front and the origins below it count is not the same then, and nobody's fault."""
    dmsnap("swap", volume.name)
    write_direct(volume.front, os.urandom(MIB), 3 * MIB)
    dmsnap("swap", "revert", volume.name)
    write_direct(volume.front, os.urandom(64 * KIB), 3 * MIB)
    assert volume.sync("--audit", "full")["tracker"] == "era"
    for _ in range(2):
        dmsnap("swap", volume.name)
        write_direct(volume.front, os.urandom(MIB), 3 * MIB)
        dmsnap("swap", "commit", volume.name)
        write_direct(volume.front, os.urandom(2 * MIB), 3 * MIB)
        assert dmsnap("failback", volume.name)["tracker"] == "era"
        write_direct(volume.front, os.urandom(64 * KIB), 3 * MIB)
        assert volume.sync("--audit", "full")["tracker"] == "era"
        volume.check_equal()
    assert dmsnap("status", volume.name)[0]["problems"] == []


def test_somebody_wrote_to_the_overlay_of_a_trial(volume: Protected) -> None:
    """The commit keeps it, and the failback finds it."""
    dmsnap("swap", volume.name)
    write_to_origin(volume, 2)
    dmsnap("swap", "commit", volume.name)
    assert dmsnap("failback", volume.name)["tracker"] == "compare"
    volume.check_equal()


def test_somebody_discarded_past_the_front(lab: Lab, volume: Protected) -> None:
    """Which is a write to whoever reads it."""
    run("blkdiscard", "--force", "--offset", 7 * MIB, "--length", 8 * KIB, volume.primary)
    check_compared(volume, f"8 KiB were written to {volume.primary} past")
    check_tidy(volume, lab)


@contextmanager
def busy(volume: Protected, *options: str) -> Iterator[None]:
    """Direct writes of 4 KiB to the front, as many as it takes or as ``options`` say: never at
    rest.
    """
    command = ["fio", "--name=load", f"--filename={volume.front}", "--rw=randwrite", "--bs=4k",
               "--direct=1", "--iodepth=32", "--ioengine=libaio", "--time_based",
               "--runtime=600", *options]  # fmt: skip
    load = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        before = sectors_written(volume.name)
        until(lambda: sectors_written(volume.name) > before, "fio has begun")
        yield
        assert load.poll() is None
    finally:
        load.terminate()
        load.wait()


def test_somebody_wrote_past_the_front_while_it_was_busy(volume: Protected) -> None:
    with busy(volume, "--iodepth=8", "--rate_iops=500"):
        write_direct(volume.primary, os.urandom(MIB), 7 * MIB)
        result = volume.sync()
    assert result["tracker"] == "compare"
    assert "past" in result["reason"]


@pytest.mark.parametrize("where", ["origin", "device"])
def test_a_page_past_a_front_that_is_written_to_at_full_rate(volume: Protected, where: str) -> None:
    """Less than what is under way at any moment: the counts tell it in the window alone."""
    origin = Path(f"/dev/mapper/dmsnap-{volume.name}-origin-1")
    place = origin if where == "origin" else Path(volume.primary)
    with busy(volume, "--size=4M"):
        for _ in range(3):
            write_direct(place, os.urandom(4 * KIB), 7 * MIB)
            result = volume.sync("--audit", "full")
            assert result["tracker"] == "compare"
            assert f"4 KiB were written to {volume.primary} past" in result["reason"]
            # It was seen, and nothing is left of it.
            assert volume.sync("--audit", "full")["tracker"] == "era"
    assert dmsnap("status", volume.name)[0]["problems"] == []


def test_a_page_past_a_front_that_is_never_at_rest(lab: Lab) -> None:
    """Its disk is slow; and what dm-era is yet to mark the front alone has counted, before 6.3."""
    size = 16 * MIB
    with faulty_disk(lab, size) as disk:
        recovery = lab.disk(size + 34 * MIB)
        name = lab.protect(disk.path, recovery, "--block-size", 4 * KIB)
        volume = Protected(name, disk.path, recovery, size, 4 * KIB)
        volume.sync()
        disk.delay_writes(20)
        with busy(volume, "--size=12M"):
            for _ in range(3):
                write_direct(f"/dev/mapper/dmsnap-{name}-origin-1", os.urandom(4 * KIB), 14 * MIB)
                result = volume.sync("--audit", "full")
                assert result["tracker"] == "compare"
                assert f"4 KiB were written to {disk.path} past" in result["reason"]
                assert volume.sync("--audit", "full")["tracker"] == "era"
        disk.load()
        assert dmsnap("status", name)[0]["problems"] == []
        dmsnap("unprotect", name, "--forget")


def test_a_front_that_is_written_to_at_full_rate_is_passed_by_nobody(volume: Protected) -> None:
    """Nothing is told of a count that is not at rest, nor kept of it."""
    with busy(volume, "--size=4M"):
        for _ in range(8):
            assert volume.sync()["tracker"] == "era"
            assert dmsnap("status", volume.name)[0]["problems"] == []
    assert volume.sync("--audit", "full")["tracker"] == "era"
    volume.check_equal()


def test_it_is_not_known_whether_somebody_wrote_past_the_front(volume: Protected) -> None:
    """What was counted is lost: nobody is believed, once."""
    for counted in Path("/run/dmsnap/writes").iterdir():
        counted.unlink()
    write_direct(volume.primary, os.urandom(MIB), 7 * MIB)
    check_compared(volume, "it is not known whether anything was written")


def test_somebody_wrote_past_the_front_before_the_window(lab: Lab, volume: Protected) -> None:
    """After the sync had begun: it is in the point, and the next one finds nothing to compare."""
    script = lab.directory / "hook"
    script.write_text(
        f"#!/bin/sh\nhead -c 4096 /dev/urandom | dd of={volume.primary} bs=4k seek=300 "
        "conv=notrunc oflag=direct status=none\n"
    )
    script.chmod(0o755)
    with configured(
        "[policy.p]", 'schedule = "yearly"', 'hooks = ["h"]',
        "[subclient.s]", f'volumes = ["{volume.name}"]', 'policy = "p"',
        "[hook.h]", 'phase = "presnapshot"', f'command = ["{script}"]',
    ):  # fmt: skip
        result = volume.sync()
        assert (result["tracker"], "past" in result["reason"]) == ("compare", True)
    volume.check_equal()
    assert volume.sync("--audit", "full")["tracker"] == "era"


def test_the_catalogue_was_deleted(volume: Protected) -> None:
    """Commands say that they know no such volume; what is on the devices stays as it is."""
    before, content = volume.label(), volume.replica_sha256()
    for path in Path("/var/lib/dmsnap").glob("catalogue.db*"):
        path.unlink()
    refused = volume.sync(expected=ExitCode.NOT_FOUND)
    assert volume.name in refused["error"]
    assert dmsnap("status") == []
    assert volume.label() == before
    assert volume.replica_sha256() == content


def test_the_era_metadata_was_replaced(volume: Protected) -> None:
    """By hand, under a front that looks as it should: the era went back."""
    table = run("dmsetup", "table", volume.name).strip()
    uuid = run("dmsetup", "info", "-c", "--noheadings", "-o", "uuid", volume.name).strip()
    metadata = f"/dev/{Path(f'/sys/dev/block/{table.split()[3]}').resolve().name}"
    run("dmsetup", "remove", volume.name)
    run("dd", "if=/dev/zero", f"of={metadata}", "bs=64k", "count=1", "oflag=direct", "status=none")
    write_direct(volume.primary, os.urandom(64 * KIB), 5 * MIB)
    run("dmsetup", "create", volume.name, "--uuid", uuid, "--table", table)
    run("dmsetup", "mknodes")
    check_compared(volume, "the era metadata was replaced")


@pytest.mark.parametrize("damage", ["superblock", "checksum"])
def test_the_era_metadata_is_damaged(lab: Lab, volume: Protected, damage: str) -> None:
    """What dm-era does not take any more costs the tracking, and not the volume."""
    table = run("dmsetup", "table", volume.name).strip()
    metadata = f"/dev/{Path(f'/sys/dev/block/{table.split()[3]}').resolve().name}"
    remove_stack(volume)
    offset, content = (0, os.urandom(4 * KIB)) if damage == "superblock" else (32, b"\xff" * 4)
    with Path(metadata).open("r+b") as file:
        file.seek(offset)
        file.write(content)
        os.fsync(file.fileno())
    write_direct(volume.primary, os.urandom(64 * KIB), 5 * MIB)
    dmsnap("assemble", volume.name)
    assert dmsnap("status", volume.name)[0]["problems"] == []
    check_compared(volume, "built anew")
    check_tidy(volume, lab)


def test_an_audit_finds_what_tracking_missed(lab: Lab, volume: Protected) -> None:
    """A block of the replica that differs where nothing was written, as after a lost mark."""
    before, content = volume.label(), volume.replica_sha256()
    write_direct(volume.recovery, os.urandom(4 * KIB), 8 * MIB)
    spoiled = volume.replica_sha256()
    assert spoiled != content
    write_direct(volume.front, os.urandom(64 * KIB), 3 * MIB)
    found = volume.sync("--audit", "full", expected=ExitCode.AUDIT_FAILED)
    assert f"the first at {8 * MIB}" in found["error"]
    assert "compare" in found["hint"]
    # Rolled back to its former point: what the sync wrote is gone again.
    after = volume.label()
    assert (after["state"], after["point_uuid"]) == ("consistent", before["point_uuid"])
    assert after["history"] == before["history"]
    assert volume.replica_sha256() == spoiled
    check_tidy(volume, lab)
    check_compared(volume, "audit")


def test_an_audit_of_a_sample_finds_much_damage(volume: Protected) -> None:
    for offset in range(0, SIZE, MIB):
        write_direct(volume.recovery, os.urandom(4 * KIB), offset + 8 * KIB)
    volume.sync("--audit", "sample", expected=ExitCode.AUDIT_FAILED)
    check_compared(volume, "audit")
