"""Pools: recovery volumes that are taken, passed over, and given back."""

import json
import mmap
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    MIB,
    Lab,
    configured,
    dm_devices,
    dmsnap,
    dmsnap_process,
    forked,
    refused,
    run,
    sha256,
    world,
    written,
)
from lost_state import lose_catalogue
from test_jobs import step_number

from dmsnap._native import label as labels
from dmsnap.errors import ExitCode
from dmsnap.host.blockdev import open_shared
from dmsnap.recovery import backup_area

SIZE = 32 * MIB
# A frozen XFS has a log that a mount would replay, which is a write.
READ_ONLY = {"xfs": "ro,norecovery"}
SIZES = {"ext4": SIZE, "btrfs": 128 * MIB, "xfs": 320 * MIB}


@contextmanager
def pool(
    *devices: object,
    choose: str = "best-fit",
    more: tuple[str, ...] = (),
    settings: tuple[str, ...] = (),
) -> Iterator[None]:
    """The pool ``disks``, within the block."""
    volumes = json.dumps([str(device) for device in devices])
    with configured(
        *settings, "[pool.disks]", f"volumes = {volumes}", f'choose = "{choose}"', *more
    ):
        yield


def offered() -> dict[str, tuple[str, str | None, str | None]]:
    """Each device: its state, the volume that has it, and what else is said."""
    return {
        each["device"]: (each["state"], each["volume"], each["reason"])
        for each in dmsnap("pool", "list")
    }


def states() -> dict[str, str]:
    return {device: state for device, (state, _, _) in offered().items()}


class Volume:
    """A mounted volume, protected by what the pool gives."""

    def __init__(self, lab: Lab, *options: object, fs_type: str = "ext4") -> None:
        self.lab, self.name = lab, lab.name()
        self.primary = lab.disk(SIZES[fs_type])
        self.mount_point = lab.mounted(self.primary, fs_type)
        self.write()
        self.words = ("protect", self.primary, "--name", self.name, "--store", lab.store(),
                      *(options or ("--pool", "disks")))  # fmt: skip

    def write(self) -> None:
        """Something new."""
        (self.mount_point / "bulk").write_bytes(os.urandom(MIB))
        run("sync", "-f", self.mount_point)

    def protect(self) -> Any:
        return dmsnap(*self.words)

    def refused(self, exit_code: int) -> str:
        """Nothing is changed by it; returns the sentence."""
        before = world(self.lab)
        sentence = refused(exit_code, *self.words)
        assert world(self.lab) == before
        assert os.path.ismount(self.mount_point)
        return sentence


def bytes_of_data(disk: str) -> int:
    """How much of a recovery volume comes before the backup of the catalogue and the label."""
    with open_shared(Path(disk)) as fd:
        size_bytes = os.lseek(fd, 0, os.SEEK_END)
        backup = backup_area.extent_of(labels.read(fd, size_bytes, disk), size_bytes)
    assert backup is not None
    assert backup.end_bytes == labels.offset(size_bytes) == size_bytes - labels.AREA_BYTES
    return backup.offset_bytes


def label_area(disk: str) -> bytes:
    """The label's two sectors, as they are on the disk."""
    with (
        open_shared(Path(disk)) as fd,
        mmap.mmap(-1, labels.AREA_BYTES) as buffer,  # as aligned as O_DIRECT wants it
    ):
        os.preadv(fd, [buffer], labels.offset(os.lseek(fd, 0, os.SEEK_END)))
        return bytes(buffer)


