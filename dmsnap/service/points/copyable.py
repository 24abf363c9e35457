"""Live points that the recovery volume may be made of: what speaks against one."""

from dataclasses import dataclass
from typing import Self
from uuid import UUID

from dmsnap.catalogue.clock import is_to_come
from dmsnap.catalogue.model import Point, Volume
from dmsnap.errors import NotFoundError, PointInvalidError, WrongStateError
from dmsnap.recovery import replica
from dmsnap.service.points.point import find
from dmsnap.service.session import Session
from dmsnap.snapshot import live, write_count
from dmsnap.snapshot.window_count import WriteCounts
from dmsnap.units import format_size


@dataclass(frozen=True, slots=True)
class Held:
    """What the recovery volume holds: its moment and, where it is recorded, its point.

    ``tracking_id`` is what the volume is tracked under now: nothing was taken under that before
    what was taken under another one.
    """

    time_ns: int
    point: Point | None
    tracking_id: str

    @classmethod
    def of(cls, session: Session, volume: Volume) -> Self:
        """As its label says."""
        label = replica.label_of(volume)
        point = session.catalogue.find_point(label.point_uuid) if label.point_uuid else None
        return cls(label.point_time_ns, point, volume.tracking_id)

    def is_older_than(self, point: Point) -> bool:
        """Whether a live point was taken after it.

        Where both were taken under the same stack their eras say so, and where one of them was
        under that of now, this does: no clock can change either. A time that is yet to come says
        nothing.
        """
        is_of_now = point.tracking_id == self.tracking_id
        if self.point is not None:
            if self.point.tracking_id == point.tracking_id:
                return point.era_since > self.point.era_since
            if self.tracking_id in (self.point.tracking_id, point.tracking_id):
                return is_of_now
        if is_to_come(self.time_ns):
            return is_of_now
        return point.created_ns > self.time_ns


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
    if not Held.of(session, volume).is_older_than(point):
        raise WrongStateError(
            f"point {point.id} is not newer than what the recovery volume of {volume.name} holds",
            hint=f"dmsnap swap {volume.name} --to goes back to an earlier point",
        )
    return point


def require_nothing_beside(session: Session, volume: Volume, point_id: UUID) -> None:
    """Raise where somebody wrote past the front: a snapshot shows that, as if it had been there."""
    directory = session.configuration.run_directory
    doubt = write_count.doubt(directory, volume)
    _require_none(volume, point_id, write_count.bytes_beside(directory, volume), doubt)


def require_nothing_before(
    session: Session, volume: Volume, point_id: UUID, counts: WriteCounts | None
) -> None:
    """The same as of a window, which hides nothing of what was written until then."""
    directory = session.configuration.run_directory
    doubt = write_count.doubt(directory, volume, counts)
    _require_none(volume, point_id, write_count.bytes_before(directory, volume, counts), doubt)


def _require_none(volume: Volume, point_id: UUID, count: int | None, doubt: str) -> None:
    if count != 0:
        how_much = "nobody knows how many bytes" if count is None else format_size(count)
        raise PointInvalidError(
            f"{how_much} were written to {volume.backing} past /dev/mapper/{volume.name},"
            f" and point {point_id} may show them{doubt if count is None else ''}",
            hint=f"dmsnap sync {volume.name} takes a new point, and compares in full",
            point=str(point_id),
        )
