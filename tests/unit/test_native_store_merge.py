"""Merged undo stores against a slow model: one step back with them is all the steps without."""

import os
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from exception_store_model import MAGIC, build, data_chunks, pairs_per_area
from hypothesis import given, settings
from hypothesis import strategies as st

from dmsnap._native import exception_store, store_merge
from dmsnap._native.store_merge import MergedStore
from dmsnap.errors import CorruptError, DmsnapError, NoSpaceError
from dmsnap.extent import Extent
from dmsnap.units import KIB, MIB

SECTOR = 512
PAGE = 4096


@dataclass
class Store:
    """A store as it lies on a disk, and the chunks of the volume that it has, with their content.

    A chunk at the volume's end is whole here, too.
    """

    chunk_size: int
    content: bytes
    chunks: dict[int, bytes]

    @classmethod
    def made(cls, chunk_size: int, old: Sequence[int], new: Sequence[int], seed: int) -> "Store":
        chunk_bytes = chunk_size * SECTOR
        content = build(chunk_size, list(zip(old, new, strict=True)))
        chunks = {}
        for old_chunk, new_chunk in zip(old, new, strict=True):
            word = struct.pack("<HIIH", seed, old_chunk, new_chunk, chunk_size)
            data = (word * (chunk_bytes // len(word) + 1))[:chunk_bytes]
            place = new_chunk * chunk_bytes
            content[place : place + chunk_bytes] = data
            chunks[old_chunk] = data
        return cls(chunk_size, bytes(content), chunks)

    @classmethod
    def read(cls, content: bytes) -> "Store":
        """What the kernel's read_exceptions() makes of the bytes."""
        magic, valid, version, chunk_size = struct.unpack_from("<IIII", content)
        assert (magic, valid, version) == (MAGIC, 1, 1)
        chunk_bytes, per_area = chunk_size * SECTOR, pairs_per_area(chunk_size)
        chunks = {}
        for index in range(len(content)):
            area = 1 + index // per_area * (per_area + 1)
            place = area * chunk_bytes + index % per_area * 16
            old, new = struct.unpack_from("<QQ", content, place)
            if not new:
                break
            assert old not in chunks
            chunks[old] = content[new * chunk_bytes : (new + 1) * chunk_bytes]
        return cls(chunk_size, content, chunks)

    def applied_to(self, volume: bytes) -> bytes:
        """One step further back."""
        shown = bytearray(volume)
        for old, data in self.chunks.items():
            place = old * self.chunk_size * SECTOR
            piece = data[: max(0, len(volume) - place)]
            shown[place : place + len(piece)] = piece
        return bytes(shown)

    @property
    def pages(self) -> set[int]:
        """The pages of the volume that it has something of."""
        per_chunk = self.chunk_size * SECTOR // PAGE
        return {old * per_chunk + part for old in self.chunks for part in range(per_chunk)}


@dataclass
class Disk:
    """A replica, its undo stores behind it, and room behind those."""

    fd: int
    size: int
    stores: list[Extent]
    room: Extent

    def measure(self) -> MergedStore:
        return store_merge.measure(self.fd, self.size, self.stores, name="disk")

    def merge(self, room: Extent | None = None) -> MergedStore:
        return store_merge.merge(self.fd, self.size, self.stores, room or self.room, name="disk")

    def read(self, extent: Extent) -> bytes:
        return os.pread(self.fd, extent.length_bytes, extent.offset_bytes)


@contextmanager
def disk(volume: bytes, stores: Sequence[Store], room_bytes: int = 4 * MIB) -> Iterator[Disk]:
    with tempfile.TemporaryFile() as file:
        file.write(volume)
        places = []
        for store in stores:
            file.seek(-file.tell() % PAGE, os.SEEK_CUR)
            places.append(Extent(file.tell(), len(store.content)))
            file.write(store.content)
        file.seek(-file.tell() % PAGE, os.SEEK_CUR)
        room = Extent(file.tell(), room_bytes)
        file.write(b"\xa5" * room_bytes)
        file.flush()
        yield Disk(file.fileno(), len(volume), places, room)


@st.composite
def histories(draw: st.DrawFn) -> tuple[bytes, list[Store]]:
    """A volume, and stores of several chunk sizes, written in any order."""
    sectors = draw(st.integers(1, 700))
    stores = []
    for seed in range(draw(st.integers(1, 4))):
        chunk_size = draw(st.sampled_from([8, 8, 16, 64]))
        nr_chunks = -(-sectors // chunk_size)
        old = draw(st.lists(st.integers(0, nr_chunks - 1), unique=True))
        places = data_chunks(chunk_size, len(old))
        if draw(st.booleans()):
            old.sort()
        else:
            places = list(draw(st.permutations(places)))
        stores.append(Store.made(chunk_size, old, places, seed))
    return bytes(range(256)) * 2 * sectors, stores


@given(histories())
@settings(deadline=None)
def test_one_step_back_is_all_steps_back(history: tuple[bytes, list[Store]]) -> None:
    volume, stores = history
    with disk(volume, stores) as made:
        before = made.read(Extent(0, made.room.offset_bytes))
        measured = made.measure()
        merged = made.merge()
        assert merged == measured
        assert made.read(Extent(0, made.room.offset_bytes)) == before
        found = Store.read(made.read(Extent(made.room.offset_bytes, merged.used_bytes)))
        rest = made.read(made.room)[merged.used_bytes :]
    expected = volume
    for store in stores:
        expected = store.applied_to(expected)
    assert found.applied_to(volume) == expected
    assert found.chunk_size == min(store.chunk_size for store in stores)
    nr_pages = -(-len(volume) // PAGE)
    assert found.pages >= {page for store in stores for page in store.pages if page < nr_pages}
    assert list(found.chunks) == sorted(found.chunks)
    assert rest == b"\xa5" * len(rest)


def two_stores() -> list[Store]:
    one = Store.made(8, [0, 1, 2], data_chunks(8, 3), 1)
    return [one, Store.made(8, [1, 2, 3], data_chunks(8, 3), 2)]


def test_the_older_content_wins() -> None:
    newer, older = two_stores()
    with disk(bytes(4 * PAGE), [newer, older]) as made:
        merged = made.merge()
        found = Store.read(made.read(Extent(made.room.offset_bytes, merged.used_bytes)))
    assert found.chunks == {0: newer.chunks[0], **older.chunks}
    assert merged == MergedStore(4, exception_store.size_bytes(4, PAGE), 8)


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_full_areas(more: int) -> None:
    count = pairs_per_area(8) + more
    stores = [
        Store.made(8, list(range(0, count, 2)), data_chunks(8, -(-count // 2)), 1),
        Store.made(8, list(range(1, count, 2)), data_chunks(8, count // 2), 2),
    ]
    with disk(bytes(count * PAGE), stores) as made:
        merged = made.merge(Extent(made.room.offset_bytes, made.measure().used_bytes))
        found = Store.read(made.read(Extent(made.room.offset_bytes, merged.used_bytes)))
    assert len(found.chunks) == count


def test_without_room_nothing_is_written() -> None:
    with disk(bytes(4 * PAGE), two_stores()) as made:
        used = made.measure().used_bytes
        with pytest.raises(NoSpaceError, match="disk: the merged exception store takes"):
            made.merge(Extent(made.room.offset_bytes, used - PAGE))
        assert made.read(made.room) == b"\xa5" * made.room.length_bytes


def test_what_it_would_destroy_is_refused() -> None:
    with disk(bytes(4 * PAGE), two_stores()) as made:
        before = made.read(Extent(0, made.room.end_bytes))
        for place in (0, made.stores[1].offset_bytes, made.stores[0].end_bytes - PAGE):
            with pytest.raises(DmsnapError, match="would lie"):
                made.merge(Extent(place, MIB))
        assert made.read(Extent(0, made.room.end_bytes)) == before


def test_a_store_that_is_none_is_refused() -> None:
    with disk(bytes(4 * PAGE), two_stores()) as made:
        os.pwrite(made.fd, bytes(16), made.stores[1].offset_bytes)
        with pytest.raises(CorruptError, match="no magic number"):
            made.merge()
        assert made.read(made.room) == b"\xa5" * made.room.length_bytes


def test_chunks_of_a_sector_are_refused() -> None:
    with (
        disk(bytes(4 * KIB), [Store.made(1, [3], [2], 1)]) as made,
        pytest.raises(CorruptError, match="chunks of 512 bytes cannot be merged"),
    ):
        made.measure()
