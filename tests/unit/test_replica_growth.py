"""A recovery volume that follows, cut off at every step: one label, and points as they were."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from catalogue_samples import a_volume
from test_removal import OFFSET, Replica, a_replica, synced

from dmsnap._native import label
from dmsnap.errors import TooSmallError, WrongStateError
from dmsnap.host import blockdev
from dmsnap.recovery import growth, history
from dmsnap.service.journal import Step
from dmsnap.service.resizing import replica_growth
from dmsnap.service.resizing.replica_growth import ReplicaGrowth
from dmsnap.units import MIB

LARGER = 3 * MIB
ROOM = 12 * MIB
CHANGES = [{0, 3}, {1}, {0, 2, 23}]


class Bench:
    """A volume with points on a recovery volume in a file."""

    def __init__(self, made: Replica) -> None:
        self.made = made
        self.fd = made.fd
        before = os.fstat(self.fd).st_size
        self.label = replace(made.label, history_length_bytes=before - OFFSET)
        os.truncate(self.fd, before + label.AREA_BYTES)
        label.write(self.fd, self.size_bytes, self.label, "disk")
        self.volume = replace(
            a_volume(),
            id=self.label.volume_uuid,
            recovery_id=self.label.recovery_uuid,
            recovery="/dev/disk",
            size_bytes=self.label.size_bytes,
        )

    @property
    def size_bytes(self) -> int:
        return os.fstat(self.fd).st_size

    def read(self) -> label.Label:
        return label.read(self.fd, self.size_bytes, "disk")

    def steps(self, size_bytes: int = LARGER) -> list[Step]:
        growing = ReplicaGrowth(self.volume, replace(self.volume, size_bytes=size_bytes))
        return [*growing.room_steps(None), *growing.size_steps()]

    def check(self, size_bytes: int) -> None:
        """One label, at the end; every point is what it was, with nothing but zeroes behind."""
        now, end = self.read(), label.offset(self.size_bytes)
        assert (now.size_bytes, growth.history_end(now)) == (size_bytes, end)
        assert now.history_offset_bytes == history.region(size_bytes, end).offset_bytes
        content = os.pread(self.fd, self.size_bytes, 0)
        labels = [at for at in range(0, len(content), 4096) if content[at : at + 8] == b"DMSNAPLB"]
        assert labels == [end, end + label.SECTOR_BYTES]
        before = self.label.size_bytes
        assert content[before:size_bytes] == bytes(size_bytes - before)
        assert [each.point_uuid for each in now.history] == [
            each.point_uuid for each in self.label.history
        ]
        self.made.label = now
        self.made.check()
        os.pwrite(self.fd, content, 0)  # the check has rolled it back


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """With room for a larger replica where ``enlarge`` gives it."""

    def write_zeroes(fd: int, offset: int, length: int, name: str, progress: Any = None) -> None:
        del name, progress
        os.pwrite(fd, bytes(length), offset)

    with a_replica(5 * MIB) as made:
        synced(made, CHANGES)
        found = Bench(made)

        @contextmanager
        def opened(path: Path, *, write: bool) -> Iterator[int]:
            del path, write
            yield found.fd

        def probe(path: Path) -> Any:
            return SimpleNamespace(path=path, size_bytes=found.size_bytes, devno=1)

        monkeypatch.setattr(blockdev, "write_zeroes", write_zeroes)
        monkeypatch.setattr(growth, "open_exclusive", opened)
        monkeypatch.setattr(growth.BlockDevice, "probe", probe)  # type: ignore[attr-defined]
        yield found


def enlarge(bench: Bench) -> None:
    os.truncate(bench.fd, ROOM)


STEPS = ["move-label", "make-way", "clear", "grow-replica"]


def test_all_its_steps_give_the_replica_its_size(bench: Bench) -> None:
    # What lay behind the replica is history, and not zeroes.
    os.pwrite(bench.fd, b"\xff" * 4096, bench.label.size_bytes + 512)
    enlarge(bench)
    steps = bench.steps()
    assert [step.name for step in steps] == STEPS
    for step in steps:
        step.do()
    bench.check(LARGER)
    assert bench.steps() == []


@pytest.mark.parametrize("count", range(len(STEPS) + 1))
@pytest.mark.parametrize("twice", [False, True])
def test_cut_off_anywhere_it_gets_its_former_size_back(
    bench: Bench, count: int, *, twice: bool
) -> None:
    former = growth.history_end(bench.label)
    enlarge(bench)
    for step in bench.steps()[:count]:
        step.do()
        if twice:
            step.do()
    assert replica_growth.settle_label(bench.volume, former)
    bench.check(bench.label.size_bytes)
    assert replica_growth.settle_label(bench.volume, former)
    for step in bench.steps():
        step.do()
    bench.check(LARGER)


@pytest.mark.parametrize("count", range(1, len(STEPS) + 1))
def test_a_step_that_fails_has_those_before_it_undone(bench: Bench, count: int) -> None:
    """The label stays where it belongs now, and what moved of the history stays, too."""
    enlarge(bench)
    done = bench.steps()[:count]
    for step in done:
        step.do()
    for step in reversed(done):
        if step.undo is not None:
            step.undo()
    bench.check(bench.label.size_bytes)


def test_a_kill_between_two_labels_leaves_one(bench: Bench) -> None:
    """The new label is written, and the old one not wiped."""
    former = growth.history_end(bench.label)
    kept = os.pread(bench.fd, label.AREA_BYTES, former)
    enlarge(bench)
    bench.steps()[0].do()
    os.pwrite(bench.fd, kept, former)
    replica_growth.settle_label(bench.volume, former)
    bench.check(bench.label.size_bytes)


def test_without_room_nothing_is_changed(bench: Bench) -> None:
    before = bench.read()
    with pytest.raises(TooSmallError, match="bytes are missing"):
        bench.steps()
    assert bench.read() == before


def test_points_that_were_not_agreed_to_go_are_a_refusal(bench: Bench) -> None:
    """What was planned, and what would be done by now, may differ."""
    replica_growth.require_agreed(bench.volume, set())
    with pytest.raises(WrongStateError, match="1 oldest points"):
        replica_growth.require_agreed(bench.volume, {bench.label.history[-1].point_uuid})
