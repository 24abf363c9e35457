"""Points taken out of a history: what is left is in the same order, and shows what it showed."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmsnap._native import copy
from dmsnap._native.copy import UndoStore
from dmsnap._native.extent_set import ExtentSet
from dmsnap._native.label import AREA_BYTES, HistoryEntry, HistoryFlag, Label, LabelState
from dmsnap.errors import NoSpaceError, WrongStateError
from dmsnap.extent import Extent
from dmsnap.recovery import history, removal
from dmsnap.recovery.room import make_room
from dmsnap.units import MIB, PAGE_BYTES, align_up

PAGES = 24
SIZE = PAGES * PAGE_BYTES - 512
OFFSET = MIB
NOTHING = HistoryFlag(0)


def an_entry(offset_bytes: int = OFFSET, length_bytes: int = MIB) -> HistoryEntry:
    return HistoryEntry(uuid4(), 1, offset_bytes, length_bytes, 8, NOTHING)


def a_label(*entries: HistoryEntry, length_bytes: int) -> Label:
    return Label(
        generation=3, size_bytes=SIZE, volume_uuid=uuid4(), recovery_uuid=uuid4(),
        state=LabelState.CONSISTENT, flags=NOTHING, point_uuid=uuid4(), point_time_ns=9,
        next_point_uuid=None, next_point_time_ns=0, history_offset_bytes=OFFSET,
        history_length_bytes=length_bytes, name="srv", fs_type="", fs_uuid="", host="",
        history=tuple(entries),
    )  # fmt: skip


@dataclass
class Replica:
    """A recovery volume in a file, as recovery.replica.Replica shows one, and what it can show."""

    fd: int
    label: Label
    contents: dict[UUID, bytes]
    writes: int = 0

    @property
    def device(self) -> Any:
        return SimpleNamespace(path=Path("disk"), size_bytes=os.fstat(self.fd).st_size + AREA_BYTES)

    def write_label(self, new: Label) -> None:
        self.label = new
        self.writes += 1

    def sync(self, content: bytes, room: Extent | None = None) -> None:
        """The engine's own: the old content to the history, the new one to the replica."""
        if room is None:
            _, room = make_room(self.label, 0)
        with tempfile.TemporaryFile() as source:
            source.write(content)
            source.flush()
            _, different, undo = copy.compare(
                source.fileno(), self.fd, SIZE, ExtentSet.whole(SIZE),
                undo=UndoStore(self.fd, room.offset_bytes, room.length_bytes), name="disk",
            )  # fmt: skip
            copy.apply(source.fileno(), self.fd, SIZE, different, name="disk")
        assert undo is not None
        assert self.label.point_uuid is not None
        length_bytes = align_up(undo.used_bytes, PAGE_BYTES)
        entry = replace(an_entry(room.offset_bytes, length_bytes), point_uuid=self.label.point_uuid)
        point = uuid4()
        self.contents[point] = content
        self.label = replace(self.label, point_uuid=point, history=(entry, *self.label.history))

    def check(self) -> None:
        """Every point that the label names, by rolling back to one after the other."""
        assert self.label.point_uuid is not None
        steps = [(self.label.point_uuid, None), *((e.point_uuid, e) for e in self.label.history)]
        for point, entry in steps:
            if entry is not None:
                copy.roll_back(
                    self.fd, entry.store_offset_bytes, entry.store_length_bytes, self.fd, SIZE,
                    name="disk",
                )  # fmt: skip
            assert os.pread(self.fd, SIZE, 0) == self.contents[point]


@contextmanager
def a_replica(length_bytes: int = 4 * MIB) -> Iterator[Replica]:
    with tempfile.TemporaryFile() as file:
        file.truncate(OFFSET + length_bytes)
        label = a_label(length_bytes=length_bytes)
        assert label.point_uuid is not None
        yield Replica(file.fileno(), label, {label.point_uuid: bytes(SIZE)})


# Which pages a sync changes.
changes = st.lists(st.sets(st.integers(0, PAGES - 1), min_size=1), min_size=1, max_size=6)


