"""Live points that wait to be copied to the recovery volume."""

from collections.abc import Sequence

from dmsnap.catalogue.model import Point, Volume
from dmsnap.policy.copying import WaitingPoint
from dmsnap.service.points import pruning
from dmsnap.service.points.copyable import Held
from dmsnap.service.session import Session
from dmsnap.snapshot import live


def waiting(session: Session, volume: Volume) -> list[Point]:
    """Those that hold and are newer than what the recovery volume does, the oldest first."""
    held = Held.of(session, volume)
    return [point for point in holding(session, volume) if held.is_older_than(point)]


def holding(session: Session, volume: Volume) -> list[Point]:
    """The live points that hold, the oldest first."""
    areas = session.catalogue.areas(volume.id)
    generations = {area.id: area.generation for area in areas}
    points = pruning.in_order(pruning.live_points(session, volume), generations)
    return [each for each in points if live.with_validity(volume, each).invalid_reason is None]


def waiting_points(session: Session, volume: Volume) -> list[WaitingPoint]:
    """The same as policies look at them."""
    return _as_policies(waiting(session, volume))


def possible(session: Session, volume: Volume) -> list[list[WaitingPoint]]:
    """Which may be waiting, while nobody can say what the recovery volume holds."""
    points = _as_policies(holding(session, volume))
    return [points[at:] for at in range(len(points))]


def _as_policies(points: Sequence[Point]) -> list[WaitingPoint]:
    return [WaitingPoint(each.id, each.created_ns) for each in points]
