"""What goes and what stays: against a slow model, and for clocks and zones that jump."""

from collections.abc import Callable, Sequence
from dataclasses import Field, fields, replace
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import pairwise
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
import retention_model
from hypothesis import assume, given
from hypothesis import strategies as st

from dmsnap.policy import retention
from dmsnap.policy.retention import Action, AgingPoint, Decision, Retention, Rule

SECOND = 10**9
HOUR = 3600 * SECOND
DAY = 24 * HOUR
START = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * SECOND

# Half an hour of summer time (Lord Howe), a day that was left out (Apia), quarters of an hour.
ZONES = [
    ZoneInfo(name)
    for name in ("UTC", "Europe/Berlin", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kathmandu")
]
zones = st.sampled_from(ZONES)
settings = st.builds(
    Retention,
    keep_seconds=st.integers(0, 20 * 86400),
    minimum=st.integers(0, 5),
    hourly=st.integers(0, 30),
    daily=st.integers(0, 10),
    weekly=st.integers(0, 6),
    monthly=st.integers(0, 6),
    yearly=st.integers(0, 3),
)
gaps = st.lists(
    st.integers(1, 3 * HOUR) | st.integers(1, 40 * DAY) | st.sampled_from([HOUR, DAY]),
    max_size=40,
)


def points_at(times: Sequence[int]) -> list[AgingPoint]:
    return [AgingPoint(UUID(int=number), time) for number, time in enumerate(times)]


@st.composite
def series(draw: st.DrawFn, *, marked: bool = True) -> tuple[list[AgingPoint], int]:
    """Points of a clock that never jumps, oldest first, and a present that is not before them."""
    moment = START + draw(st.integers(0, 2000)) * DAY
    times = [moment := moment + gap for gap in draw(gaps)]
    points = points_at(times)
    if marked:
        marks = st.sampled_from([False] * 8 + [True])
        points = [replace(each, keep=draw(marks), held=draw(marks)) for each in points]
    now = moment + draw(st.integers(0, 30 * DAY))
    if marked:
        ends = st.sampled_from([None] * 6 + [now - DAY, now, now + 1])
        points = [replace(each, expires_ns=draw(ends)) for each in points]
    return points, now


def rules(decisions: Sequence[Decision]) -> list[set[Rule]]:
    return [set(each.rules) for each in decisions]


def staying(points: Sequence[AgingPoint], decisions: Sequence[Decision]) -> list[AgingPoint]:
    return [
        point for point, each in zip(points, decisions, strict=True) if each.action is Action.STAY
    ]


@given(series(), settings, zones)
def test_on_the_primary_it_is_what_the_slow_model_says(
    taken: tuple[list[AgingPoint], int], wanted: Retention, zone: tzinfo
) -> None:
    points, now = taken
    decisions = retention.of_primary(points, wanted, now, zone)
    assert rules(decisions) == retention_model.rules_of(points, wanted, now, zone)
    assert all((each.action is Action.STAY) is bool(each.rules) for each in decisions)
    assert {each.action for each in decisions} <= {Action.STAY, Action.DROP}


@given(series(), settings, zones)
def test_in_the_history_it_is_what_the_slow_model_says(
    taken: tuple[list[AgingPoint], int], wanted: Retention, zone: tzinfo
) -> None:
    points, now = taken
    decisions = retention.of_history(points, wanted, now, zone)
    modelled = retention_model.of_history(points, wanted, now, zone)
    assert [(each.action, set(each.rules)) for each in decisions] == modelled


@given(series(), settings, zones)
def test_only_the_oldest_side_of_the_history_is_dropped(
    taken: tuple[list[AgingPoint], int], wanted: Retention, zone: tzinfo
) -> None:
    points, now = taken
    actions = [each.action for each in retention.of_history(points, wanted, now, zone)]
    for older, newer in pairwise(actions):
        assert newer is not Action.DROP or older is Action.DROP
    assert not actions or actions[-1] is Action.STAY


@given(series(), settings, zones, st.sampled_from(fields(Retention)), st.integers(1, 10))
def test_asking_for_more_never_keeps_less(
    taken: tuple[list[AgingPoint], int],
    wanted: Retention,
    zone: tzinfo,
    field: "Field[int]",
    more: int,
) -> None:
    points, now = taken
    name = field.name
    larger = replace(wanted, **{name: getattr(wanted, name) + more})
    before = rules(retention.of_primary(points, wanted, now, zone))
    after = rules(retention.of_primary(points, larger, now, zone))
    assert all(few <= many for few, many in zip(before, after, strict=True))


@given(series(), settings, zones)
def test_what_stays_stays_when_it_is_asked_again(
    taken: tuple[list[AgingPoint], int], wanted: Retention, zone: tzinfo
) -> None:
    points, now = taken
    left = staying(points, retention.of_primary(points, wanted, now, zone))
    assert staying(left, retention.of_primary(left, wanted, now, zone)) == left


@given(series(marked=False), settings, zones)
def test_what_stays_is_bounded_by_what_was_asked_for(
    taken: tuple[list[AgingPoint], int], wanted: Retention, zone: tzinfo
) -> None:
    points, now = taken
    left = staying(points, retention.of_primary(points, wanted, now, zone))
    young = sum(now - each.created_ns < wanted.keep_seconds * SECOND for each in points)
    counts = (wanted.hourly, wanted.daily, wanted.weekly, wanted.monthly, wanted.yearly)
    assert len(left) <= wanted.minimum + young + sum(counts)


@given(series(), settings, zones)
def test_nothing_goes_while_the_clock_is_in_doubt(
    taken: tuple[list[AgingPoint], int], wanted: Retention, zone: tzinfo
) -> None:
    for judge in (retention.of_primary, retention.of_history):
        decisions = judge(taken[0], wanted, None, zone)
        assert all(Rule.CLOCK in each.rules for each in decisions)


@given(series(marked=False), settings, zones, st.data())
def test_points_with_wrong_times_take_nothing_from_the_others(
    taken: tuple[list[AgingPoint], int], wanted: Retention, zone: tzinfo, data: st.DataObject
) -> None:
    """A clock that was far off for a while, one way or the other, and is right again."""
    points, now = taken
    assume(len(points) >= 3)
    begin = data.draw(st.integers(1, len(points) - 1))
    end = data.draw(st.integers(begin, min(len(points), begin + (len(points) - 1) // 2)))
    offset = data.draw(st.sampled_from([-1, 1])) * 10 * 365 * DAY
    jumped = [
        replace(each, created_ns=each.created_ns + offset) if begin <= index < end else each
        for index, each in enumerate(points)
    ]
    wrong = {each.id for each in points[begin:end]}
    kept = {each.id for each in staying(jumped, retention.of_primary(jumped, wanted, now, zone))}
    others = [each for each in points if each.id not in wrong]
    # More points than the wrong ones speak against them.
    assume((begin if offset < 0 else len(points) - end + 1) > len(wrong))
    decisions = retention.of_primary(others, replace(wanted, minimum=0), now, zone)
    assert {each.id for each in staying(others, decisions)} <= kept
    young = {each.id for each in points if now - each.created_ns < wanted.keep_seconds * SECOND}
    assert young <= kept


def test_a_clock_that_was_set_back_deletes_nothing() -> None:
    points = points_at([START + number * HOUR for number in range(50)])
    decisions = retention.of_primary(points, Retention(keep_seconds=3600), START - DAY, UTC)
    assert {each.rules for each in decisions} == {(Rule.CLOCK,)}
    assert decisions[0].reason.startswith("the clock was set")


def test_a_point_of_the_future_goes_with_the_age_of_the_next() -> None:
    """One taken while the clock was a year ahead is not kept for a year."""
    times = [START, START + HOUR, START + 365 * DAY, START + 3 * HOUR, START + 4 * HOUR]
    points = points_at(times)
    wanted = Retention(keep_seconds=86400)
    for days, expected in ((0.9, Action.STAY), (1.5, Action.DROP)):
        now = START + int(days * DAY)
        assert retention.of_primary(points, wanted, now, UTC)[2].action is expected


def test_a_host_that_was_off_for_months_loses_nothing_to_periods() -> None:
    points = points_at([START + number * HOUR for number in range(24)])
    now = START + 300 * DAY
    decisions = retention.of_primary(points, Retention(hourly=24), now, UTC)
    assert all(each.action is Action.STAY for each in decisions)


def test_the_hour_that_is_lived_through_twice_is_two() -> None:
    zone = ZoneInfo("Europe/Berlin")
    # 2026-10-25: 00:30Z is 02:30 summer time, 01:30Z is 02:30 again.
    first = int(datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()) * SECOND
    points = points_at([first, first + HOUR, first + 2 * HOUR])
    decisions = retention.of_primary(points, Retention(hourly=3), first + 2 * HOUR, zone)
    assert all(Rule.HOURLY in each.rules for each in decisions)


def test_a_wrong_time_takes_no_place_of_a_right_one() -> None:
    """Nor the other way around: of the last two nobody knows which day they are of."""
    wrong = [START + DAY, START + DAY + HOUR]
    right = [START, START + DAY, START + DAY + 2 * HOUR, START + DAY + 3 * HOUR]
    points = points_at([*right, *wrong, START + 3 * DAY])
    decisions = retention.of_primary(points, Retention(daily=3, minimum=0), START + 4 * DAY, UTC)
    daily = [number for number, each in enumerate(decisions) if Rule.DAILY in each.rules]
    assert daily == [0, 3, 5, 6]


def test_weeks_are_those_of_their_year() -> None:
    points = points_at([START + 2 * DAY, START + (2 + 53 * 7) * DAY])
    zone = UTC
    weeks = {retention_model.period(each, Rule.WEEKLY, zone)[5:] for each in points}
    assert weeks == {"01"}
    decisions = retention.of_primary(points, Retention(weekly=2), START + 400 * DAY, zone)
    assert all(Rule.WEEKLY in each.rules for each in decisions)


def test_days_are_those_of_the_zone() -> None:
    # 22:30Z and 23:30Z of one day: two days in Berlin in winter.
    late = int(datetime(2026, 1, 5, 22, 30, tzinfo=UTC).timestamp()) * SECOND
    points = points_at([late, late + HOUR])
    wanted = Retention(daily=2, minimum=0)

    def kept(zone: tzinfo) -> int:
        return len(staying(points, retention.of_primary(points, wanted, late + DAY, zone)))

    assert (kept(UTC), kept(ZoneInfo("Europe/Berlin"))) == (1, 2)


def test_a_point_in_the_middle_is_merged_and_the_oldest_dropped() -> None:
    points = points_at([START + number * DAY for number in range(5)])
    points[1] = replace(points[1], keep=True)
    decisions = retention.of_history(points, Retention(minimum=2), START + 5 * DAY, UTC)
    assert [each.action for each in decisions] == [
        Action.DROP, Action.STAY, Action.MERGE, Action.STAY, Action.STAY,
    ]  # fmt: skip
    assert decisions[1].reason == "it is marked to be kept"
    assert decisions[4].rules[0] is Rule.REPLICA
    assert decisions[0].reason == "no rule keeps it"


def test_an_open_point_holds_every_store_that_it_is_read_through() -> None:
    points = points_at([START + number * DAY for number in range(5)])
    points[1] = replace(points[1], held=True)
    decisions = retention.of_history(points, Retention(), START + 90 * DAY, UTC)
    assert [each.action for each in decisions] == [Action.DROP, *[Action.STAY] * 4]
    assert decisions[2].rules == (Rule.CHAIN,)


def test_why_a_point_goes_names_its_time() -> None:
    points = points_at([START, START + DAY])
    decisions = retention.of_primary(
        points, Retention(keep_seconds=36 * 3600), START + 2 * DAY, UTC
    )
    assert decisions[0].reason == "it is older than 36h, and no rule keeps it"
    assert decisions[0].action is Action.DROP


@pytest.mark.parametrize("judge", [retention.of_primary, retention.of_history])
def test_of_nothing_nothing_goes(judge: Callable[..., list[Decision]]) -> None:
    assert judge([], Retention(), START, UTC) == []


YEAR = timedelta(days=365)
POLICY = Retention(keep_seconds=2 * 86400, hourly=48, daily=14, weekly=8, monthly=12)


@pytest.mark.parametrize("zone", ZONES[1:3], ids=str)
def test_a_year_of_points_every_hour(zone: tzinfo) -> None:
    """Pruned after every point, some marked and released again, the host off for two weeks."""
    now, ends = START, START + int(YEAR.total_seconds()) * SECOND
    points: list[AgingPoint] = []
    ever: list[AgingPoint] = []
    while now < ends:
        taken = AgingPoint(UUID(int=len(ever)), now, keep=len(ever) % 1000 == 999)
        ever.append(taken)
        points = staying(
            [*points, taken], retention.of_history([*points, taken], POLICY, now, zone)
        )
        if len(ever) % 500 == 0:
            assert_kept_as_asked(points, ever, zone)
        if len(ever) % 2500 == 0:
            points = [replace(each, keep=False) for each in points]
            ever = [replace(each, keep=False) for each in ever]
        now += 14 * DAY if len(ever) == 5000 else HOUR
    assert len(ever) > 8000
    assert_kept_as_asked(points, ever, zone)


def assert_kept_as_asked(
    points: Sequence[AgingPoint], ever: Sequence[AgingPoint], zone: tzinfo
) -> None:
    """Pruning all along left what pruning now would leave of all that was ever taken."""
    now = points[-1].created_ns
    assert staying(ever, retention.of_history(ever, POLICY, now, zone)) == list(points)
    marked = sum(each.keep for each in points)
    assert len(points) - marked <= 48 + 48 + 14 + 8 + 12
    days = {retention_model.period(each, Rule.DAILY, zone) for each in points}
    months = {retention_model.period(each, Rule.MONTHLY, zone) for each in points}
    elapsed_days = (now - START) // DAY
    assert len(days) >= min(14, elapsed_days)
    assert len(months) >= min(12, elapsed_days // 31)
    modelled = retention_model.of_history(points, POLICY, now, zone)
    assert all(action is Action.STAY for action, _ in modelled)


# a time of its own


def test_a_point_stays_for_its_own_time_and_no_longer() -> None:
    """Neither its age nor a period keeps one whose time is over."""
    now = START + 40 * DAY
    points = points_at([START, START + DAY, START + 39 * DAY, now - HOUR])
    points[0] = replace(points[0], expires_ns=now + 1)
    points[2] = replace(points[2], expires_ns=now)
    wanted = Retention(minimum=1, keep_seconds=7 * 86400, daily=7)
    decisions = retention.of_primary(points, wanted, now, ZONES[0])
    assert [each.action for each in decisions] == [
        Action.STAY, Action.STAY, Action.DROP, Action.STAY,
    ]  # fmt: skip
    assert decisions[0].reason == "its own time is not over"
    assert decisions[2].reason == "its own time is over"


def test_a_point_whose_time_is_over_takes_no_place_of_its_day() -> None:
    """Else the day's other point would go before it, and it by itself: none were left."""
    now = START + 10 * DAY
    points = points_at([START, START + HOUR, START + 5 * DAY])
    points[1] = replace(points[1], expires_ns=START + 2 * DAY)
    decisions = retention.of_primary(points, Retention(minimum=1, daily=7), now, ZONES[0])
    assert rules(decisions) == [{Rule.DAILY}, set(), {Rule.MINIMUM, Rule.DAILY}]


def test_the_last_point_stays_whatever_its_time() -> None:
    now = START + 10 * DAY
    points = [replace(each, expires_ns=START + DAY) for each in points_at([START, START + HOUR])]
    decisions = retention.of_primary(points, Retention(minimum=1), now, ZONES[0])
    assert [each.action for each in decisions] == [Action.DROP, Action.STAY]
    marked = [replace(points[0], keep=True), points[1]]
    decisions = retention.of_primary(marked, Retention(minimum=1), now, ZONES[0])
    assert [each.action for each in decisions] == [Action.STAY, Action.STAY]