def test_the_smallest_that_suffices_is_taken_and_comes_back(lab: Lab) -> None:
    large, small, tiny = lab.disk(96 * MIB), lab.disk(64 * MIB), lab.disk(16 * MIB)
    with pool(large, small, tiny):
        assert states() == {large: "free", small: "free", tiny: "free"}
        first, second, third = Volume(lab), Volume(lab), Volume(lab)
        plan = dmsnap(*first.words, "--dry-run")
        assert plan["steps"][0].startswith(f"take {small} out of the pool disks")
        assert states()[small] == "free"
        made = first.protect()
        assert (made["recovery"], made["pool"]) == (small, "disks")
        assert [each["device"] for each in made["passed_over"]] == [tiny]
        assert offered()[small][:2] == ("taken", first.name)
        assert second.protect()["recovery"] == large
        # The other two are taken, the third is too small.
        assert f"{tiny} has 16 MiB" in third.refused(ExitCode.TOO_SMALL)
        (mounted,) = dmsnap("status", first.name)
        for _ in range(2):  # it has a history, too
            first.write()
            dmsnap("sync", first.name)
        assert len(dmsnap("inspect", "label", small)["history"]) == 2
        data_bytes = bytes_of_data(small)
        content = sha256(small, data_bytes)
        dmsnap("unprotect", first.name, "--forget")
        assert mounted["replica"]["state"] == "consistent"
        assert sha256(small, data_bytes) == content  # only the label was wiped
        assert label_area(small) == bytes(labels.AREA_BYTES)
        dmsnap("inspect", "label", small, expected=ExitCode.CORRUPT)
        assert offered()[small] == ("free", None, f"holds what {first.name} left on it")
        assert third.protect()["recovery"] == small
        assert dmsnap("sync", third.name)["volume"] == third.name
    assert sha256(second.primary) != sha256(small, SIZE)


def test_at_random_and_by_name(lab: Lab) -> None:
    disks = [lab.disk(48 * MIB) for _ in range(3)]
    with pool(*disks, choose="random"):
        first = Volume(lab, "--pool", "disks", "--recovery", disks[1])
        assert first.protect()["recovery"] == disks[1]
        assert Volume(lab).protect()["recovery"] in (disks[0], disks[2])
        again = Volume(lab, "--pool", "disks", "--recovery", disks[1])
        assert "does not offer" in again.refused(ExitCode.NOT_FOUND)
        other = Volume(lab, "--pool", "other")
        assert "no pool 'other'" in other.refused(ExitCode.NOT_FOUND)
        crude = Volume(lab, "--pool", "disks", "--overwrite")
        assert "--overwrite" in crude.refused(ExitCode.USAGE)


def partition_table(disk: str) -> None:
    """A table with one partition, as every tool knows it."""
    sector = bytearray(512)
    sector[446:462] = struct.pack("<B3sB3sII", 0, b"", 0x83, b"", 2048, 2048)
    sector[510:] = b"\x55\xaa"
    with Path(disk).open("r+b") as file:
        file.write(sector)
        os.fsync(file.fileno())


def test_what_is_in_use_or_holds_anything_is_passed_over(lab: Lab) -> None:
    names = ("mounted", "mapped", "formatted", "swap", "table", "locked", "opened")
    disks = {name: lab.disk(40 * MIB, name=name) for name in names}
    good = lab.disk(64 * MIB)
    link = lab.directory / "link"
    link.symlink_to(good)
    lab.mounted(disks["mounted"])
    run("mkfs.ext4", "-q", "-F", disks["formatted"])
    run("mkswap", disks["swap"])
    partition_table(disks["table"])
    run("blockdev", "--setro", disks["locked"])
    run("dmsetup", "create", "foreign", "--table", f"0 2048 linear {disks['mapped']} 0")
    missing = "/dev/disk/by-id/never"
    before = {name: sha256(disk) for name, disk in disks.items() if name != "mounted"}
    try:
        with pool(*disks.values(), missing, good, link), Path(disks["opened"]).open("rb"):
            reasons = {device: reason or "" for device, (_, _, reason) in offered().items()}
            made = Volume(lab).protect()
    finally:
        run("dmsetup", "remove", "foreign")
        run("blockdev", "--setrw", disks["locked"])  # a loop device stays so for the next file
    assert made["recovery"] == good
    told = {each["device"]: each["reason"] for each in made["passed_over"]}
    assert told == {device: reason for device, reason in reasons.items() if device != good}
    for name, words in {
        "mounted": "is in use: mounted on", "mapped": "is in use: held by dm-",
        "formatted": "holds ext4", "swap": "holds swap", "table": "holds a dos partition table",
        "locked": "is read-only", "opened": "is in use: open in",
    }.items():  # fmt: skip
        assert told[disks[name]].startswith(words), told
    assert "No such file" in told[missing]
    assert told[str(link)] == f"is the same device as {good}"
    after = {name: sha256(disk) for name, disk in disks.items() if name != "mounted"}
    assert after == before


