"""A disk that hangs under one volume: who looks at all is told which it is, and the rest."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import MIB, Lab, administrator, configured, dmsnap, dmsnap_process, rarely, run
from faulty_disk import FaultyDisk, faulty_disk
from patience import until
from test_swap_hanging import UNHURRIED, no_write_back

from dmsnap.errors import ExitCode

__all__ = ["no_write_back"]  # a fixture

SIZE = 32 * MIB
DISK_SIZE = 96 * MIB
# What a device is given, and what a guest takes to start Python, several times over.
ANSWER_SECONDS = 60
OURS = re.compile(r"ask-|dmsnap|python|dd$")


@dataclass
class Hung:
    """A volume, the disk of it that can hang, and what of it is to be named then."""

    name: str
    disk: FaultyDisk
    named: str

    @contextmanager
    def hanging(self) -> Iterator[None]:
        run("dmsetup", "suspend", "--noflush", "--nolockfs", self.disk.name)
        try:
            yield
        finally:
            run("dmsetup", "resume", self.disk.name)
            until(lambda: not left_behind(), "who was left behind at the disk ends")


def with_recovery(lab: Lab, disk: FaultyDisk) -> Hung:
    return Hung(lab.protect(lab.disk(SIZE), disk.path), disk, disk.path)


def with_primary(lab: Lab, disk: FaultyDisk) -> Hung:
    return Hung(lab.protect(disk.path, lab.disk(2 * DISK_SIZE)), disk, disk.path)


def with_directory(lab: Lab, disk: FaultyDisk) -> Hung:
    """The store is files of a file system on the disk."""
    store = lab.mounted(disk.path)
    name = lab.name()
    words = ("--name", name, "--recovery", lab.disk(DISK_SIZE), "--store", store)
    dmsnap("protect", lab.disk(SIZE), *words)
    return Hung(name, disk, str(store))


def with_group(lab: Lab, disk: FaultyDisk) -> Hung:
    """The store is a volume group on the disk."""
    group = lab.group(disk.path)
    name = lab.name()
    words = ("--name", name, "--recovery", lab.disk(DISK_SIZE), "--store", group)
    dmsnap("protect", lab.disk(SIZE), *words)
    return Hung(name, disk, group)


def with_live(lab: Lab, disk: FaultyDisk) -> Hung:
    """The front is the dm device of an LV on the disk, and the LV's own name leads to it."""
    group = lab.group(disk.path)
    device = f"/dev/{group}/data"
    past_twin = ("--config", 'devices/filter=["r|^/dev/loop|"]')  # what the disk lies on
    administrator("lvcreate", "-qq", *past_twin, "-y", "-n", "data", "-L", f"{SIZE}b", group)
    lab.mounted(device, options=UNHURRIED["ext4"])
    return Hung(lab.protect(device, lab.disk(DISK_SIZE), "--live"), disk, device)


def left_behind() -> list[str]:
    """The threads of ours that wait for a disk, and cannot be killed."""
    rows = [row.split(maxsplit=2) for row in run("ps", "-eLo", "stat=,tid=,comm=").splitlines()]
    return [f"{tid} {name}" for state, tid, name in rows if state[0] == "D" and OURS.match(name)]


