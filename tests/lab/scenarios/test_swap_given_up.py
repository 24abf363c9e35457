"""A trial that no boot can build again is given up: the volume serves from its primary."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import (
    MIB,
    Lab,
    catalogue_rows,
    dm_devices,
    dmsnap,
    forked,
    rarely,
    refused,
    sha256,
    world,
)
from hosts import THERE
from lost_state import lose_disk, lose_stack, write_label
from raw_volume import write_direct

from dmsnap.errors import ExitCode

SIZE = 32 * MIB
RECOVERY_SIZE = 48 * MIB


@dataclass
class Stranded:
    """A volume in trial after a boot: its replica said "one", its primary "two"."""

    lab: Lab
    name: str
    recovery: str
    mount_point: Path

    @property
    def note(self) -> str:
        return (self.mount_point / "note").read_text()

    def require_back(self) -> None:
        """It serves from the primary, and nothing of the trial is left."""
        assert self.note == "two"
        assert not (self.mount_point / "trial").exists()
        assert sorted(dm_devices()) == sorted([self.name, f"dmsnap-{self.name}-origin-1"])
        assert catalogue_rows("select role from area") == [("era-metadata",)]
        assert len(list((self.lab.directory / "store").iterdir())) == 1


@contextmanager
def in_trial(lab: Lab) -> Iterator[Stranded]:
    """A boot has just been."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    mount_point = lab.mounted(primary, options="noatime")
    (mount_point / "note").write_text("one")
    name = lab.protect(primary, recovery)
    (mount_point / "note").write_text("two")
    dmsnap("swap", name)
    (mount_point / "trial").write_text("lost")
    lose_stack(lab, mount_point)
    yield Stranded(lab, name, recovery, mount_point)
    lab.close()


def store_of(role: str) -> Path:
    rows = catalogue_rows("select path, role from area")
    (path,) = (path for path, found in rows if found == role)
    return Path(path)


def gone(lost: Stranded) -> None:
    lose_disk(lost.lab, lost.recovery)


def taken_over(lost: Stranded) -> None:
    write_label(lost.recovery, host_uuid=THERE, host="elsewhere", lease_time_ns=10**18)


def without_overlay(lost: Stranded) -> None:
    store_of("overlay").unlink()


def with_a_spoiled_overlay(lost: Stranded) -> None:
    with store_of("overlay").open("r+b") as store:
        store.write(os.urandom(4096))
        os.fsync(store.fileno())


def with_an_emptied_overlay(lost: Stranded) -> None:
    """To the kernel a store that is yet to be made."""
    with store_of("overlay").open("r+b") as store:
        store.write(bytes(4096))
        os.fsync(store.fileno())


@pytest.mark.parametrize(
    "fault", [gone, taken_over, without_overlay, with_a_spoiled_overlay, with_an_emptied_overlay]
)
def test_back_to_the_primary(lab: Lab, fault: Callable[[Stranded], None]) -> None:
    """What the recovery volume holds, its label too, is nobody's to change here."""
    with in_trial(lab) as lost:
        fault(lost)
        before = None if fault is gone else sha256(lost.recovery)
        error = dmsnap("assemble", lost.name, expected=None)
        assert f"dmsnap swap revert {lost.name}" in error["hint"], error
        assert lost.name not in dm_devices()
        (status,) = dmsnap("status", lost.name, expected=ExitCode.UNHEALTHY)
        assert f"dmsnap swap revert {lost.name}" in " ".join(status["problems"]), status
        shown = world(lab)
        dmsnap("swap", "revert", lost.name, "--dry-run")
        assert world(lab) == shown

        result = dmsnap("swap", "revert", lost.name)
        assert result["state"] == "protected"
        assert "given up" in result["given_up"]
        assert lost.recovery in result["given_up"]
        lost.require_back()
        if fault in (gone, taken_over):
            assert before is None or sha256(lost.recovery) == before
            recovery = lab.disk(RECOVERY_SIZE)
            dmsnap("unprotect", lost.name)
            dmsnap("protect", lab.loops[0], "--name", lost.name, "--recovery", recovery,
                   "--store", lab.store())  # fmt: skip
        else:
            # Who wrote to the primary since the boot is not known.
            assert dmsnap("sync", lost.name, "--audit", "full")["tracker"] == "compare"
        dmsnap("status", lost.name)


def test_a_trial_that_is_served_is_reverted_as_ever(lab: Lab) -> None:
    with in_trial(lab) as lost:
        dmsnap("assemble", lost.name)
        assert (lost.mount_point / "trial").read_text() == "lost"
        assert dmsnap("swap", "revert", lost.name)["given_up"] is None
        assert lost.note == "two"


@pytest.mark.parametrize("state", ["begun", "done"])
@pytest.mark.parametrize("number", [0, 1, 2, rarely(3), rarely(4), rarely(5), rarely(6)])
def test_killed_at_a_step(lab: Lab, number: int, state: str) -> None:
    """Whatever was done, the next command ends it, or it is begun anew."""
    with in_trial(lab) as lost:
        gone(lost)
        ended = forked("swap", "revert", lost.name, at=(number, state), send=(signal.SIGKILL,))
        if ended.code == ExitCode.OK:
            pytest.skip(f"it has no step {number}")
        assert ended.code == -signal.SIGKILL, ended
        dmsnap("job", "resume", "--all")
        lost.require_back()
        ((tracking,),) = catalogue_rows("select tracking_id from volume where removed_ns is null")
        assert (tracking,) not in catalogue_rows("select tracking_id from point")


@pytest.mark.parametrize("spoil", [bytes(4096), rarely(os.urandom(4096))], ids=["empty", "other"])
def test_a_live_point_whose_store_is_damaged(lab: Lab, spoil: bytes) -> None:
    """The kernel would take a header of zeroes for a store that is yet to be made, and show the
    primary as it is as the point.
    """
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    name = lab.protect(primary, recovery)
    front = f"/dev/mapper/{name}"
    write_direct(front, os.urandom(MIB), 0)
    (point,) = dmsnap("point", "create", name)
    write_direct(front, os.urandom(MIB), 0)
    now = sha256(front)
    dmsnap("swap", name, "--to", point["id"])
    lose_stack(lab)
    with store_of("cow").open("r+b") as store:
        store.write(spoil)
        os.fsync(store.fileno())
    for words in (["assemble", "--boot"], ["assemble"]):
        assert point["id"] in refused(ExitCode.POINT_INVALID, *words, name)
        assert name not in dm_devices()
        ((reason,),) = catalogue_rows(
            f"select invalid_reason from point where id = '{point['id']}'"  # noqa: S608
        )
        assert "COW store" in reason, reason
    with store_of("cow").open("rb") as store:
        assert store.read(4096) == spoil
    dmsnap("swap", "revert", name)
    assert sha256(front) == now
    assert point["id"] not in [each["id"] for each in dmsnap("point", "list", name)
                               if each["places"]]  # fmt: skip
    dmsnap("sync", name, "--audit", "full")
    dmsnap("status", name)
