"""Trials and commits whose disk is gone for good: what is left is had again, by a command."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    MIB,
    Lab,
    catalogue_rows,
    checkered,
    dm_devices,
    dmsnap,
    forked,
    loop_files,
    refused,
    run,
    sha256,
    step_at,
    suspended,
    world,
)
from failing_stage import before_first_call
from faulty_disk import FaultyDisk, faulty_disk
from lost_state import lose_stack, points_on
from raw_volume import write_direct

from dmsnap.errors import ExitCode
from dmsnap.service.swaps import merging

SIZE = 32 * MIB
RECOVERY_SIZE = 64 * MIB


@dataclass
class Bed:
    """A mounted volume: its point before the last says "one", that "two", and it "three"."""

    lab: Lab
    name: str
    primary: FaultyDisk
    recovery: FaultyDisk
    mount_point: Path
    points: list[str]
    monkeypatch: pytest.MonkeyPatch

    @property
    def note(self) -> str:
        return (self.mount_point / "note").read_text()

    def write(self, text: str) -> None:
        (self.mount_point / "note").write_text(text)
        run("sync", "-f", self.mount_point)

    def boot(self) -> None:
        """Without what was mounted; what fails goes on failing."""
        lose_stack(self.lab, self.mount_point)

    def state(self) -> str:
        (status,) = dmsnap("status", self.name, expected=None)
        return str(status["state"])

    def problems(self) -> str:
        (status,) = dmsnap("status", self.name, expected=ExitCode.UNHEALTHY)
        return " | ".join(status["problems"])

    def commit_into(self, *options: str) -> None:
        """A commit that a disk keeps from its end, which fails when the merge begins."""
        self.fail_merge(self.recovery)
        refused(ExitCode.POINT_INVALID, "swap", "commit", self.name, *options)
        assert self.state() == "committing"
        assert suspended() == []

    def fail_merge(self, disk: FaultyDisk) -> None:
        action = partial(disk.load, ((0, SIZE), "error_writes"))
        before_first_call(self.monkeypatch, merging, "_exchange", action)


@contextmanager
def bed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bed]:
    monkeypatch.setattr(merging, "MERGE_SECONDS", 60.0)
    with faulty_disk(lab, SIZE) as primary, faulty_disk(lab, RECOVERY_SIZE) as recovery:
        mount_point = lab.mounted(primary.path, options="noatime")
        made = Bed(lab, "", primary, recovery, mount_point, [], monkeypatch)
        made.write("one")
        made.name = lab.protect(primary.path, recovery.path)
        made.write("two")
        dmsnap("sync", made.name)
        made.points += points_on(made.name)
        made.write("three")
        try:
            yield made
        finally:
            for disk in (primary, recovery):
                if disk.device.exists():
                    disk.load()
            lab.take_down()


def gets_another_recovery_volume(made: Bed) -> None:
    """As the manual has it for a recovery volume that is lost."""
    dmsnap("unprotect", made.name)
    dmsnap(
        "protect", made.primary.path, "--name", made.name, "--recovery",
        made.lab.disk(RECOVERY_SIZE), "--store", made.lab.store(),
    )  # fmt: skip
    made.write("four")
    assert dmsnap("sync", made.name, "--audit", "full")["audit"]["bytes_different"] == 0
    dmsnap("status", made.name)


@pytest.mark.parametrize("booted", [False, True], ids=["served", "booted"])
@pytest.mark.parametrize("steps_back", [0, 1])
def test_a_commit_whose_recovery_volume_is_gone(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, steps_back: int, booted: bool
) -> None:
    """The volume is on its own device as it was left."""
    with bed(lab, monkeypatch) as made:
        name = made.name
        dmsnap("swap", name, *(["--to", made.points[1]] if steps_back else []))
        assert made.note == ("one" if steps_back else "two")
        made.write("trial")
        made.commit_into()
        if booted:
            made.boot()
            made.recovery.unplug()
        else:
            made.recovery.load(((0, RECOVERY_SIZE), "error"))
        for words in (["swap", "revert"], ["unprotect"], ["swap", "commit"]):
            dmsnap(*words, name, "--dry-run", expected=None)
        error = dmsnap("swap", "revert", name, expected=ExitCode.WRONG_STATE)
        assert "--give-up" in error["hint"], error
        error = dmsnap("unprotect", name, expected=ExitCode.WRONG_STATE)
        assert f"dmsnap swap revert {name} --give-up" in error["hint"], error
        assert f"dmsnap swap revert {name} --give-up" in made.problems()
        shown = world(lab)
        dmsnap("swap", "revert", name, "--give-up", "--dry-run")
        assert world(lab) == shown

        result = dmsnap("swap", "revert", name, "--give-up")
        assert (result["state"], made.note) == ("protected", "three")
        assert "given up" in result["given_up"]
        assert made.recovery.path in result["given_up"]
        assert sorted(dm_devices()) == sorted([name, f"dmsnap-{name}-origin-1"])
        assert catalogue_rows("select role from area") == [("era-metadata",)]
        made.write("three and more")
        assert not [job for job in dmsnap("job", "list") if job["state"] == "cut off"]
        gets_another_recovery_volume(made)


def test_a_recovery_volume_that_is_half_merged_is_no_point(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is well again when it is too late: nothing is shown of it, and nothing synced to it
    as if it were whole.
    """
    with bed(lab, monkeypatch) as made:
        dmsnap("swap", made.name)
        made.write("trial")
        made.commit_into()
        dmsnap("swap", "revert", made.name, "--give-up")
        made.recovery.load()
        assert "merging" in made.problems()
        for command, code in (("sync", ExitCode.WRONG_STATE), ("swap", ExitCode.POINT_INVALID)):
            assert "merging" in refused(code, command, made.name)
        assert made.note == "three"
        (listed,) = {bool(point["places"]) for point in dmsnap("point", "list", made.name)}
        assert not listed
        # It is one again when it was copied in full.
        dmsnap("unprotect", made.name)
        dmsnap("protect", made.primary.path, "--name", made.name, "--recovery",
               made.recovery.path, "--store", lab.store(), "--overwrite")  # fmt: skip
        assert dmsnap("sync", made.name, "--audit", "full")["audit"]["bytes_different"] == 0


