"""Live points that wait to be copied to the recovery volume."""

from dmsnap.catalogue.model import Point, Volume
from dmsnap.policy.copying import WaitingPoint
from dmsnap.service.points import pruning
from dmsnap.service.points.copyable import Held
from dmsnap.service.session import Session
from dmsnap.snapshot import live


def waiting(session: Session, volume: Volume) -> list[Point]:
    """Those that hold and are newer than what the recovery volume does, the oldest first."""
    areas = session.catalogue.areas(volume.id)
    generations = {area.id: area.generation for area in areas}
    points = pruning.in_order(pruning.live_points(session, volume), generations)
    held = Held.of(session, volume)
    return [
        point
        for point in points
        if held.is_older_than(point) and live.with_validity(volume, point).invalid_reason is None
    ]


def waiting_points(session: Session, volume: Volume) -> list[WaitingPoint]:
    """The same as policies look at them."""
    return [WaitingPoint(each.id, each.created_ns) for each in waiting(session, volume)]
