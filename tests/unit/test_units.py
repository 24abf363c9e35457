"""Sizes and durations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmsnap import units
from dmsnap.units import (
    GIB,
    KIB,
    MIB,
    TIB,
    exact_size,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
    to_bytes,
    to_sectors,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("4096", 4096), ("0", 0), ("64KiB", 64 * KIB), ("64kib", 64 * KIB), ("64K", 64 * KIB),
        ("1 MiB", MIB), (" 3G ", 3 * GIB), ("2TiB", 2 * TIB), ("7B", 7),
    ],
)  # fmt: skip
def test_sizes_are_read(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "KiB", "-1", "1.5G", "1KB", "64 K iB", "0x10", "1e3", "∞"])
def test_what_is_no_size_is_quoted(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; write it as 4096, 64KiB, 1GiB") as caught:
        parse_size(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (KIB, "1 KiB"), (1536, "1.5 KiB"), (64 * KIB, "64 KiB"),
        (GIB - 1, "1024.0 MiB"), (GIB, "1 GiB"), (16 * TIB, "16 TiB"), (5 * TIB // 2, "2.5 TiB"),
    ],
)  # fmt: skip
def test_sizes_are_written(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text


@given(st.integers(0, 2**63))
def test_sectors_are_whole(count: int) -> None:
    assert to_sectors(to_bytes(count)) == count
    for rest in (1, 511):
        with pytest.raises(ValueError, match="not a whole number of sectors"):
            to_sectors(count * 512 + rest)


@given(st.integers(0, 2**63), st.integers(0, 30).map(lambda power: 2**power))
def test_alignment(value: int, granularity: int) -> None:
    up, down = units.align_up(value, granularity), units.align_down(value, granularity)
    assert down <= value <= up
    assert up % granularity == down % granularity == 0
    assert up - down == (0 if value % granularity == 0 else granularity)


@given(st.sampled_from(["", "KiB", "MiB", "GiB", "TiB"]), st.integers(1, 1023))
def test_what_is_written_is_read(unit: str, count: int) -> None:
    size_bytes = parse_size(f"{count}{unit}")
    assert parse_size(format_size(size_bytes).replace(" ", "")) == size_bytes


@given(st.integers(0, 2**63) | st.integers(0, 2**20).map(lambda count: count * MIB))
def test_exact_sizes_are_read_again(size_bytes: int) -> None:
    assert parse_size(exact_size(size_bytes)) == size_bytes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0), ("90s", 90), ("15min", 900), (" 6 h ", 21600), ("7d", 604800), ("4w", 2419200)],
)
def test_durations_are_read(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "1.5h", "5m", "1y", "1d12h", "1 D", "1e3s"])
def test_what_is_no_duration_is_quoted(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; write it as 90s") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)


@given(st.integers(0, 2**40))
def test_durations_that_are_written_are_read(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds
