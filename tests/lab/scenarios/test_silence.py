"""A disk that hangs under one volume: who looks at all is told which it is, and the rest."""

import json
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import MIB, Lab, administrator, configured, dmsnap, dmsnap_process, run
from faulty_disk import FaultyDisk, faulty_disk
from patience import until
from test_swap_hanging import no_write_back

__all__ = ["no_write_back"]  # a fixture


from dmsnap.errors import ExitCode

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
    device = f"/dev/{lab.group(disk.path)}/data"
    administrator("lvcreate", "-qq", "-y", "-n", "data", "-L", f"{SIZE}b", device.split("/")[2])
    lab.mounted(device)
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


MAKERS = [with_recovery, with_primary, with_live, with_directory, with_group]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("spares", [False, True], ids=["", "spares"])
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
        front = Path(hung.named).resolve().name
        with hung.hanging():
            (problem,) = problems_of(answered("status"), hung.name)
            assert f"dmsnap swap {hung.name} puts" in problem
            assert left_behind()
            assert Path(f"/sys/block/{front}/inflight").read_text().split() == ["0", "0"]
            dmsnap("swap", hung.name)
            assert Path(hung.named).resolve().name == front
            (mount_point / "written").write_text("it serves")
            dmsnap("swap", "commit", hung.name)
        run("umount", mount_point)
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
