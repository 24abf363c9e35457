"""A recovery volume that grows: its label is always found, and its points stay what they were."""

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_removal import OFFSET, Replica, a_label, a_replica, an_entry, changes, synced

from dmsnap._native import label
from dmsnap._native.label import HistoryFlag, Label
from dmsnap.errors import CorruptError, ForeignDeviceError, NoSpaceError
from dmsnap.host import blockdev, page_search
from dmsnap.recovery import growth, history
from dmsnap.units import MIB, PAGE_BYTES

BEFORE_BYTES = 8 * MIB
AREA = label.offset(BEFORE_BYTES)
MADE = a_label(length_bytes=AREA - OFFSET)
VOLUME: Any = SimpleNamespace(
    id=MADE.volume_uuid, recovery_id=MADE.recovery_uuid, size_bytes=MADE.size_bytes, name="srv"
)


class Disk:
    """A recovery volume in a file."""

    def __init__(self, path: Path, size_bytes: int = BEFORE_BYTES) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT)
        self.resize(size_bytes)

    def resize(self, size_bytes: int) -> None:
        os.truncate(self.fd, size_bytes)
        self.device: Any = SimpleNamespace(path=self.path, size_bytes=size_bytes)

    def write(self, made: Label) -> Label:
        return label.write(self.fd, self.device.size_bytes, made, str(self.path))

    def locate(self) -> growth.Located:
        return growth.locate(self.fd, self.device, VOLUME)

    def content(self) -> bytes:
        return os.pread(self.fd, self.device.size_bytes, 0)

    def put(self, content: bytes) -> None:
        os.pwrite(self.fd, content, 0)

    def move_label(self) -> None:
        located = self.locate()
        growth.move_label(Open(self, located.label), located)  # type: ignore[arg-type]


class Open:
    """The recovery volume as recovery.replica.Replica shows one, without a lease."""

    def __init__(self, disk: Disk, current: Label) -> None:
        self.disk = disk
        self.fd, self.device, self.label = disk.fd, disk.device, current
        self.bytes_written = 0

    def write_label(self, new: Label) -> None:
        self.label = self.disk.write(new)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk")
    yield made
    os.close(made.fd)


