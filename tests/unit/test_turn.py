"""Whose turn it is: jobs on one disk wait for each other, and all of them for a place."""

import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_host_sysfs import DISKS, DM0, SDA, SDA1, SDB, Tree

from dmsnap.catalogue.store import Catalogue
from dmsnap.host import blockdev
from dmsnap.host.blockdev import BlockDevice
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.schedules import turn
from dmsnap.service.session import Session

LONG_SECONDS = 60
SHORT_SECONDS = 0.3


class Job:
    """A job on a device, or on some disks ("sda+sdb"), which works until it is told to end."""

    def __init__(self, session: Session, disks: str) -> None:
        self.session = session
        self.disks = disks
        self.its_turn, self.over = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self) -> None:
        with turn.turn_on(self.session, [self.disks]):
            self.its_turn.set()
            self.over.wait()

    def begins(self) -> bool:
        return self.its_turn.wait(LONG_SECONDS)

    def waits(self) -> bool:
        return not self.its_turn.wait(SHORT_SECONDS)

    def end(self) -> None:
        self.over.set()
        self.thread.join(LONG_SECONDS)
        assert not self.thread.is_alive()


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    def disks(devices: Sequence[str]) -> list[str]:
        return sorted(devices[0].split("+"))

    monkeypatch.setattr(turn, "disks", disks)
    with Catalogue.open(tmp_path / "catalogue.db") as catalogue:
        yield Session(Configuration(run_directory=tmp_path, jobs_at_once=3), catalogue)


def test_jobs_on_one_disk_wait_for_each_other(session: Session) -> None:
    first = Job(session, "sda+sdb")
    assert first.begins()
    second, beside = Job(session, "sdb+sdc"), Job(session, "sdd")
    assert beside.begins()
    assert second.waits()
    first.end()
    assert second.begins()
    second.end()
    beside.end()


def test_jobs_on_disks_of_their_own_wait_for_a_place(session: Session) -> None:
    holders = [Job(session, disk) for disk in ("sda", "sdb", "sdc")]
    assert all(each.begins() for each in holders)
    fourth = Job(session, "sdd")
    assert fourth.waits()
    for each in holders:  # which of the places it waits for is the process's number's to say
        each.end()
    assert fourth.begins()
    fourth.end()


def test_nobody_waits_in_a_circle(session: Session) -> None:
    pairs = [Job(session, disks) for disks in ("sda+sdb", "sdb+sdc", "sdc+sda") * 3]
    waiting = list(pairs)
    while waiting:
        running = first_to_begin(waiting)
        running.end()
        waiting.remove(running)


def first_to_begin(jobs: Sequence[Job]) -> Job:
    gives_up = time.monotonic() + LONG_SECONDS
    while time.monotonic() < gives_up:
        for job in jobs:
            if job.its_turn.wait(0.01):
                return job
    raise AssertionError("all of them wait for each other")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Three disks by their nodes; a partition of the first, and a volume on that and the second."""
    tree = Tree(tmp_path)
    tree.device("sda", SDA)
    tree.device("sdc", DISKS["sdc"])
    volume = tree.device("dm-0", DM0)
    tree.stack(volume, tree.device("sda1", SDA1, parent="sda", partition="1\n"))
    tree.stack(volume, tree.device("sdb", SDB))
    nodes = {"/dev/sda": SDA, "/dev/sdb": SDB, "/dev/sdc": DISKS["sdc"], "/dev/sda1": SDA1,
             "/dev/vg/data": DM0}  # fmt: skip
    below = partial(blockdev.disks_below, sysfs=tree.sysfs, proc=tree.proc)
    monkeypatch.setattr(blockdev, "disks_below", below)
    monkeypatch.setattr(turn, "SYSFS", tree.sysfs)
    monkeypatch.setattr(BlockDevice, "probe", lambda path: SimpleNamespace(devno=nodes[str(path)]))
    return nodes


@pytest.mark.parametrize("per_disk", [1, 2])
def test_so_many_jobs_on_a_disk_whatever_lies_between(
    host: dict[str, int], tmp_path: Path, per_disk: int
) -> None:
    assert turn.disks(["/dev/sdc", "/dev/vg/data"]) == ["sda", "sdb", "sdc"]
    settings = Configuration(run_directory=tmp_path, jobs_at_once=8, jobs_per_disk=per_disk)
    with Catalogue.open(tmp_path / "catalogue.db") as catalogue:
        session = Session(settings, catalogue)
        holders = [Job(session, device) for device in ("/dev/vg/data", "/dev/sda1")[:per_disk]]
        assert all(each.begins() for each in holders)
        waiting, beside = Job(session, "/dev/sda"), Job(session, "/dev/sdc")
        assert beside.begins()
        assert waiting.waits()
        for each in holders:
            each.end()
        assert waiting.begins()
        waiting.end()
        beside.end()


def test_disks_that_are_missing_are_no_reason_to_wait() -> None:
    assert turn.disks([None, "/dev/dmsnap-no-such-disk"]) == []