@pytest.mark.parametrize("count", [2, 1])
def test_two_protects_at_once_take_different_devices(lab: Lab, count: int) -> None:
    disks = [lab.disk(48 * MIB) for _ in range(count)]
    volumes = [Volume(lab), Volume(lab)]
    with pool(*disks, settings=("lock_wait_seconds = 900",)):
        running = [dmsnap_process(*volume.words, "--json") for volume in volumes]
        ended = [process.communicate(timeout=600) for process in running]
    results = [written(*each) for each in ended]
    codes = [process.returncode for process in running]
    taken = [each["recovery"] for each in results if "recovery" in each]
    assert sorted(taken) == sorted(disks), results
    assert sorted(codes) == [0] * count + [int(ExitCode.NOT_FOUND)] * (2 - count)
    for volume, code in zip(volumes, codes, strict=True):
        assert os.path.ismount(volume.mount_point)
        assert (volume.name in dm_devices()) is (code == 0)
        if code == 0:
            dmsnap("sync", volume.name)


def test_a_label_says_what_is_taken_when_the_catalogue_is_lost(lab: Lab) -> None:
    disk = lab.disk(48 * MIB)
    with pool(disk):
        volume = Volume(lab)
        volume.protect()
        lose_catalogue()
        state, has_it, reason = offered()[disk]
        assert (state, has_it) == ("taken", volume.name)
        assert "not protected" in str(reason)
        other = Volume(lab)
        assert "all of its volumes are in use" in other.refused(ExitCode.NOT_FOUND)
        dmsnap("catalogue", "rebuild")
        assert offered()[disk] == ("taken", volume.name, "is its recovery volume")
        dmsnap("sync", volume.name)
        dmsnap("unprotect", volume.name, "--forget")
        assert other.protect()["recovery"] == disk


@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "btrfs"])
def test_what_somebody_used_since_is_not_overwritten(lab: Lab, fs_type: str) -> None:
    """Whoever writes a single byte into the copy that was left has it for good."""
    disk = lab.disk(SIZES[fs_type] + 16 * MIB)
    mount_point = lab.directory / "copy"
    mount_point.mkdir()
    with pool(disk):
        volume = Volume(lab, fs_type=fs_type)
        volume.protect()
        dmsnap("unprotect", volume.name, "--forget")
        assert states()[disk] == "free"
        run("umount", volume.mount_point)  # XFS and btrfs refuse two of one UUID
        run("mount", "-o", READ_ONLY.get(fs_type, "ro"), disk, mount_point)
        assert "mounted on" in str(offered()[disk][2])
        run("umount", mount_point)
        assert states()[disk] == "free"
        run("mount", disk, mount_point)
        descriptor = os.open(mount_point / "bulk", os.O_WRONLY)
        os.pwrite(descriptor, b"mine", 4096)
        os.close(descriptor)
        run("umount", mount_point)
        run("mount", volume.primary, volume.mount_point)
        state, _, reason = offered()[disk]
        assert state == "unusable"
        assert str(reason).startswith(f"holds {fs_type}")
        volume.refused(ExitCode.NOT_FOUND)
        run("wipefs", "-q", "--all", disk)
        assert states()[disk] == "free"


def test_what_is_kept_goes_on_with_its_history(lab: Lab) -> None:
    disk, larger = lab.disk(48 * MIB), lab.disk(64 * MIB)
    with pool(larger, disk):
        volume = Volume(lab)
        volume.protect()
        dmsnap("sync", volume.name)
        points = {point["id"] for point in dmsnap("point", "list", volume.name)}
        dmsnap("unprotect", volume.name)
        state, has_it, reason = offered()[disk]
        assert (state, has_it) == ("taken", volume.name)
        assert "keeps its points" in str(reason)
        assert Volume(lab).protect()["recovery"] == larger  # not what is another's
        assert volume.protect()["recovery"] == disk
        assert points <= {point["id"] for point in dmsnap("point", "list", volume.name)}


