"""Live points that wait to be copied to the recovery volume: which there are, which may be."""

from uuid import UUID

from dmsnap.catalogue.model import Point, Volume
from dmsnap.errors import NotFoundError, PointInvalidError, WrongStateError
from dmsnap.policy.copying import WaitingPoint
from dmsnap.recovery import replica
from dmsnap.service import pruning
from dmsnap.service.point import find
from dmsnap.service.session import Session
from dmsnap.snapshot import live, write_count
from dmsnap.units import format_size


def waiting(session: Session, volume: Volume) -> list[Point]:
    """Those that hold and are newer than what the recovery volume does, the oldest first."""
    areas = session.catalogue.areas(volume.id)
    generations = {area.id: area.generation for area in areas}
    good = [
        point
        for point in pruning.in_order(pruning.live_points(session, volume), generations)
        if live.with_validity(volume, point).invalid_reason is None
    ]
    return [point for point in good if is_newer(session, volume, point)]


def waiting_points(session: Session, volume: Volume) -> list[WaitingPoint]:
    """The same as policies look at them."""
    return [WaitingPoint(each.id, each.created_ns) for each in waiting(session, volume)]


def is_newer(session: Session, volume: Volume, point: Point) -> bool:
    """Whether a live point was taken after the recovery volume's.

    Where both were taken under the same stack their eras say so, which no clock can change.
    """
    label = replica.label_of(volume)
    held = session.catalogue.find_point(label.point_uuid) if label.point_uuid else None
    if held is not None and held.tracking_id == point.tracking_id:
        return point.era_since > held.era_since
    return point.created_ns > label.point_time_ns


def copyable(session: Session, volume: Volume, text: str) -> Point:
    """The live point of that id, when the recovery volume may be made of it. Lock held."""
    wanted = find(session, text, [volume.name])
    point = session.catalogue.find_point(wanted.id)
    if point is None or point.area_id is None:
        raise NotFoundError(
            f"point {wanted.id} of {volume.name} is not live: there is nothing to copy it from"
        )
    live.require_valid(volume, point)
    require_nothing_beside(session, volume, point.id)
    if not is_newer(session, volume, point):
        raise WrongStateError(
            f"point {point.id} is not newer than what the recovery volume of {volume.name} holds",
            hint=f"dmsnap swap {volume.name} --to goes back to an earlier point",
        )
    return point


def require_nothing_beside(session: Session, volume: Volume, point_id: UUID) -> None:
    """Raise where somebody wrote past the front: a snapshot shows that, as if it had been there."""
    count = write_count.bytes_beside(session.configuration.run_directory, volume)
    if count:
        raise PointInvalidError(
            f"{format_size(count)} were written to {volume.backing} past /dev/mapper/{volume.name},"
            f" and point {point_id} may show them",
            hint=f"dmsnap sync {volume.name} takes a new point, and compares in full",
            point=str(point_id),
        )