def answered(*words: object, expected: int = ExitCode.UNHEALTHY) -> Any:
    """What a command says, which must not wait for the disk; who hangs is left to be killed."""
    process = dmsnap_process(*words, "--json")
    try:
        out, err = process.communicate(timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        raise AssertionError(f"dmsnap {words} hangs with the disk") from None
    assert process.returncode == expected, f"{process.returncode}: {out}{err}"
    return json.loads(out)


def problems_of(found: list[dict[str, Any]], name: str) -> list[str]:
    return [problem for each in found if each["volume"] == name for problem in each["problems"]]


# What is in a store tells only of a store that hangs.
OTHERS = (with_recovery, with_primary, with_live)
STORES = (with_directory, with_group)
MAKERS = [
    *((make, False) for make in OTHERS),
    *((make, True) for make in STORES),
    *(rarely(make, True) for make in OTHERS),
    *(rarely(make, False) for make in STORES),
]


@pytest.mark.parametrize(("make", "spares"), MAKERS)
def test_a_disk_that_hangs_is_named_and_the_rest_is_told(
    lab: Lab, make: Callable[[Lab, FaultyDisk], Hung], spares: bool
) -> None:
    """With spares, which are metadata that status reads, in the store."""
    settings = ["spare_from_bytes = 0"] if spares else [""]
    with configured(*settings), faulty_disk(lab, DISK_SIZE) as disk:
        hung, other = make(lab, disk), lab.protect(lab.disk(SIZE), lab.disk(DISK_SIZE))
        before = {each["volume"]: each for each in dmsnap("status")}
        with hung.hanging():
            found = answered("status")
            left = left_behind()
            assert problems_of(answered("status", hung.name), hung.name)
            # The second does not join the first, which is waiting there still.
            assert left_behind() == left
            text = answered("metrics", expected=ExitCode.OK)["text"]
            checks = answered("doctor", expected=ExitCode.FAILURE)["checks"]
        (problem,) = problems_of(found, hung.name)
        assert "does not answer" in problem
        assert hung.named in problem
        assert problems_of(found, other) == []
        (seen,) = [each for each in found if each["volume"] == other]
        assert seen["replica"]["point"] == before[other]["replica"]["point"]
        assert f'dmsnap_problems{{volume="{hung.name}"}} 1' in text
        assert f'dmsnap_problems{{volume="{other}"}} 0' in text
        silent = [check for check in checks if "does not answer" in check["sentence"]]
        assert any(hung.named in check["sentence"] for check in silent)
        for each in dmsnap("status"):
            assert each["problems"] == []
        dmsnap("unprotect", hung.name, "--forget")
        dmsnap("unprotect", other, "--forget")
        lab.take_down()


@pytest.mark.usefixtures("no_write_back")
def test_who_looks_at_a_live_volume_whose_disk_hangs_keeps_no_swap_from_it(lab: Lab) -> None:
    """The swap is what he is told to do. What he left behind waits for the disk, not the front."""
    with (
        configured("primary_wait_seconds = 3"),
        faulty_disk(lab, DISK_SIZE) as disk,
    ):
        hung = with_live(lab, disk)
        mount_point = lab.mounts[-1]
        number = Path(hung.named).stat().st_rdev
        front = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
        with hung.hanging():
            (problem,) = problems_of(answered("status"), hung.name)
            assert f"dmsnap swap {hung.name} puts" in problem
            assert left_behind()
            assert (front / "inflight").read_text().split() == ["0", "0"]
            dmsnap("swap", hung.name)
            (mount_point / "written").write_text("it serves")
        dmsnap("swap", "revert", hung.name)
        assert not (mount_point / "written").exists()
        dmsnap("unprotect", hung.name)
        lab.take_down()


def test_a_front_that_somebody_suspends_is_no_disk_that_hangs(lab: Lab) -> None:
    """Least of all is its volume to be swapped for that."""
    with faulty_disk(lab, DISK_SIZE) as disk:
        hung = with_live(lab, disk)
        front = Path(hung.named).resolve()
        run("dmsetup", "suspend", "--nolockfs", front)
        try:
            found = problems_of(answered("status"), hung.name)
        finally:
            run("dmsetup", "resume", front)
        assert not any("does not answer" in problem for problem in found)
        assert any("suspended" in problem for problem in found)
        dmsnap("unprotect", hung.name, "--forget")
        lab.take_down()


@contextmanager
def laid_over(disk: FaultyDisk) -> Iterator[str]:
    """A device over the disk, which is not suspended itself when that is."""
    name = f"over-{disk.name}"
    run("dmsetup", "create", name, "--table", f"0 {DISK_SIZE // 512} linear {disk.path} 0")
    run("dmsetup", "mknodes")
    try:
        yield f"/dev/mapper/{name}"
    finally:
        run("dmsetup", "remove", "--retry", name)


def by_device(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {each["device"]: each for each in found}


@pytest.mark.parametrize("protected", [rarely(False), True], ids=["", "recovery"])
def test_discover_names_a_disk_that_hangs_and_tells_the_rest(lab: Lab, protected: bool) -> None:
    """Which may be a volume of others, or a recovery volume. It is known again afterwards."""
    with faulty_disk(lab, DISK_SIZE) as disk, laid_over(disk) as over:
        plain = lab.disk(SIZE)
        for device in (plain, over):
            run("mkfs.ext4", "-q", device)
        if protected:
            run("wipefs", "-a", over)
            name = lab.protect(plain, over)
        before = by_device(dmsnap("discover", expected=None)["volumes"])
        assert {plain, over} <= before.keys()
        with Hung("", disk, over).hanging():
            found = answered("discover")
            left = left_behind()
            answered("discover")
            assert left_behind() == left
        silent = [each for each in found["findings"] if "does not answer" in each]
        assert [over in each for each in silent] == [True]
        assert (f"the recovery volume of {name}" in silent[0]) if protected else True
        assert not any("vanished" in each for each in found["findings"])
        told = by_device(found["volumes"])
        assert over not in told
        assert told[plain]["fs_uuid"] == before[plain]["fs_uuid"]
        again = by_device(dmsnap("discover", expected=None)["volumes"])
        assert not again[over]["new"]
        assert again[over]["first_seen_ns"] == before[over]["first_seen_ns"]
        if protected:
            dmsnap("unprotect", name, "--forget")
        lab.take_down()


def test_a_pool_is_listed_with_a_disk_that_hangs(lab: Lab) -> None:
    """One that is free, and then one that a volume has."""
    with faulty_disk(lab, DISK_SIZE) as disk, laid_over(disk) as over:
        other = lab.disk(DISK_SIZE)
        with configured("[pool.disks]", f'volumes = ["{over}", "{other}"]'):
            with Hung("", disk, over).hanging():
                states = by_device(answered("pool", "list", expected=ExitCode.OK))
            assert states[over]["state"] == "unusable"
            assert "does not answer" in states[over]["reason"]
            assert states[other]["state"] == "free"
            name = lab.protect(lab.disk(SIZE), over)
            with Hung("", disk, over).hanging():
                states = by_device(answered("pool", "list", expected=ExitCode.OK))
            assert (states[over]["state"], states[over]["volume"]) == ("taken", name)
            assert "does not answer" in states[over]["reason"]
            assert states[other]["state"] == "free"
            dmsnap("unprotect", name, "--forget")
        lab.take_down()