def test_a_policy_names_pool_and_store(lab: Lab) -> None:
    disk, directory = lab.disk(48 * MIB), lab.directory / "elsewhere"
    directory.mkdir()
    volume = Volume(lab)
    words = [word for word in volume.words if word not in ("--pool", "disks")]
    words = [word for word in words if word not in ("--store", lab.store())]
    policy = (
        "[store.far]", f'directory = "{directory}"',
        "[policy.daily]", 'pool = "disks"', 'store = "far"',
        "[subclient.all]", f'volumes = ["{volume.name}"]', 'policy = "daily"',
    )  # fmt: skip
    assert "--pool POOL" in dmsnap(*words, expected=ExitCode.USAGE)["hint"]
    with pool(disk, more=policy):
        assert dmsnap(*words)["recovery"] == disk
        assert any(directory.iterdir())
        dmsnap("unprotect", volume.name, "--forget")
        assert not any(directory.iterdir())
        # A word on the command line comes before the policy's.
        other = lab.disk(48 * MIB)
        made = dmsnap(*words, "--recovery", other, "--store", lab.store())
        assert (made["recovery"], made["pool"]) == (other, None)
        assert not any(directory.iterdir())
        assert states()[disk] == "free"


def test_tables_with_mistakes_keep_nobody_from_what_is_named(lab: Lab) -> None:
    disk = lab.disk(48 * MIB)
    volume = Volume(lab, "--recovery", disk)
    with pool(disk, more=("[policy.daily]", 'pool = "dsiks"')):
        dmsnap("pool", "list", expected=ExitCode.CONFIGURATION)
        volume.protect()
        dmsnap("unprotect", volume.name, "--forget")
    assert os.path.ismount(volume.mount_point)


@pytest.mark.parametrize("at", ["record", "label", "copy", "mark-consistent"])
def test_a_protect_that_is_killed_has_taken_nothing(lab: Lab, at: str) -> None:
    disk = lab.disk(48 * MIB)
    with pool(disk):
        volume = Volume(lab)
        begun = (step_number(*volume.words, name=at), "begun")
        ended = forked(*volume.words, at=begun, send=(signal.SIGKILL,))
        assert ended.code == -signal.SIGKILL
        assert states()[disk] == ("free" if at == "record" else "taken")
        dmsnap("job", "resume", "--all")
        assert states()[disk] == "free"
        assert volume.protect()["recovery"] == disk


def test_a_killed_unprotect_gives_it_back_once(lab: Lab) -> None:
    disk = lab.disk(48 * MIB)
    with pool(disk):
        volume = Volume(lab)
        volume.protect()
        planned = dmsnap("unprotect", volume.name, "--forget", "--dry-run")["steps"]
        wiping = next(at for at, step in enumerate(planned) if "goes back to the pool" in step)
        words = ("unprotect", volume.name, "--forget")
        for moment in ("begun", "done"):
            ended = forked(*words, at=(wiping, moment), send=(signal.SIGKILL,))
            assert ended.code == -signal.SIGKILL
            dmsnap("job", "resume", "--all")
            assert states()[disk] == "free"
            volume.protect()


def test_what_hydrate_leaves_goes_back(lab: Lab) -> None:
    """A commit has the pool's device serve; moved to another one, the volume needs it no more."""
    disk, new = lab.disk(48 * MIB), lab.disk(48 * MIB)
    with pool(disk):
        volume = Volume(lab)
        volume.protect()
        dmsnap("swap", volume.name)
        dmsnap("swap", "commit", volume.name)
        assert offered()[disk] == ("taken", volume.name, "is what it lies on")
        dmsnap("hydrate", volume.name, "--onto", new)
        assert offered()[disk] == ("free", None, f"holds what {volume.name} left on it")
        other = Volume(lab)
        assert other.protect()["recovery"] == disk
        assert offered()[disk][:2] == ("taken", other.name)
        dmsnap("sync", other.name)


def test_a_former_volume_is_taken_until_it_is_forgotten(lab: Lab) -> None:
    """After a commit failback leads back to it; unprotect --forget gives that up."""
    disk = lab.disk(48 * MIB)
    volume = Volume(lab)
    with pool(disk, volume.primary):
        assert volume.protect()["recovery"] == disk
        dmsnap("swap", volume.name)
        dmsnap("swap", "commit", volume.name)
        assert offered()[volume.primary][:2] == ("taken", volume.name)
        dmsnap("unprotect", volume.name, "--forget")
        assert states()[volume.primary] == "free"
        assert states()[disk] == "taken"  # what it lies on now, and goes on lying on
        assert os.path.ismount(volume.mount_point)
