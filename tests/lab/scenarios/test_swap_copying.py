"""A swap finds its volume held by a copy: one whose primary hangs is ended, and gives way."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import (
    MIB,
    Lab,
    catalogue_rows,
    configured,
    dm_devices,
    dmsnap,
    dmsnap_process,
    forked,
    label_on,
    locks_held,
    rarely,
    refused,
    run,
    sha256,
    step_at,
    suspended,
    written,
)
from faulty_disk import FaultyDisk, faulty_disk
from patience import requests_under_way, until
from raw_volume import Protected, check_tidy, fill, write_direct
from test_swap_hanging import UNHURRIED, no_write_back

from dmsnap.errors import ExitCode

__all__ = ["no_write_back"]  # a fixture

SIZE = 96 * MIB
RECOVERY_SIZE = 256 * MIB
# More than a sync keeps in memory of what differs (``copy.KEEP_BYTES``): the rest is read again.
CHANGED_BYTES = 48 * MIB
# Of which each of comparing and applying takes some seconds.
BANDWIDTH = ("--bandwidth", "6MiB")
PATIENCE = ("primary_wait_seconds = 3", "lock_wait_seconds = 1")
# What a copy that can end may take for its undo on a machine that is busy, and what another gets.
BY_ITSELF, KILLED = "kill_wait_seconds = 120", "kill_wait_seconds = 5"
# On a machine that is busy; what waits for the disk would do so for an hour.
BOUND_SECONDS = 180
POLICY = (
    '[policy.often]\nmake = "recovery-volume"\naudit = "none"\nbandwidth = "6MiB"\n'
    '[subclient.all]\nvolumes = ["{name}"]\npolicy = "often"'
)

Process = subprocess.Popen[str]


@dataclass
class Copied:
    """A mounted volume that has changed since its last point, and the disks of it."""

    name: str
    mount_point: Path
    primary: FaultyDisk
    recovery: str
    point: str
    content: str

    @property
    def snapshots(self) -> list[str]:
        return [name for name in dm_devices() if "-point-" in name]

    def is_at(self, step: str) -> bool:
        """Whether a command is in that step now; an apply has said so in the label, too."""
        begun = catalogue_rows("SELECT name FROM job_step WHERE state = 'begun'")
        applying = step != "apply" or label_on(self.recovery)["state"] == "applying"
        return (step,) in begun and applying

    def waits_for_disk(self) -> bool:
        """Whether somebody reads the point, of which nothing comes back."""
        return bool(self.snapshots and any(map(requests_under_way, self.snapshots)))


@contextmanager
def copied(lab: Lab) -> Iterator[Copied]:
    with faulty_disk(lab, SIZE) as primary:
        recovery = lab.disk(RECOVERY_SIZE)
        mount_point = lab.mounted(primary.path, options=UNHURRIED["ext4"])
        (mount_point / "file").write_text("one")
        name = lab.protect(primary.path, recovery, "--full")  # free blocks are compared, too
        point, content = label_on(recovery)["point_uuid"], sha256(recovery, SIZE)
        (mount_point / "file").write_text("two")
        with (mount_point / "changed").open("wb") as file:
            for _ in range(CHANGED_BYTES // MIB):
                file.write(os.urandom(MIB))
        run("sync", "-f", mount_point)
        yield Copied(name, mount_point, primary, recovery, point, content)
        dmsnap("unprotect", name)
        run("umount", mount_point)
        lab.take_down()


@contextmanager
def copying(volume: Copied, *words: str, at: str) -> Iterator[Process]:
    """A command as a process of its own, until it is in a step."""
    process = dmsnap_process(*words)
    try:
        until(lambda: volume.is_at(at), f"the copy has begun to {at}")
        yield process
    finally:
        process.kill()
        process.wait(BOUND_SECONDS)


@contextmanager
def holding(disk: FaultyDisk) -> Iterator[None]:
    """All reads are under way, at a disk that cannot be failed."""
    disk.load(((0, disk.size_bytes), "hold_reads"))
    try:
        yield
    finally:
        disk.load()


def check_ended(process: Process) -> str:
    """The process is gone, and was heard of; gives what it said."""
    _, said = process.communicate(timeout=BOUND_SECONDS)
    assert process.returncode != 0
    assert "Traceback" not in said
    return said


def check_swapped(volume: Copied) -> None:
    """The last whole point serves, byte for byte, and nobody holds anything up."""
    label = label_on(volume.recovery)
    assert (label["state"], label["point_uuid"]) == ("consistent", volume.point)
    assert sha256(volume.recovery, SIZE) == volume.content
    run("e2fsck", "-fn", volume.recovery)
    assert (volume.mount_point / "file").read_text() == "one"
    assert not (volume.mount_point / "changed").exists()
    assert locks_held() == []


def check_goes_on(volume: Copied) -> None:
    """With the disk there again: what was cut off leaves nothing, and copies are copies."""
    dmsnap("swap", "revert", volume.name)
    assert (volume.mount_point / "file").read_text() == "two"
    run("umount", volume.mount_point)
    dmsnap("sync", volume.name, "--audit", "full")
    assert sha256(f"/dev/mapper/{volume.name}") == sha256(volume.recovery, SIZE)
    run("mount", f"/dev/mapper/{volume.name}", volume.mount_point)
    assert volume.snapshots == []
    assert suspended() == []
    (status,) = dmsnap("status", volume.name)
    assert status["problems"] == []


def swapped(volume: Copied, *options: str) -> None:
    begun = time.monotonic()
    dmsnap("swap", volume.name, *options)
    assert time.monotonic() - begun < BOUND_SECONDS


def on_disk(lab: Lab, primary: FaultyDisk) -> Protected:
    fill(primary.device, SIZE)
    recovery = lab.disk(RECOVERY_SIZE)
    return Protected(lab.protect(primary.path, recovery), primary.path, recovery, SIZE)


def flushing(path: str) -> bool:
    """Whether a program waits for that."""
    return str(Path(path).resolve()) in run("pgrep", "-x", "-a", "sync", expected=None)


@pytest.mark.selection
@pytest.mark.usefixtures("no_write_back")
@pytest.mark.parametrize("operation", ["sync", rarely("verify"), rarely("run")])
def test_a_copy_whose_primary_is_suspended(lab: Lab, operation: str) -> None:
    """What it waits for is failed, so that it takes back what it began."""
    with copied(lab) as volume:
        words, at = {
            "sync": (("sync", volume.name, *BANDWIDTH), "apply"),
            "verify": (("verify", volume.name, "--full"), "compare"),
            "run": (("run", "often"), "apply"),
        }[operation]
        if operation == "verify":
            volume.primary.delay_reads(300)
        policy = POLICY.format(name=volume.name) if operation == "run" else ""
        with (
            configured(*PATIENCE, BY_ITSELF, policy),
            copying(volume, *words, at=at) as process,
            volume.primary.suspended(),
        ):
            until(volume.waits_for_disk, "the copy waits for the disk")
            swapped(volume, "--fail-primary")
            assert check_ended(process)
            assert suspended() == [volume.primary.name]
            check_swapped(volume)
            assert dmsnap("job", "list")[1]["state"] in ("undone", "failed")
        volume.primary.load()
        check_goes_on(volume)


@pytest.mark.usefixtures("no_write_back")
@pytest.mark.parametrize("at", ["write-undo", rarely("apply")])
def test_a_copy_whose_primary_cannot_be_failed(lab: Lab, at: str) -> None:
    """It is killed, and what it left of the recovery volume is rolled back."""
    with copied(lab) as volume:
        with (
            configured(*PATIENCE, KILLED),
            copying(volume, "sync", volume.name, *BANDWIDTH, at=at) as process,
            holding(volume.primary),
        ):
            until(volume.waits_for_disk, "the copy waits for the disk")
            swapped(volume)
            check_ended(process)
            assert process.returncode == -signal.SIGKILL
            assert suspended() == []
            check_swapped(volume)
            assert dmsnap("job", "list")[1]["state"] == "undone"
        until(lambda: not volume.waits_for_disk(), "what it had under way comes back")
        check_goes_on(volume)


@pytest.mark.usefixtures("no_write_back")
def test_a_point_that_waits_for_its_primary(lab: Lab) -> None:
    """What is dirty is written out before its window, where nothing but the disk ends it."""
    with copied(lab) as volume:
        (volume.mount_point / "file").write_text("three")
        with configured(*PATIENCE, BY_ITSELF), volume.primary.suspended():
            process = dmsnap_process("point", "create", volume.name)
            until(lambda: requests_under_way(volume.name), "the front waits for the disk")
            swapped(volume, "--fail-primary")
            check_ended(process)
            check_swapped(volume)
        dmsnap("swap", "revert", volume.name)
        dmsnap("sync", volume.name, "--audit", "full")


@pytest.mark.usefixtures("no_write_back")
def test_a_copy_that_gets_on_is_ended_by_kill_alone(lab: Lab) -> None:
    with (
        copied(lab) as volume,
        configured(*PATIENCE, BY_ITSELF),
        copying(volume, "sync", volume.name, "--bandwidth", "3MiB", at="write-undo") as process,
    ):
        for options in ((), ("--fail-primary",)):
            error = dmsnap("swap", volume.name, *options, expected=ExitCode.LOCKED)
            assert f"dmsnap sync {volume.name}" in error["error"]
            assert f"dmsnap swap {volume.name} --kill" in error["hint"]
        assert "--kill" not in refused(ExitCode.LOCKED, "swap", volume.name, "--kill", "--dry-run")
        assert process.poll() is None
        swapped(volume, "--kill")
        assert "interrupted" in check_ended(process)
        check_swapped(volume)
        assert dmsnap("job", "list")[1]["state"] == "undone"
        check_goes_on(volume)


def test_a_copy_that_waits_for_a_flush_can_be_killed(lab: Lab) -> None:
    """The last that it asks of the primary; whoever waits for one himself would be beyond reach."""
    with faulty_disk(lab, SIZE) as primary:
        volume = on_disk(lab, primary)
        before, content = volume.label(), volume.replica_sha256()
        write_direct(volume.front, os.urandom(MIB), MIB)
        primary.load(((0, SIZE), "hold_flushes"))
        try:
            with configured(*PATIENCE, BY_ITSELF):
                process = dmsnap_process("sync", volume.name)
                until(lambda: flushing(primary.path), "the sync waits for the flush", BOUND_SECONDS)
                assert volume.label()["state"] == "applying"
                dmsnap("swap", volume.name, "--kill")
                check_ended(process)
                after = volume.label()
                assert (after["state"], after["point_uuid"]) == ("consistent", before["point_uuid"])
                assert sha256(volume.front) == content
        finally:
            primary.load()
        until(lambda: not flushing(primary.path), "who was left at the disk ends")
        dmsnap("swap", "revert", volume.name)
        volume.sync("--audit", "full")
        volume.check_equal()
        dmsnap("unprotect", volume.name)
        lab.take_down()


def test_the_snapshot_of_a_killed_copy_is_left_where_its_removal_would_hang(lab: Lab) -> None:
    """What somebody writes waits for the old content, which is on its way to the snapshot."""
    with faulty_disk(lab, SIZE) as primary:
        volume = on_disk(lab, primary)
        at = step_at("apply", "sync", volume.name)
        forked("sync", volume.name, at=(at, "begun"), send=(signal.SIGKILL,))
        words = ("dd", "if=/dev/urandom", f"of={volume.front}", "bs=4k", "count=1", "oflag=direct")
        with configured(*PATIENCE), holding(primary):
            writer = subprocess.Popen(words, stderr=subprocess.DEVNULL)
            until(lambda: requests_under_way(volume.name), "the write waits for the disk")
            swap = dmsnap_process("swap", volume.name, "--json")
            until(lambda: swap.poll() is not None, "the swap ends", BOUND_SECONDS)
            error = written(*swap.communicate())
            assert error["exit_code"] == ExitCode.DEADLINE
            assert "have not come back" in error["error"]
        assert writer.wait(BOUND_SECONDS) == 0
        volume.sync("--audit", "full")
        volume.check_equal()
        check_tidy(volume, lab)
        dmsnap("unprotect", volume.name)
        lab.take_down()
