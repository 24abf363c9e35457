"""What would go of a volume's points, and why: retention, asked with what is so now."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import tzinfo
from enum import StrEnum
from uuid import UUID

from dmsnap._native.label import HistoryFlag, Label
from dmsnap.catalogue.model import AreaRole, Point, Volume
from dmsnap.policy import retention as rules_of
from dmsnap.policy.retention import SENTENCES, Action, AgingPoint, Decision, Retention, Rule
from dmsnap.service.exports import exported
from dmsnap.service.points import clock_record
from dmsnap.service.session import Session


class Side(StrEnum):
    """Where points live: a policy says of each how long."""

    PRIMARY = "primary"
    HISTORY = "history"


@dataclass(frozen=True, slots=True)
class Clock:
    """``now_ns`` None: the clock is in doubt. Hours and days are those of ``zone``."""

    now_ns: int | None
    zone: tzinfo


@dataclass(frozen=True, slots=True)
class JudgedPoint:
    """What becomes of a point in one of its places. It stays by the first of ``rules``."""

    point: UUID
    created_ns: int
    side: Side
    action: Action
    rules: tuple[Rule, ...]
    reason: str

    @property
    def stays(self) -> bool:
        return self.action is Action.STAY


def points_in_use(session: Session, volume: Volume) -> set[UUID]:
    """Points that are mounted, exported, or shown by the front."""
    used = {area.point_id for area in session.catalogue.areas(volume.id, AreaRole.BROWSE)}
    used |= {export.source.point_id for export in exported.of_volume(session, volume)}
    return {point_id for point_id in (*used, volume.trial_point) if point_id is not None}


def spared(session: Session, volume: Volume) -> set[UUID]:
    """Points that are in use, marked to be kept, or have a time of their own that is not over.

    While the clock is in doubt none is.
    """
    now_ns = clock_record.trusted_now(session.configuration.state_directory, recording=False)
    marked = {
        point.id
        for point in session.catalogue.marked_points(volume.id)
        if point.keep
        or (point.expires_ns is not None and (now_ns is None or point.expires_ns > now_ns))
    }
    return marked | points_in_use(session, volume)


def in_order(points: Sequence[Point], generations: Mapping[UUID, int]) -> list[Point]:
    """Live points in the order in which they were taken, which no clock can change.

    A point is taken between two eras of the stack's; ``generations`` are the stacks' by COW areas.
    """

    def key(point: Point) -> tuple[int, int, int]:
        generation = generations.get(point.area_id, 0) if point.area_id else 0
        return generation, point.era_since, point.created_ns

    return sorted(points, key=key)


def of_primary(
    points: Sequence[Point], used: Collection[UUID], retention: Retention, clock: Clock
) -> list[JudgedPoint]:
    """What becomes of live points, given in order. One that is lost counts for nothing."""
    good = [point for point in points if point.invalid_reason is None]
    found = [aging(each, held=each.id in used) for each in good]
    decisions = rules_of.of_primary(found, retention, clock.now_ns, clock.zone)
    lost = [_lost(point, used) for point in points if point.invalid_reason is not None]
    times = {point.id: point.created_ns for point in points}
    return [_judged(each, times[each.point], Side.PRIMARY) for each in (*lost, *decisions)]


def aging(point: Point, *, held: bool = False) -> AgingPoint:
    """A point that is recorded, as retention looks at it."""
    return AgingPoint(point.id, point.created_ns, point.keep, held, point.expires_ns)


def live_points(session: Session, volume: Volume) -> list[Point]:
    """The points of a volume with a snapshot on the primary; a sync's own are none of them."""
    return [point for point in session.catalogue.live_points(volume.id) if not point.temporary]


def with_waiting(judged: Sequence[JudgedPoint], waiting: Collection[UUID]) -> list[JudgedPoint]:
    """Have live points stay without which nothing would ever be copied."""
    reason = SENTENCES[Rule.WAITING]
    return [
        replace(each, action=Action.STAY, rules=(Rule.WAITING,), reason=reason)
        if each.point in waiting and not each.stays
        else each
        for each in judged
    ]


def of_history(
    label: Label,
    records: Mapping[UUID, Point],
    used: Collection[UUID],
    retention: Retention,
    clock: Clock,
) -> list[JudgedPoint]:
    """What becomes of a recovery volume's points, the oldest first.

    A mark counts on the label and in ``records``, and a point's own time in these alone.
    While one of them is in use, somebody holds the recovery volume, and nothing goes.
    """
    found = aging_in(label, records, used)
    decisions = rules_of.of_history(found, retention, clock.now_ns, clock.zone)
    if any(point.held for point in found):
        decisions = [_held(each) for each in decisions]
    times = {point.id: point.created_ns for point in found}
    return [_judged(each, times[each.point], Side.HISTORY) for each in decisions]


def aging_in(
    label: Label, records: Mapping[UUID, Point], used: Collection[UUID] = ()
) -> list[AgingPoint]:
    """The points of a recovery volume as retention looks at them, the oldest first."""
    found = []
    for point_id, time_ns, flags in _points_of(label):
        record = records.get(point_id)
        keep = bool(flags & HistoryFlag.KEEP) or (record is not None and record.keep)
        expires_ns = record.expires_ns if record is not None else None
        found.append(AgingPoint(point_id, time_ns, keep, point_id in used, expires_ns))
    return found


def _points_of(label: Label) -> list[tuple[UUID, int, HistoryFlag]]:
    """The points of a recovery volume, the oldest first."""
    found = [(each.point_uuid, each.point_time_ns, each.flags) for each in reversed(label.history)]
    if label.point_uuid is not None:
        found.append((label.point_uuid, label.point_time_ns, label.flags))
    return found


def _lost(point: Point, used: Collection[UUID]) -> Decision:
    rules = (*((Rule.KEEP,) if point.keep else ()), *((Rule.HELD,) if point.id in used else ()))
    if rules:
        return Decision(point.id, Action.STAY, rules, SENTENCES[rules[0]])
    return Decision(point.id, Action.DROP, (), f"it is lost: {point.invalid_reason}")


def _held(decision: Decision) -> Decision:
    if decision.action is Action.STAY:
        return decision
    reason = "another point of the recovery volume is in use"
    return replace(decision, action=Action.STAY, rules=(Rule.HELD,), reason=reason)


def _judged(decision: Decision, created_ns: int, side: Side) -> JudgedPoint:
    return JudgedPoint(
        decision.point, created_ns, side, decision.action, decision.rules, decision.reason
    )
