"""Exception stores against a slow model of the format."""

import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from exception_store_model import build, data_chunks, pairs_per_area, read
from hypothesis import given, settings
from hypothesis import strategies as st

from dmsnap._native import exception_store
from dmsnap._native.exception_store import ExceptionStore
from dmsnap.errors import CorruptError, NotThisFormatError, PointInvalidError


@contextmanager
def on_disk(content: bytes | bytearray, offset: int = 0) -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        file.write(b"\xa5" * offset)
        file.write(content)
        file.write(b"\xa5" * 8192)
        file.flush()
        yield file.fileno()


@contextmanager
def opened(content: bytes | bytearray, offset: int = 0) -> Iterator[ExceptionStore]:
    with (
        on_disk(content, offset) as fd,
        ExceptionStore.open(fd, offset, len(content), "cow") as store,
    ):
        yield store


def numbered(chunk_size: int, old_chunks: list[int]) -> list[tuple[int, int]]:
    return list(zip(old_chunks, data_chunks(chunk_size, len(old_chunks)), strict=True))


chunk_sizes = st.sampled_from([1, 2, 8, 16, 128])
old_chunks = st.lists(st.integers(0, 10**6), unique=True, max_size=200)


@given(chunk_sizes, old_chunks, st.sampled_from([0, 512, 4096, 12800]))
def test_round_trip(chunk_size: int, old: list[int], offset: int) -> None:
    pairs = numbered(chunk_size, old)
    with opened(build(chunk_size, pairs), offset) as store:
        assert store.header.valid
        assert store.header.chunk_size == chunk_size
        assert len(store) == len(pairs)
        assert [(found.old_chunk, found.new_chunk) for found in store] == pairs
        extents = store.extents()
    size = store.header.chunk_size_bytes
    covered = [
        chunk
        for start, length in extents.pairs()
        for chunk in range(start // size, (start + length) // size)
    ]
    assert covered == sorted(old)


@given(st.data())
@settings(max_examples=50)
def test_any_order_of_data_chunks(data: st.DataObject) -> None:
    """Chunks are committed as their copies complete, which is in no order."""
    old = data.draw(old_chunks)
    pairs = list(zip(old, data.draw(st.permutations(data_chunks(8, len(old)))), strict=True))
    with opened(build(8, pairs)) as store:
        assert [(found.old_chunk, found.new_chunk) for found in store] == pairs


@pytest.mark.parametrize("chunk_size", [1, 8, 16])
@pytest.mark.parametrize("areas", [1, 2])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_full_areas(chunk_size: int, areas: int, more: int) -> None:
    count = areas * pairs_per_area(chunk_size) + more
    content = build(chunk_size, numbered(chunk_size, list(range(count))))
    assert len(content) == exception_store.size_bytes(count, chunk_size * 512)
    with opened(content) as store:
        assert len(store) == count
    with (
        pytest.raises(CorruptError, match=r"the store has|reaches"),
        opened(content[: -chunk_size * 512]),
    ):
        pass


def test_size() -> None:
    assert exception_store.size_bytes(0, 4096) == 8192
    assert exception_store.size_bytes(256, 4096) == (1 + 1 + 256 + 1) * 4096
    with pytest.raises(ValueError, match="sectors"):
        exception_store.size_bytes(1, 100)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([(1, 2), (1, 3)], "two exceptions for chunk 1 of the origin"),
        ([(1, 2), (2, 2)], "two exceptions for chunk 2 of the store"),
        ([(1, 1)], "metadata area"),
        ([(1, 258)], "metadata area"),
        ([(2**55, 2)], "beyond"),
    ],
)
def test_bad_pairs(pairs: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(CorruptError, match=message), opened(build(8, pairs)):
        pass


def test_outside_the_store() -> None:
    content = build(8, [(1, 2), (2, 50)])
    with pytest.raises(CorruptError, match="chunk 50, the store has 40"), opened(content[:163840]):
        pass


def test_invalid_store_has_a_header_only() -> None:
    with opened(build(8, [(1, 2)], valid=0)) as store:
        assert not store.header.valid
        assert store.header.chunk_size == 8
        assert list(store) == []
        with pytest.raises(PointInvalidError, match="cow: exception store"):
            store.extents()


def test_no_store() -> None:
    with pytest.raises(NotThisFormatError, match="no magic number"), opened(b"\0" * 16384):
        pass


def test_reaches_past_the_medium() -> None:
    with (
        on_disk(build(8, [])) as fd,
        pytest.raises(CorruptError, match="the medium ends at 16384"),
    ):
        ExceptionStore.open(fd, 8192, 12288, "cow")


@contextmanager
def refused_if(nonsense: bool) -> Iterator[None]:
    if nonsense:
        with pytest.raises(CorruptError):
            yield
    else:
        yield


def check_with_the_model(content: bytes | bytearray) -> None:
    """It opens and shows what the model finds, or it is refused where that makes no sense."""
    expected = read(content)
    with refused_if(expected is None), opened(content) as store:
        assert [(found.old_chunk, found.new_chunk) for found in store] == expected


@given(st.binary(max_size=16384), old_chunks, st.integers(0, 2**20))
def test_garbage(garbage: bytes, old: list[int], position: int) -> None:
    """Whatever lies over a store, where the chunks' numbers and the areas are, too."""
    content = build(8, numbered(8, old))
    position %= len(content)
    content[position : position + len(garbage)] = garbage[: len(content) - position]
    check_with_the_model(content)


numbers = st.one_of(
    st.integers(0, 300), st.sampled_from([2**51, 2**52, 2**55, 2**63, 2**64 - 1]), st.integers(0)
)


@given(chunk_sizes, st.integers(2, 300), st.integers(0, 15), numbers)
def test_one_wrong_number(chunk_size: int, count: int, word: int, number: int) -> None:
    """In the header, or in one of the first pairs: most of a store is not where it matters."""
    content = build(chunk_size, numbered(chunk_size, list(range(0, 2 * count, 2))))
    if word < 4:
        struct.pack_into("<I", content, word * 4, number % 2**32)
    else:
        first = chunk_size * 512
        struct.pack_into("<Q", content, first + (word - 4) * 8, number % 2**64)
    check_with_the_model(content)


@pytest.mark.parametrize("byte", range(16))
def test_one_wrong_byte_in_the_header(byte: int) -> None:
    good = build(8, numbered(8, [5, 3, 9]))
    for value in range(256):
        content = bytearray(good)
        content[byte] = value
        check_with_the_model(content)
    spoiled = bytearray(good)
    spoiled[byte] ^= 0x10
    # To the kernel everything but 0 is valid.
    assert (read(spoiled) is None) == (byte // 4 != 1)


def test_closed() -> None:
    with opened(build(8, [])) as store:
        pass
    with pytest.raises(ValueError, match="closed"):
        len(store)
