"""When points are copied."""

from datetime import UTC, datetime, tzinfo
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmsnap.policy.copying import (
    Copying,
    Hours,
    NextCopy,
    WaitingPoint,
    next_copy,
    still_to_copy,
)

SECOND = 10**9
HOUR = 3600 * SECOND
BERLIN = ZoneInfo("Europe/Berlin")
START = int(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()) * SECOND


def waiting(*times: int) -> list[WaitingPoint]:
    return [WaitingPoint(UUID(int=number), time) for number, time in enumerate(times)]


def at(text: str, zone: tzinfo = UTC) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()) * SECOND


def test_at_once_is_now() -> None:
    assert next_copy(waiting(START), Copying(), START + 5, UTC) == NextCopy(UUID(int=0), START + 5)
    assert next_copy([], Copying(), START, UTC) is None


def test_later_counts_from_the_point() -> None:
    later = Copying(delay_seconds=3600)
    assert next_copy(waiting(START), later, START, UTC) == NextCopy(UUID(int=0), START + HOUR)
    due = next_copy(waiting(START), later, START + 2 * HOUR, UTC)
    assert due is not None
    assert due.due_ns == START + 2 * HOUR


def test_a_point_from_the_future_waits_from_now() -> None:
    found = next_copy(waiting(START + 9000 * HOUR), Copying(delay_seconds=60), START, UTC)
    assert found is not None
    assert found.due_ns == START + 60 * SECOND


def test_the_oldest_is_copied_once_enough_have_passed() -> None:
    passing = Copying(passed=2)
    assert next_copy(waiting(1, 2), passing, START, UTC) is None
    found = next_copy(waiting(1, 2, 3), passing, START, UTC)
    assert found is not None
    assert found.point == UUID(int=0)


@pytest.mark.parametrize(
    ("now", "due"),
    [
        ("2026-03-01T12:00", "2026-03-01T22:00"),
        ("2026-03-01T21:59:30", "2026-03-01T22:00"),
        ("2026-03-01T23:10", "2026-03-01T23:10"),
        ("2026-03-02T05:59:59", "2026-03-02T05:59:59"),
        ("2026-03-02T06:00", "2026-03-02T22:00"),
    ],
)
def test_hours_go_past_midnight(now: str, due: str) -> None:
    hours = Copying(hours=Hours.parse("22:00-06:00"))
    found = next_copy(waiting(START), hours, at(now, BERLIN), BERLIN)
    assert found is not None
    assert found.due_ns == at(due, BERLIN)


def test_hours_that_summer_time_leaves_out() -> None:
    """On 2026-03-29 the clock goes from 02:00 to 03:00 in Berlin."""
    now = at("2026-03-29T01:00", BERLIN)
    assert Hours.parse("02:30-04:00").opening_ns(now, BERLIN) == at("2026-03-29T03:00", BERLIN)
    skipped = Hours.parse("02:15-02:45").opening_ns(now, BERLIN)
    assert skipped == at("2026-03-30T02:15", BERLIN)


hours = st.builds(
    lambda begin, length: (begin, (begin + length) % 1440),
    st.integers(0, 1439),
    st.integers(1, 1439),
)


@given(hours, st.integers(0, 2 * 10**9), st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata"]))
def test_an_opening_is_the_first_moment_in_the_hours(
    minutes: tuple[int, int], seconds: int, name: str
) -> None:
    begin, end = ("{:02}:{:02}".format(*divmod(minute, 60)) for minute in minutes)
    window, zone = Hours.parse(f"{begin}-{end}"), ZoneInfo(name)
    opening = window.opening_ns(seconds * SECOND, zone) // SECOND
    assert seconds <= opening
    assert window.holds(datetime.fromtimestamp(opening, zone).time())
    if opening > seconds:
        before = datetime.fromtimestamp(opening - 1, zone).time()
        assert not window.holds(before)
        assert not window.holds(datetime.fromtimestamp(seconds, zone).time())


@pytest.mark.parametrize(
    "text", ["", "22-6", "22:00", "24:00-06:00", "22:60-23:00", "5:00-06:00", "05:00-05:00"]
)
def test_what_are_no_hours_is_quoted(text: str) -> None:
    with pytest.raises(ValueError, match="05:00-05:00" if text == "05:00-05:00" else "no hours"):
        Hours.parse(text)


def held(copying: Copying, now_ns: int, *times: int) -> set[int]:
    return {each.int for each in still_to_copy(waiting(*times), copying, now_ns)}


def test_what_must_not_go_before_it_is_copied() -> None:
    hourly = [START + number * HOUR for number in range(5)]
    now = hourly[-1]
    assert held(Copying(), now) == set()
    assert held(Copying(), now, *hourly) == {4}
    assert held(Copying(passed=2), now, *hourly) == {2, 3, 4}
    assert held(Copying(passed=9), now, *hourly) == {0, 1, 2, 3, 4}
    later = Copying(delay_seconds=86400)
    assert held(later, now, *hourly) == {0, 4}
    assert held(later, START + 73 * HOUR, *hourly) == {4}
    # The clock was set back.
    assert held(later, START - 9000 * HOUR, *hourly) == {0, 4}


@given(
    st.integers(0, 4), st.integers(0, 30), st.integers(1, 5), st.integers(1, 60),
)  # fmt: skip
def test_something_is_always_copied(passed: int, delay: int, minimum: int, runs: int) -> None:
    """However little retention keeps, points taken every hour are copied in their turn."""
    copying = Copying(delay_seconds=delay * 3600, passed=passed)
    live: list[WaitingPoint] = []
    copied: list[UUID] = []
    for number in range(runs + passed + delay):
        now = START + number * HOUR
        live.append(WaitingPoint(UUID(int=number), now))
        while (found := next_copy(live, copying, now, UTC)) is not None and found.due_ns <= now:
            copied.append(found.point)
            live = live[1:]
        staying = still_to_copy(live, copying, now) | {each.id for each in live[-minimum:]}
        live = [each for each in live if each.id in staying]
    assert copied
    assert copied == sorted(set(copied))
