"""Swapping when the host was started anew without its primary, or with one that is no good."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import (
    MIB,
    Lab,
    dm_devices,
    dmsnap,
    forked,
    refused,
    run,
    suspended,
    wait_until,
    world,
)
from faulty_disk import FaultyDisk, faulty_disk
from lost_state import lose_stack

from dmsnap.errors import ExitCode

SIZE = 32 * MIB
RECOVERY_SIZE = 48 * MIB


@dataclass
class Lost:
    """A mounted volume whose recovery volume says "one" and whose primary said "two"."""

    lab: Lab
    disk: FaultyDisk
    name: str
    recovery: str
    mount_point: Path

    @property
    def note(self) -> str:
        return (self.mount_point / "note").read_text()

    def boot(self, fault: str) -> None:
        """Without the primary, or with one that answers every request with EIO."""
        lose_stack(self.lab, self.mount_point)
        if fault == "gone":
            self.disk.unplug()
        elif fault == "failing":
            self.disk.load(((0, SIZE), "error"))

    def step(self, *words: str, begins: str) -> int:
        """The number of a step of a command."""
        steps = dmsnap(*words, "--dry-run")["steps"]
        (found,) = (at for at, step in enumerate(steps) if step.startswith(begins))
        return found

    def require_in_trial(self) -> None:
        assert self.note == "one"
        (status,) = dmsnap("status", self.name, expected=None)
        assert status["state"] == "trial"
        options = run("findmnt", "-no", "SOURCE,OPTIONS", "-M", self.mount_point)
        assert options.split()[0] == f"/dev/mapper/{self.name}"
        assert "noatime" in options
        (self.mount_point / "probe").write_text("x")
        run("sync", "-f", self.mount_point)


@contextmanager
def volume(lab: Lab) -> Iterator[Lost]:
    with faulty_disk(lab, SIZE) as disk:
        recovery = lab.disk(RECOVERY_SIZE)
        mount_point = lab.mounted(disk.path, options="noatime")
        (mount_point / "note").write_text("one")
        name = lab.protect(disk.path, recovery)
        (mount_point / "note").write_text("two")
        run("sync", "-f", mount_point)
        yield Lost(lab, disk, name, recovery, mount_point)
        lab.close()


@pytest.mark.parametrize("fault", ["gone", "failing"])
def test_after_a_boot_without_the_primary(lab: Lab, fault: str) -> None:
    """The volume is recovered by its name, kept, and gets a new recovery volume."""
    with volume(lab) as lost:
        name = lost.name
        lost.boot(fault)
        dmsnap("status", name, expected=ExitCode.UNHEALTHY)
        error = dmsnap("assemble", name, expected=None)
        assert f"dmsnap swap {name}" in error["hint"], error
        error = dmsnap("swap", "--from-label", lost.recovery, "--store", lab.store(), expected=7)
        assert f"dmsnap swap {name}" in error["hint"], error

        result = dmsnap("swap", name)
        assert {"create-front", "mount"} < set(result["steps"])
        assert not {"unmount", "reach-primary"} & set(result["steps"])
        lost.require_in_trial()

        # There is no primary to go back to: that is said before anything is unmounted.
        before = world(lab)
        error = dmsnap("swap", "revert", name, expected=None)
        assert f"dmsnap swap commit {name}" in error["hint"], error
        assert world(lab) == before

        (lost.mount_point / "trial").write_text("kept")
        assert dmsnap("swap", "commit", name)["state"] == "promoted"
        assert (lost.note, (lost.mount_point / "trial").read_text()) == ("one", "kept")
        dmsnap("attach", name, "--recovery", lab.disk(RECOVERY_SIZE))
        assert dmsnap("sync", name, "--audit", "full")["audit"]["bytes_different"] == 0
        assert dmsnap("status", name)[0]["state"] == "protected"
        dmsnap("unprotect", name)
        assert dm_devices() == []
        run("umount", lost.mount_point)
        run("e2fsck", "-fn", lost.recovery)


def test_the_primary_is_found_again(lab: Lab) -> None:
    """It was a cable: the trial ends as any other, and what nobody saw is compared."""
    with volume(lab) as lost:
        (point,) = dmsnap("point", "create", lost.name)
        lost.boot("gone")
        refused(ExitCode.STACK_CHANGED, "sync", lost.name)
        dmsnap("swap", lost.name)
        lost.require_in_trial()
        refused(ExitCode.NOT_FOUND, "swap", "revert", lost.name)
        lost.disk.plug_in()
        dmsnap("swap", "revert", lost.name)
        assert lost.note == "two"
        assert dmsnap("sync", lost.name)["tracker"] == "compare"
        (status,) = dmsnap("status", lost.name)
        assert status["problems"] == []
        # Its snapshot missed what was written: it is no point any more.
        assert point["id"] not in [each["id"] for each in dmsnap("point", "list", lost.name)
                                   if each["places"]]  # fmt: skip


def test_another_disk_at_its_place_is_not_gone_back_to(lab: Lab) -> None:
    with volume(lab) as lost:
        lost.boot("gone")
        dmsnap("swap", lost.name)
        run("dmsetup", "create", lost.disk.name, "--table",
            f"0 {RECOVERY_SIZE // 512} linear {lab.disk(RECOVERY_SIZE)} 0")  # fmt: skip
        run("dmsetup", "mknodes")
        run("dd", f"if={lost.recovery}", f"of={lost.disk.path}", "bs=1M", "oflag=direct")
        refused(ExitCode.FOREIGN_DEVICE, "swap", "revert", lost.name)
        lost.require_in_trial()


def test_a_signal_leaves_what_the_boot_left(lab: Lab) -> None:
    with volume(lab) as lost:
        lost.boot("gone")
        dmsnap("status", lost.name, expected=ExitCode.UNHEALTHY)
        before = world(lab)
        for begins in ("put it under", "mount "):
            at = (lost.step("swap", lost.name, begins=begins), "done")
            ended = forked("swap", lost.name, at=at, send=(signal.SIGTERM,))
            assert ended.code == 143, ended
            assert world(lab) == before
        dmsnap("swap", lost.name)
        lost.require_in_trial()


@pytest.mark.parametrize(
    ("begins", "state"),
    [("record that", "done"), ("put it under", "begun"), ("put it under", "done")],
)
def test_killed_behind_its_record_it_goes_on(lab: Lab, begins: str, state: str) -> None:
    """There is nothing to go back to: the next command, whatever it is, ends it."""
    with volume(lab) as lost:
        lost.boot("gone")
        at = (lost.step("swap", lost.name, begins=begins), state)
        ended = forked("swap", lost.name, at=at, send=(signal.SIGKILL,))
        assert ended.code == -signal.SIGKILL, ended
        dmsnap("job", "resume", "--all")
        lost.require_in_trial()
        (job,) = (each for each in dmsnap("job", "list") if each["operation"] == "swap")
        assert job["state"] == "done"


def test_killed_before_its_record_it_is_taken_back(lab: Lab) -> None:
    with volume(lab) as lost:
        lost.boot("gone")
        at = (lost.step("swap", lost.name, begins="show point"), "done")
        ended = forked("swap", lost.name, at=at, send=(signal.SIGKILL,))
        assert ended.code == -signal.SIGKILL, ended
        dmsnap("swap", lost.name)
        lost.require_in_trial()


def test_unprotect_without_the_device(lab: Lab) -> None:
    """It was mounted once, and cannot be any more; the recovery volume is there for others."""
    with volume(lab) as lost:
        lost.boot("gone")
        dmsnap("unprotect", lost.name)
        assert dmsnap("status") == []
        assert dm_devices() == []
        assert not os.path.ismount(lost.mount_point)
        lab.names.append(lost.name)
        dmsnap("swap", "--from-label", lost.recovery, "--store", lab.store())
        assert lost.note == "one"


# the primary is there, and cannot be mounted any more


def killed(lost: Lost, *, begins: str) -> None:
    """A swap, at the end of a step; then the primary fails."""
    at = (lost.step("swap", lost.name, begins=begins), "done")
    ended = forked("swap", lost.name, at=at, send=(signal.SIGKILL,))
    assert ended.code == -signal.SIGKILL, ended
    wait_until("nothing is suspended", lambda: suspended() == [])
    lost.disk.load(((0, SIZE), "error"))


def test_a_killed_swap_of_what_mounts_no_more_is_done_again(lab: Lab) -> None:
    with volume(lab) as lost:
        killed(lost, begins="unmount")
        dmsnap("swap", lost.name)
        lost.require_in_trial()
        dmsnap("swap", "commit", lost.name)
        assert lost.note == "one"


def test_a_swap_killed_at_its_record_goes_on_where_the_primary_mounts_no_more(lab: Lab) -> None:
    with volume(lab) as lost:
        killed(lost, begins="record that")
        dmsnap("swap", "commit", lost.name)
        assert lost.note == "one"
        assert dmsnap("status", lost.name, expected=None)[0]["state"] == "promoted"
        assert suspended() == []