@pytest.fixture(autouse=True)
def zeroes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file has no BLKZEROOUT."""

    def write_zeroes(fd: int, offset: int, length: int, name: str, progress: Any = None) -> None:
        del name, progress
        os.pwrite(fd, bytes(length), offset)

    monkeypatch.setattr(blockdev, "write_zeroes", write_zeroes)


def test_a_label_at_the_end_is_in_place(disk: Disk) -> None:
    disk.write(MADE)
    located = disk.locate()
    assert located.area_bytes == AREA
    assert growth.is_in_place(disk.device, located)


@pytest.mark.parametrize("added", [512, 4096, 8192, 12288, 5 * MIB, 9 * MIB + 512])
def test_a_label_is_found_on_a_larger_device_and_moved(disk: Disk, added: int) -> None:
    written = disk.write(MADE)
    disk.resize(BEFORE_BYTES + added)
    located = disk.locate()
    assert located.label.point_uuid == written.point_uuid
    assert located.area_bytes == AREA
    if added < PAGE_BYTES:
        assert growth.is_in_place(disk.device, located)
        return
    disk.move_label()
    moved = disk.locate()
    assert growth.is_in_place(disk.device, moved)
    end = label.offset(disk.device.size_bytes)
    assert growth.history_end(moved.label) == end
    assert moved.label.history_offset_bytes == MADE.history_offset_bytes
    pages = page_search.pages_with(disk.fd, growth.MAGIC, 0, disk.device.size_bytes, "disk")
    assert list(pages) == [end + PAGE_BYTES, end]


@pytest.mark.parametrize("added", [4096, 8192, 5 * MIB])
@pytest.mark.parametrize("torn_bytes", [512, 4096])
def test_whenever_power_is_lost_a_label_is_found(disk: Disk, added: int, torn_bytes: int) -> None:
    """The sectors that are written, in any order that keeps to the flushes between them."""
    disk.write(MADE)
    disk.resize(BEFORE_BYTES + added)
    before = disk.content()
    disk.move_label()
    after = disk.content()
    end = label.offset(disk.device.size_bytes)
    # The slot beyond the old area comes first where the other is the old label's second.
    slots = [end + PAGE_BYTES, end] if added == PAGE_BYTES else [end, end + PAGE_BYTES]
    wiped = range(AREA, min(AREA + label.AREA_BYTES, end), PAGE_BYTES)
    content = bytearray(before)
    for page in [*slots, *wiped]:
        for length in (torn_bytes, PAGE_BYTES):
            content[page : page + length] = after[page : page + length]
            disk.put(bytes(content))
            assert disk.locate().label.point_uuid == MADE.point_uuid, (page, length)
            disk.move_label()
            assert growth.is_in_place(disk.device, disk.locate())
    assert bytes(content) == after


def test_a_copy_of_a_label_is_no_label(disk: Disk) -> None:
    """Somebody kept a copy of the recovery volume on the volume: it lies in an undo store."""
    disk.write(MADE)
    copied = os.pread(disk.fd, label.AREA_BYTES, AREA)
    disk.resize(BEFORE_BYTES + 4 * MIB)
    os.pwrite(disk.fd, copied, BEFORE_BYTES + MIB)
    assert disk.locate().area_bytes == AREA


def test_another_volumes_label_is_refused(disk: Disk) -> None:
    disk.write(replace(MADE, recovery_uuid=uuid4()))
    with pytest.raises(ForeignDeviceError, match="expected"):
        disk.locate()
    disk.resize(BEFORE_BYTES + MIB)
    with pytest.raises(CorruptError):
        disk.locate()


def test_a_stale_label_of_others_at_the_new_end_is_passed_over(disk: Disk) -> None:
    disk.write(MADE)
    disk.resize(BEFORE_BYTES + 4 * MIB)
    end = label.offset(disk.device.size_bytes)
    disk.write(replace(MADE, recovery_uuid=uuid4(), history_length_bytes=end - OFFSET))
    assert disk.locate().area_bytes == AREA
    disk.move_label()
    located = disk.locate()
    assert growth.is_in_place(disk.device, located)
    assert located.label.recovery_uuid == MADE.recovery_uuid


def test_what_was_written_over_a_former_label_since_stays(disk: Disk) -> None:
    disk.write(MADE)
    former = os.pread(disk.fd, label.AREA_BYTES, AREA)
    disk.resize(BEFORE_BYTES + 4 * MIB)
    disk.move_label()
    os.pwrite(disk.fd, former, AREA)  # as a kill between the two leaves it
    used = replace(disk.locate().label, history=(an_entry(AREA - PAGE_BYTES, MIB),))
    growth.tidy_former(Open(disk, used), VOLUME, AREA)  # type: ignore[arg-type]
    assert os.pread(disk.fd, label.AREA_BYTES, AREA) == former
    growth.tidy_former(Open(disk, disk.locate().label), VOLUME, AREA)  # type: ignore[arg-type]
    assert os.pread(disk.fd, label.AREA_BYTES, AREA) == bytes(label.AREA_BYTES)
    os.pwrite(disk.fd, b"others", AREA)
    growth.tidy_former(Open(disk, disk.locate().label), VOLUME, AREA)  # type: ignore[arg-type]
    assert os.pread(disk.fd, 6, AREA) == b"others"


def test_the_backup_before_the_label_stays_out_of_the_history(disk: Disk) -> None:
    disk.write(replace(MADE, history_length_bytes=AREA - OFFSET - history.BACKUP_BYTES))
    disk.resize(BEFORE_BYTES + 32 * MIB)
    assert disk.locate().area_bytes == AREA
    disk.move_label()
    moved = disk.locate()
    assert growth.is_in_place(disk.device, moved)
    area_bytes = label.offset(disk.device.size_bytes)
    assert growth.history_end(moved.label) == area_bytes - history.BACKUP_BYTES
    assert history.backup_extent(moved.label, area_bytes) is not None


def test_a_history_that_gets_small_takes_the_room_of_the_backup(disk: Disk) -> None:
    disk.resize(32 * MIB)
    area_bytes = label.offset(disk.device.size_bytes)
    end = area_bytes - history.BACKUP_BYTES
    made = Open(disk, disk.write(replace(MADE, history_length_bytes=end - OFFSET)))
    growth.begin_history(made, 4 * MIB)  # type: ignore[arg-type]
    assert growth.history_end(made.label) == end
    growth.begin_history(made, 30 * MIB)  # type: ignore[arg-type]
    assert growth.history_end(made.label) == area_bytes


# the history


@given(changes, st.integers(0, 5), st.integers(1, 4))
@settings(deadline=None, max_examples=100)
def test_points_stay_what_they_were(changed: list[set[int]], room: int, grown: int) -> None:
    with a_replica(5 * MIB) as made:
        synced(made, changed)
        end = OFFSET + (5 + room) * MIB
        os.truncate(made.fd, end)
        made.label = replace(made.label, history_length_bytes=end - OFFSET)
        before = [entry.point_uuid for entry in made.label.history]
        way = growth.make_way(made.label, grown * MIB + 512, end)
        growth.clear_way(made, way)  # type: ignore[arg-type]
        left = [entry.point_uuid for entry in made.label.history]
        gone = [entry.point_uuid for entry in way.dropped]
        assert [*left, *gone] == before
        check_room(made, way.start_bytes, end)
        made.check()


def check_room(made: Replica, start: int, end: int) -> None:
    """The stores lie in the region, one beside the other, and that behind the replica to be."""
    assert (made.label.history_offset_bytes, growth.history_end(made.label)) == (start, end)
    used = sorted(history.store_extent(entry) for entry in made.label.history)
    assert all(one.end_bytes <= other.offset_bytes for one, other in pairwise(used))
    assert all(start <= one.offset_bytes and one.end_bytes <= end for one in used)


def test_with_room_behind_it_nothing_is_dropped() -> None:
    label_now = a_label(an_entry(OFFSET + MIB), an_entry(OFFSET), length_bytes=4 * MIB)
    way = growth.make_way(label_now, 3 * MIB, OFFSET + 8 * MIB)
    assert (way.start_bytes, way.dropped, len(way.moves)) == (3 * MIB, (), 2)
    assert {place.offset_bytes for place in way.moves.values()} == {3 * MIB, 4 * MIB}


def test_the_oldest_goes_for_those_that_are_newer() -> None:
    newest, older, oldest = an_entry(OFFSET), an_entry(4 * MIB), an_entry(3 * MIB)
    label_now = a_label(newest, older, oldest, length_bytes=4 * MIB)
    way = growth.make_way(label_now, 3 * MIB, OFFSET + 4 * MIB)
    assert [entry.point_uuid for entry in way.dropped] == [oldest.point_uuid]
    assert way.moves[newest.point_uuid].offset_bytes == 3 * MIB


def test_a_point_that_is_to_be_kept_is_not_dropped() -> None:
    kept = replace(an_entry(OFFSET, 3 * MIB), flags=HistoryFlag.KEEP)
    label_now = a_label(kept, length_bytes=4 * MIB)
    with pytest.raises(NoSpaceError, match="to be kept"):
        growth.make_way(label_now, 3 * MIB, OFFSET + 4 * MIB)


def test_pages_are_found_from_the_end_backwards(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    places = [0, 8192, 4 * MIB - 4096, 4 * MIB, 9 * MIB]
    with path.open("wb") as file:
        file.truncate(9 * MIB + 8192)
        for place in [*places, 5 * MIB + 8]:  # the last begins no page
            file.seek(place)
            file.write(growth.MAGIC)
    fd = os.open(path, os.O_RDONLY)
    try:
        found = list(page_search.pages_with(fd, growth.MAGIC, 1, 9 * MIB + 8192, "disk"))
        assert found == [9 * MIB, 4 * MIB, 4 * MIB - 4096, 8192]
    finally:
        os.close(fd)