def test_what_can_go_on_is_not_given_up(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost that a command could keep: not a trial, nor a commit after a boot."""
    with bed(lab, monkeypatch) as made:
        name = made.name
        error = dmsnap("swap", "revert", name, "--give-up", expected=ExitCode.WRONG_STATE)
        assert "protected" in error["error"]
        refused(ExitCode.WRONG_STATE, "unprotect", name, "--give-up")
        dmsnap("swap", name)
        made.write("trial")
        error = dmsnap("unprotect", name, "--give-up", expected=ExitCode.WRONG_STATE)
        assert f"dmsnap swap revert {name}" in error["hint"], error
        made.commit_into()
        made.boot()
        # A boot that came before the disk did: the stack is not there.
        made.recovery.unplug()
        refused(ExitCode.NOT_FOUND, "assemble", name)
        made.recovery.plug_in()
        for words in (["swap", "revert"], ["unprotect"]):
            error = dmsnap(*words, name, "--give-up", expected=ExitCode.WRONG_STATE)
            assert f"dmsnap assemble {name}" in error["hint"], error
        # It is built again by hand, too, and the commit comes to its end with all of the trial.
        dmsnap("assemble", name)
        assert made.note == "trial"
        if made.state() != "promoted":
            assert dmsnap("swap", "commit", name)["state"] == "promoted"
        assert made.note == "trial"


GIVING_UP = [("swap", "revert"), ("unprotect",)]


@pytest.mark.parametrize("words", GIVING_UP, ids=["revert", "unprotect"])
def test_a_commit_whose_disk_is_well_again_is_not_given_up(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """Nothing is lost that was written since the swap: holding the volume brings it to its end."""
    with bed(lab, monkeypatch) as made:
        dmsnap("swap", made.name)
        made.write("trial")
        made.commit_into()
        made.recovery.load()
        dmsnap(*words, made.name, "--give-up", expected=ExitCode.WRONG_STATE)
        if made.state() == "committing":
            dmsnap("swap", "commit", made.name)
        assert (made.state(), made.note) == ("promoted", "trial")


def test_a_live_point_whose_disk_is_well_again_is_not_given_up(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The volume's own device would be left half of one thing and half of another."""
    with bed(lab, monkeypatch) as made:
        (point,) = dmsnap("point", "create", made.name)
        made.write("after the point")
        dmsnap("swap", made.name, "--to", point["id"])
        made.write("trial")
        made.fail_merge(made.primary)
        refused(ExitCode.POINT_INVALID, "swap", "commit", made.name, "--drop-points")
        made.primary.load()
        dmsnap("unprotect", made.name, "--give-up", expected=ExitCode.WRONG_STATE)
        if made.state() == "committing":
            dmsnap("swap", "commit", made.name)
        assert (made.state(), made.note) == ("protected", "trial")


def test_a_commit_that_fails_again_and_again_is_one_job(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not twice as many with every command, of which the next one would try each."""
    with bed(lab, monkeypatch) as made:
        dmsnap("swap", made.name)
        made.write("trial")
        made.commit_into()
        (first,) = cut_off()
        for words in (["swap", "commit"], ["sync"], ["swap", "commit"], ["point", "create"]):
            error = dmsnap(*words, made.name, expected=None)
            assert error.get("exit_code"), (words, error)
        dmsnap("job", "resume", "--all", expected=None)
        assert [job["id"] for job in cut_off()] == [first["id"]]
        made.recovery.load()
        dmsnap("job", "resume", "--all")
        assert (made.state(), made.note, cut_off()) == ("promoted", "trial", [])


def cut_off() -> list[dict[str, Any]]:
    return [job for job in dmsnap("job", "list") if job["state"] == "cut off"]


@pytest.mark.parametrize("committing", [False, True], ids=["trial", "committing"])
def test_a_live_point_whose_volume_is_gone(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, committing: bool
) -> None:
    """The recovery volume is whole: it serves, by its label."""
    with bed(lab, monkeypatch) as made:
        name = made.name
        (point,) = dmsnap("point", "create", name)
        made.write("after the point")
        dmsnap("swap", name, "--to", point["id"])
        assert made.note == "three"
        made.write("trial")
        if committing:
            made.fail_merge(made.primary)
            refused(ExitCode.POINT_INVALID, "swap", "commit", name, "--drop-points")
            assert made.state() == "committing"
        made.boot()
        made.primary.unplug()
        for words in (["swap", "revert"], ["swap", "commit"], ["swap"], ["unprotect"]):
            error = dmsnap(*words, name, expected=None)
            assert error.get("exit_code"), (words, error)
        assert f"dmsnap unprotect {name} --give-up" in error["hint"], error
        dmsnap("unprotect", name, "--give-up")
        assert dmsnap("status") == []
        assert dm_devices() == []
        assert list(Path(lab.store()).iterdir()) == []
        dmsnap("swap", "--from-label", made.recovery.path, "--store", lab.store())
        assert made.note == "two"


def test_a_recovery_by_its_label_that_is_gone_in_its_commit(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no volume to go back to: the host is free of it."""
    with bed(lab, monkeypatch) as made:
        name = made.name
        dmsnap("unprotect", name)
        run("umount", made.mount_point)
        made.primary.unplug()
        dmsnap("swap", "--from-label", made.recovery.path, "--store", lab.store())
        made.write("trial")
        made.commit_into()
        error = dmsnap("swap", "revert", name, "--give-up", expected=ExitCode.WRONG_STATE)
        assert "no volume to go back to" in error["error"]
        assert f"dmsnap unprotect {name} --give-up" in error["hint"], error
        made.recovery.load(((0, RECOVERY_SIZE), "error"))
        dmsnap("unprotect", name, "--give-up")
        assert dmsnap("status") == []
        assert dm_devices() == []
        assert list(Path(lab.store()).iterdir()) == []
        assert not os.path.ismount(made.mount_point)


def test_both_devices_of_a_trial_are_gone(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with bed(lab, monkeypatch) as made:
        dmsnap("swap", made.name)
        made.boot()
        made.primary.unplug()
        made.recovery.unplug()
        for words in (["swap", "revert"], ["swap", "commit"], ["assemble"]):
            error = dmsnap(*words, made.name, expected=None)
            assert error.get("exit_code"), (words, error)
        error = dmsnap("unprotect", made.name, expected=ExitCode.WRONG_STATE)
        assert f"dmsnap unprotect {made.name} --give-up" in error["hint"], error
        dmsnap("unprotect", made.name, "--give-up")
        assert dmsnap("status") == []
        assert dm_devices() == []
        assert list(Path(lab.store()).iterdir()) == []


@pytest.mark.parametrize(("words", "number"), checkered(GIVING_UP, range(8)))
def test_killed_while_it_is_given_up(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], number: int
) -> None:
    """The next command ends it, or it is begun anew; nothing of a commit is left."""
    with bed(lab, monkeypatch) as made:
        name = made.name
        dmsnap("swap", name)
        made.write("trial")
        made.commit_into()
        made.boot()
        made.recovery.unplug()
        if words == ("unprotect",):
            made.primary.unplug()
        ended = forked(*words, name, "--give-up", at=(number, "done"), send=(9,))
        if ended.code == ExitCode.OK:
            pytest.skip(f"it has no step {number}")
        assert ended.code == -9, ended
        dmsnap("job", "resume", "--all", expected=None)
        if dmsnap("status", expected=None) and made.state() == "committing":
            dmsnap(*words, name, "--give-up")
        assert suspended() == []
        if words == ("unprotect",):
            assert dmsnap("status") == []
            assert dm_devices() == []
            assert list(Path(lab.store()).iterdir()) == []
            return
        assert (made.state(), made.note) == ("protected", "three")
        assert sorted(dm_devices()) == sorted([name, f"dmsnap-{name}-origin-1"])
        assert catalogue_rows("select role from area") == [("era-metadata",)]


def test_killed_while_a_commit_that_was_begun_anew_is_given_up(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other device of the overlay's store goes, too, with the overlay."""
    with bed(lab, monkeypatch) as made:
        words = ("swap", "revert", made.name, "--give-up")
        dmsnap("swap", made.name)
        made.write("trial")
        made.commit_into()
        made.recovery.load()
        made.commit_into()
        assert f"dmsnap-{made.name}-origin-2-store" in dm_devices()
        ended = forked(*words, at=(step_at("record", *words), "done"), send=(9,))
        assert ended.code == -9, ended
        dmsnap("job", "resume", "--all", expected=None)
        assert (made.state(), made.note) == ("protected", "three")
        assert sorted(dm_devices()) == sorted([made.name, f"dmsnap-{made.name}-origin-1"])
        assert catalogue_rows("select role from area") == [("era-metadata",)]
        assert [file for file in loop_files() if "deleted" in file] == []


# after a commit


def fails(disk: FaultyDisk) -> None:
    disk.load(((0, disk.size_bytes), "error"))


def is_gone(disk: FaultyDisk) -> None:
    disk.unplug()


@pytest.mark.parametrize("fault", [fails, is_gone])
def test_a_promoted_volume_whose_device_is_gone(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, fault: Callable[[FaultyDisk], None]
) -> None:
    """The former device holds what it held at the swap, and is anybody's."""
    with bed(lab, monkeypatch) as made:
        name = made.name
        dmsnap("swap", name)
        made.write("trial")
        dmsnap("swap", "commit", name)
        if fault is fails:
            fault(made.recovery)
            refused_or_failed(name)
            dmsnap("unprotect", name)
        else:
            made.boot()
            fault(made.recovery)
            refused_or_failed(name)
            dmsnap("unprotect", name)
        assert dmsnap("status") == []
        assert dm_devices() == []
        assert suspended() == []
        dmsnap("protect", made.primary.path, "--name", name, "--recovery",
               lab.disk(RECOVERY_SIZE), "--store", lab.store())  # fmt: skip
        run("mount", f"/dev/mapper/{name}", made.mount_point)
        assert made.note == "three"
        made.write("four")
        assert dmsnap("sync", name, "--audit", "full")["audit"]["bytes_different"] == 0


def refused_or_failed(name: str) -> None:
    """No other command can do anything for it."""
    for words in (["failback"], ["sync"]):
        error = dmsnap(*words, name, expected=None)
        assert error.get("exit_code"), (words, error)


def test_a_move_whose_new_device_fails_is_given_up(lab: Lab) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    name = lab.protect(primary, recovery)
    write_direct(f"/dev/mapper/{name}", os.urandom(MIB), 0)
    content = sha256(f"/dev/mapper/{name}")
    with faulty_disk(lab, SIZE) as disk:
        ended = forked("hydrate", name, "--onto", disk.path, at=(1, "done"), send=(9,))
        assert ended.code == -9, ended
        disk.load(((0, SIZE), "error"))
        dmsnap("hydrate", name, "--abandon")
        (status,) = dmsnap("status", name)
        assert (status["hydration"], status["device"]) == (None, primary)
        assert sha256(f"/dev/mapper/{name}") == content
        assert [device for device in dm_devices() if "hydrated" in device] == []
