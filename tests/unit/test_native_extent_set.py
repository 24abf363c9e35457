"""Extent sets against sets of bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmsnap._native.extent_set import ExtentSet
from dmsnap.errors import DmsnapError
from dmsnap.extent import Extent

Bytes = frozenset[int]

ranges = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 40)), max_size=30)


def make(pairs: list[tuple[int, int]]) -> tuple[ExtentSet, Bytes]:
    made = ExtentSet()
    for offset, length in pairs:
        made.add(offset, length)
    return made, frozenset(
        byte for offset, length in pairs for byte in range(offset, offset + length)
    )


def check(made: ExtentSet, model: Bytes) -> None:
    starts = sorted(byte for byte in model if byte - 1 not in model)
    ends = sorted(byte + 1 for byte in model if byte + 1 not in model)
    expected = [(start, end - start) for start, end in zip(starts, ends, strict=True)]
    assert list(made.pairs()) == expected
    assert [(extent.offset_bytes, extent.length_bytes) for extent in made] == expected
    assert len(made) == len(expected)
    assert made.bytes == len(model)


@given(ranges)
def test_add(pairs: list[tuple[int, int]]) -> None:
    check(*make(pairs))


@given(ranges, ranges)
def test_merge(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> None:
    made, model = make(left)
    other, other_model = make(right)
    made.merge(other)
    check(made, model | other_model)
    check(other, other_model)


@given(ranges, ranges)
def test_subtract(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> None:
    made, model = make(left)
    other, other_model = make(right)
    made.subtract(other)
    check(made, model - other_model)
    check(other, other_model)


@given(ranges, st.integers(0, 260))
def test_clamp(pairs: list[tuple[int, int]], size: int) -> None:
    made, model = make(pairs)
    made.clamp(size)
    check(made, frozenset(byte for byte in model if byte < size))


@given(ranges, st.sampled_from([1, 2, 8, 64]))
def test_align(pairs: list[tuple[int, int]], granularity: int) -> None:
    made, model = make(pairs)
    made.align(granularity)
    grown = {byte // granularity for byte in model}
    check(
        made,
        frozenset(
            byte for unit in grown for byte in range(unit * granularity, (unit + 1) * granularity)
        ),
    )


@given(ranges)
def test_from_extents(pairs: list[tuple[int, int]]) -> None:
    made, model = make(pairs)
    copy = ExtentSet.from_extents(reversed(list(made)))
    assert copy == made
    check(copy, model)


def test_large_offsets() -> None:
    made = ExtentSet.from_extents([Extent(2**63, 2**62)])
    assert list(made) == [Extent(2**63, 2**62)]


@pytest.mark.parametrize(
    ("offset", "length"), [(2**64 - 1, 1), (1, 2**64 - 1)], ids=["last byte", "all"]
)
def test_beyond_the_end(offset: int, length: int) -> None:
    with pytest.raises(DmsnapError, match=r"ends beyond 2\^64"):
        ExtentSet().add(offset, length)


@pytest.mark.parametrize("granularity", [0, 3, 4095])
def test_granularity_is_a_power_of_two(granularity: int) -> None:
    with pytest.raises(DmsnapError, match="no power of two"):
        ExtentSet().align(granularity)


@given(st.lists(st.integers(0, 300), min_size=1), st.integers(2, 12))
def test_a_bound_set_has_all_that_was_added_in_few_extents(pages: list[int], most: int) -> None:
    made, exact = ExtentSet(most), ExtentSet()
    for page in pages:
        for each in (made, exact):
            each.add(page * 4096, 4096)
        assert len(made) <= most
    assert not exact.without(made)
    if len(set(pages)) <= most // 2:  # however often each was added
        assert made == exact


def test_a_set_of_one_cannot_grow_coarser() -> None:
    with pytest.raises(DmsnapError, match="at most 1 extents"):
        ExtentSet(1)


def test_operations_on_itself() -> None:
    made, model = make([(0, 5), (10, 5)])
    made.merge(made)
    check(made, model)
    made.subtract(made)
    check(made, frozenset())