def synced(made: Replica, changed: list[set[int]]) -> None:
    for number, pages in enumerate(changed, start=1):
        assert made.label.point_uuid is not None
        content = bytearray(made.contents[made.label.point_uuid])
        for page in pages:
            content[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = bytes([number]) * PAGE_BYTES
        made.sync(bytes(content[:SIZE]))


@given(changes, st.data())
@settings(deadline=None, max_examples=150)
def test_what_stays_is_what_it_was(changed: list[set[int]], data: st.DataObject) -> None:
    with a_replica() as made:
        synced(made, changed)
        points = [entry.point_uuid for entry in made.label.history]
        going = data.draw(st.sets(st.sampled_from(points)))
        before = made.label
        after = removal.merged(made, going)  # type: ignore[arg-type]
        # Until the label says so nothing has happened.
        assert made.label == before
        removal.relabel(made, before.history, after)  # type: ignore[arg-type]
        left = [entry.point_uuid for entry in made.label.history]
        assert left == [point for point in points if point not in going]
        assert made.writes == 1
        used = sorted(history.store_extent(entry) for entry in made.label.history)
        assert all(one.end_bytes <= other.offset_bytes for one, other in pairwise(used))
        made.check()


@given(changes)
@settings(deadline=None, max_examples=50)
def test_a_merge_that_is_cut_off_changes_nothing(changed: list[set[int]]) -> None:
    """What was written lies in free space, and the next merge, or sync, writes over it."""
    with a_replica() as made:
        synced(made, changed)
        going = {entry.point_uuid for entry in made.label.history[:-1]}
        removal.merged(made, going)  # type: ignore[arg-type]
        synced(made, changed)
        made.check()


def test_each_that_stays_stands_for_those_before_it() -> None:
    one, two, three, four, five = entries = [an_entry() for _ in range(5)]
    going = {one.point_uuid, three.point_uuid, five.point_uuid}
    assert removal.groups(entries, going) == [(one, two), (three, four)]
    assert removal.groups(entries, ()) == [(each,) for each in entries]
    assert removal.groups(entries, {each.point_uuid for each in entries}) == []
    assert removal.needs_merging(entries, going)
    assert not removal.needs_merging(entries, {four.point_uuid, five.point_uuid})


def test_the_oldest_go_without_a_merge() -> None:
    one, two, three, four = entries = [an_entry() for _ in range(4)]
    assert removal.shortened(entries, {three.point_uuid, four.point_uuid}) == (one, two)
    assert removal.shortened(entries, ()) == (one, two, three, four)
    for going in ({two.point_uuid}, {one.point_uuid, four.point_uuid}):
        with pytest.raises(WrongStateError, match="are read through one that goes"):
            removal.shortened(entries, going)


def test_the_marks_are_those_of_the_point_that_stays() -> None:
    with a_replica() as made:
        synced(made, [{1}, {2}])
        newer, older = made.label.history
        kept = replace(older, flags=HistoryFlag.KEEP, point_time_ns=77)
        made.label = replace(made.label, history=(newer, kept))
        (entry,) = removal.merged(made, {newer.point_uuid})  # type: ignore[arg-type]
    assert (entry.point_uuid, entry.flags, entry.point_time_ns) == (
        older.point_uuid, HistoryFlag.KEEP, 77,
    )  # fmt: skip


def test_without_room_nothing_is_changed() -> None:
    with a_replica(24 * PAGE_BYTES) as made:
        synced(made, [{1, 2, 3, 4, 5, 6}, {7, 8, 9, 10, 11}])
        before = os.pread(made.fd, OFFSET + 24 * PAGE_BYTES, 0)
        with pytest.raises(NoSpaceError, match="nothing was changed") as caught:
            removal.merged(made, {made.label.history[0].point_uuid})  # type: ignore[arg-type]
        assert caught.value.hint
        assert caught.value.fields["needed_bytes"] == 14 * PAGE_BYTES - PAGE_BYTES
        assert os.pread(made.fd, OFFSET + 24 * PAGE_BYTES, 0) == before


def test_a_history_that_changed_stays() -> None:
    with a_replica() as made:
        synced(made, [{1}, {2}])
        before = made.label.history
        after = removal.merged(made, {before[0].point_uuid})  # type: ignore[arg-type]
        synced(made, [{3}])
        with pytest.raises(WrongStateError, match="has changed meanwhile"):
            removal.relabel(made, before, after)  # type: ignore[arg-type]


def test_the_smallest_room_that_fits_is_taken() -> None:
    label = a_label(
        an_entry(OFFSET + 2 * PAGE_BYTES, PAGE_BYTES),
        an_entry(OFFSET + 8 * PAGE_BYTES, PAGE_BYTES),
        length_bytes=32 * PAGE_BYTES,
    )
    assert removal.room_for(label, PAGE_BYTES) == Extent(OFFSET, 2 * PAGE_BYTES)
    assert removal.room_for(label, 3 * PAGE_BYTES).offset_bytes == OFFSET + 3 * PAGE_BYTES
    assert removal.room_for(label, 6 * PAGE_BYTES).offset_bytes == OFFSET + 9 * PAGE_BYTES
    with pytest.raises(NoSpaceError, match="largest unused part"):
        removal.room_for(label, 24 * PAGE_BYTES)
