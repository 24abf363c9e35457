"""Forecasts of when a store will be full."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmsnap.policy import filling
from dmsnap.policy.filling import Reading
from dmsnap.units import GIB, MIB

TOTALS = st.integers(16 * MIB, 1 << 44)


@st.composite
def histories(draw: st.DrawFn) -> list[Reading]:
    """Readings of one store, at rising moments; it only fills."""
    total = draw(TOTALS)
    steps = draw(st.lists(st.floats(0.01, 100), min_size=1, max_size=8))
    used = sorted(draw(st.lists(st.integers(0, total), min_size=len(steps), max_size=len(steps))))
    at, found = 0.0, []
    for step, each in zip(steps, used, strict=True):
        at += step
        found.append(Reading(at, each, total))
    return found


@given(TOTALS, st.integers(1, 10**9), st.integers(2, 8))
def test_a_steady_rate_is_foreseen_exactly(total: int, rate: int, count: int) -> None:
    readings = [Reading(at, at * rate, total) for at in range(count) if at * rate < total]
    if len(readings) > 1:
        left = filling.seconds_left(readings)
        assert left == pytest.approx(readings[-1].free_bytes / rate)


@given(histories())
def test_what_is_left_is_never_overrated(readings: list[Reading]) -> None:
    """Filled on as fast as it ever was, it is full no sooner than was said."""
    left = filling.seconds_left(readings)
    rate = filling.bytes_per_second(readings)
    if left is None:
        assert rate == 0
    else:
        assert left * rate == pytest.approx(readings[-1].free_bytes, rel=1e-6, abs=1)


@given(histories(), st.integers(0, 1 << 40))
def test_more_written_never_gives_more_time(readings: list[Reading], more: int) -> None:
    latest = readings[-1]
    fuller = Reading(
        latest.at_seconds, min(latest.total_bytes, latest.used_bytes + more), latest.total_bytes
    )
    before, after = (filling.seconds_left([*readings[:-1], each]) for each in (latest, fuller))
    if before is not None:
        assert after is not None
        assert after <= before * (1 + 1e-9)
    assert filling.needs_room([*readings[:-1], fuller]) >= filling.needs_room(readings)


@given(histories())
def test_a_full_store_needs_room(readings: list[Reading]) -> None:
    total = readings[-1].total_bytes
    full = [*readings, Reading(readings[-1].at_seconds + 1, total, total)]
    assert filling.seconds_left(full) == 0
    assert filling.needs_room(full)
    assert filling.next_look_seconds(full) == filling.SHORTEST_SECONDS


@given(histories())
def test_it_is_looked_at_again_in_time(readings: list[Reading]) -> None:
    """Unless it is as often as it gets: no burst fills it between two looks."""
    seconds = filling.next_look_seconds(readings)
    assert filling.SHORTEST_SECONDS <= seconds <= filling.LONGEST_SECONDS
    if seconds > filling.SHORTEST_SECONDS:
        rate = max(filling.bytes_per_second(readings), filling.BURST_BYTES_PER_SECOND)
        assert seconds * rate <= readings[-1].free_bytes


def test_one_reading_says_only_how_full_it_is() -> None:
    assert filling.seconds_left([Reading(0, MIB, GIB)]) is None
    assert not filling.needs_room([Reading(0, MIB, GIB)])
    assert filling.needs_room([Reading(0, GIB * 71 // 100, GIB)])
    assert filling.next_look_seconds([Reading(0, 0, 1 << 50)]) == filling.LONGEST_SECONDS


def test_readings_at_one_moment() -> None:
    assert filling.bytes_per_second([Reading(1, 0, GIB), Reading(1, MIB, GIB)]) == 0
