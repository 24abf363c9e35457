"""Which points stay and which go, on the primary and in the undo history. Nothing is done here.

Grandfather, father, son: of each of so many hours, days, weeks, months and years the newest point
stays. Periods are counted in which a point was taken, so that a host that was off loses nothing.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from enum import StrEnum
from uuid import UUID

from dmsnap.policy import chronology
from dmsnap.policy.chronology import NANOSECONDS, Moment
from dmsnap.units import format_duration


class Rule(StrEnum):
    """Why a point stays; a point that no rule keeps goes."""

    KEEP = "keep"
    HELD = "held"
    WAITING = "waiting"  # for what is known outside of retention
    REPLICA = "replica"
    CHAIN = "chain"
    CLOCK = "clock"
    EXPIRY = "expiry"  # a time of its own, that is not over
    MINIMUM = "minimum"
    AGE = "age"
    HOURLY = "hourly"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    YEARLY = "yearly"


class Action(StrEnum):
    """What becomes of a point in one of its places."""

    STAY = "stay"
    DROP = "drop"
    MERGE = "merge"  # its undo store becomes part of the next older one's


SENTENCES = {
    Rule.KEEP: "it is marked to be kept",
    Rule.HELD: "it is in use",
    Rule.WAITING: "it is still to be copied to the recovery volume",
    Rule.REPLICA: "the recovery volume holds it now",
    Rule.CHAIN: "an older point that is in use is read through it",
    Rule.CLOCK: "the clock was set, or the host was off for long, and ages are in doubt until it "
    "has run steadily",
    Rule.EXPIRY: "its own time is not over",
    Rule.MINIMUM: "it is one of the newest",
    Rule.AGE: "it is not old enough",
    Rule.HOURLY: "it is the newest of its hour",
    Rule.DAILY: "it is the newest of its day",
    Rule.WEEKLY: "it is the newest of its week",
    Rule.MONTHLY: "it is the newest of its month",
    Rule.YEARLY: "it is the newest of its year",
}


@dataclass(frozen=True, slots=True)
class Retention:
    """What is to be kept. Without anything set, the newest point."""

    keep_seconds: int = 0
    minimum: int = 1
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0


@dataclass(frozen=True, slots=True)
class AgingPoint:
    """What retention looks at. ``held``: mounted, exported or shown by a front.

    ``expires_ns``: the end of a time of its own, by which it stays, and which ages and periods have
    no say in.
    """

    id: UUID
    created_ns: int
    keep: bool = False
    held: bool = False
    expires_ns: int | None = None

    def has_expired(self, now_ns: int) -> bool:
        """Whether it had a time of its own, which is over."""
        return self.expires_ns is not None and self.expires_ns <= now_ns


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a point: every rule that keeps it, or none, and a sentence about it."""

    point: UUID
    action: Action
    rules: tuple[Rule, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class _Judged:
    point: AgingPoint
    rules: tuple[Rule, ...]
    over: bool = False  # it had a time of its own

    @property
    def stays(self) -> bool:
        return bool(self.rules)


def of_primary(
    points: Sequence[AgingPoint], retention: Retention, now_ns: int | None, zone: tzinfo
) -> list[Decision]:
    """What becomes of live points, given in the order in which they were taken.

    Each has a COW store of its own, so that any can be dropped. ``now_ns`` None: the clock is in
    doubt (:func:`chronology.trusted_now`), and everything stays. Hours and days are ``zone``'s.
    """
    judged = _judge(points, retention, now_ns, zone)
    return [_decision(each, Action.DROP, retention) for each in judged]


def of_history(
    points: Sequence[AgingPoint], retention: Retention, now_ns: int | None, zone: tzinfo
) -> list[Decision]:
    """What becomes of a recovery volume's points, in the order in which they were taken.

    The last is what the replica holds now, and stays. A point is reached through the undo stores of
    all that are newer: so stores are dropped from the oldest side only, one in the middle is
    merged into the next older, and none is through which a point that is in use is read.
    """
    judged = _judge(points, retention, now_ns, zone)
    judged = _with_chain(_with_replica(judged))
    decisions = []
    leaving = Action.DROP
    for each in judged:
        if each.stays:
            leaving = Action.MERGE
        decisions.append(_decision(each, leaving, retention))
    return decisions


def _judge(
    points: Sequence[AgingPoint], retention: Retention, now_ns: int | None, zone: tzinfo
) -> list[_Judged]:
    moments = _moments(points, now_ns)
    if moments is None or now_ns is None:
        return [_Judged(point, _marks(point, Rule.CLOCK)) for point in points]
    expired = {index for index, point in enumerate(points) if point.has_expired(now_ns)}
    kept = _kept_by_period(points, moments, retention, zone, expired)
    judged = []
    for index, (point, moment) in enumerate(zip(points, moments, strict=True)):
        over = index in expired
        rules = [Rule.EXPIRY] if point.expires_ns is not None and not over else []
        if index >= len(points) - retention.minimum:
            rules.append(Rule.MINIMUM)
        if now_ns - moment.latest_ns < retention.keep_seconds * NANOSECONDS and not over:
            rules.append(Rule.AGE)
        rules += [rule for rule, indexes in kept if index in indexes]
        judged.append(_Judged(point, _marks(point, *rules), over=over))
    return judged


def _moments(points: Sequence[AgingPoint], now_ns: int | None) -> list[Moment] | None:
    created_ns = [point.created_ns for point in points]
    return None if now_ns is None else chronology.moments(created_ns, now_ns)


def _marks(point: AgingPoint, *rules: Rule) -> tuple[Rule, ...]:
    keep = (Rule.KEEP,) if point.keep else ()
    held = (Rule.HELD,) if point.held else ()
    return (*keep, *held, *rules)


def _with_replica(judged: list[_Judged]) -> list[_Judged]:
    if not judged:
        return []
    newest = judged[-1]
    return [*judged[:-1], replace(newest, rules=(Rule.REPLICA, *newest.rules))]


def _with_chain(judged: list[_Judged]) -> list[_Judged]:
    """Have everything stay that is newer than the oldest point in use."""
    chained = []
    below = False
    for each in judged:
        rules = (*each.rules, Rule.CHAIN) if below else each.rules
        chained.append(replace(each, rules=rules))
        below = below or each.point.held
    return chained


def _decision(judged: _Judged, leaving: Action, retention: Retention) -> Decision:
    action = Action.STAY if judged.stays else leaving
    return Decision(judged.point.id, action, judged.rules, _reason(judged, retention))


def _reason(judged: _Judged, retention: Retention) -> str:
    if judged.rules:
        return SENTENCES[judged.rules[0]]
    if judged.over:
        return "its own time is over"
    if retention.keep_seconds:
        return f"it is older than {format_duration(retention.keep_seconds)}, and no rule keeps it"
    return "no rule keeps it"


Period = Callable[[datetime], tuple[object, ...]]

# The offset tells the hour that is lived through twice at the end of summer time from the first.
PERIODS: tuple[tuple[Rule, Period], ...] = (
    (Rule.HOURLY, lambda time: (time.date(), time.hour, time.utcoffset())),
    (Rule.DAILY, lambda time: (time.date(),)),
    (Rule.WEEKLY, lambda time: tuple(time.isocalendar()[:2])),
    (Rule.MONTHLY, lambda time: (time.year, time.month)),
    (Rule.YEARLY, lambda time: (time.year,)),
)


def _kept_by_period(
    points: Sequence[AgingPoint],
    moments: Sequence[Moment],
    retention: Retention,
    zone: tzinfo,
    expired: Collection[int],
) -> list[tuple[Rule, set[int]]]:
    """For each kind of period the points that it keeps, as indexes.

    One that has expired goes, and takes no place of one that could stay for its period.
    """
    times = [datetime.fromtimestamp(point.created_ns // NANOSECONDS, zone) for point in points]
    believed = [moment.believed for moment in moments]
    return [
        (rule, _newest_of_each(times, believed, period, count, expired))
        for rule, period in PERIODS
        if (count := _count(retention, rule))
    ]


def _count(retention: Retention, rule: Rule) -> int:
    counts: dict[Rule, int] = {
        Rule.HOURLY: retention.hourly,
        Rule.DAILY: retention.daily,
        Rule.WEEKLY: retention.weekly,
        Rule.MONTHLY: retention.monthly,
        Rule.YEARLY: retention.yearly,
    }
    return counts[rule]


def _newest_of_each(
    times: Sequence[datetime],
    believed: Sequence[bool],
    period: Period,
    count: int,
    expired: Collection[int],
) -> set[int]:
    """The newest point of each of the last ``count`` periods, as indexes.

    A time that is not believed is nobody's loss: it has periods of its own, which are not counted.
    """
    newest: dict[tuple[bool, tuple[object, ...]], int] = {}
    counted = 0
    for index in range(len(times) - 1, -1, -1):
        key = (believed[index], period(times[index]))
        if key in newest or index in expired:
            continue
        if believed[index]:
            if counted == count:
                break
            counted += 1
        newest[key] = index
    return set(newest.values())
