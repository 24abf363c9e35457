"""Stores that fill while volumes are written to: live points' and overlays of trials.

Looked at and extended without the volume's lock, which a sync holds for hours: its own point is the
one that matters most. What can happen meanwhile is that the store goes, and then the piece that was
to grow is not found.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from uuid import UUID

from dmsnap.catalogue import present
from dmsnap.catalogue.model import Area, Volume, VolumeState
from dmsnap.catalogue.present import Present
from dmsnap.errors import DmsnapError, NoSpaceError
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.status import SnapshotStatus
from dmsnap.service.session import Session
from dmsnap.service.swaps import overlay, trial
from dmsnap.snapshot import live, stack
from dmsnap.snapshot.space import open_space
from dmsnap.units import MIB, align_down, align_up, format_size

log = logging.getLogger(__name__)

WHOLE_PERCENT = 100


@dataclass(frozen=True, slots=True)
class Room:
    """A store in use: ``device`` is the dm device whose status says how full it is.

    ``point`` is None for the overlay of a trial. ``temporary``: a sync's, which it ends itself.
    """

    volume: Volume
    area: Area
    device: str
    point: UUID | None = None
    temporary: bool = False

    def __str__(self) -> str:
        of = f"live point {self.point}" if self.point else "the trial"
        return f"the store of {of} of {self.volume.name}"

    @property
    def largest_bytes(self) -> int:
        """With a chunk for each of the volume's: more is never used."""
        if self.point is None:
            return overlay.largest_bytes(self.volume)
        return live.cow_bytes(self.volume, WHOLE_PERCENT)


@dataclass(frozen=True, slots=True)
class Listing:
    """All stores that may fill now; ``unseen`` has a sentence for each volume whose could not be
    asked.
    """

    rooms: list[Room]
    unseen: dict[str, str]


def rooms(session: Session) -> Listing:
    """Of all volumes. What is wrong with one keeps no other's stores from being seen."""
    volumes = session.catalogue.volumes()
    recorded = present.of_volumes(session.catalogue, [volume.id for volume in volumes])
    listing = Listing([], {})
    for volume in volumes:
        for stores in (_points, _overlay):
            try:
                listing.rooms.extend(stores(volume, recorded[volume.id]))
            except DmsnapError as error:
                sentence = f"not all stores of {volume.name} can be looked at: {error}"
                listing.unseen[volume.name] = sentence
    return listing


def _overlay(volume: Volume, recorded: Present) -> Iterator[Room]:
    if volume.state is VolumeState.TRIAL and stack.exists(stack.origin(volume)):
        area = trial.overlay_area(volume, recorded.areas)
        yield Room(volume, area, stack.origin(volume).name)


def _points(volume: Volume, recorded: Present) -> Iterator[Room]:
    areas = {area.id: area for area in recorded.areas}
    for point in recorded.live:
        name = stack.live_point(volume, point.id)
        if point.area_id in areas and not _is_shown(volume, point.id) and stack.exists(name):
            yield Room(volume, areas[point.area_id], name.name, point.id, point.temporary)


def _is_shown(volume: Volume, point: UUID) -> bool:
    """Whether a trial shows a live point: what lies over it is looked at in its place."""
    return volume.trial_live and volume.trial_point == point


def read(room: Room) -> SnapshotStatus:
    """How full it is. ``NotFoundError`` once it is gone."""
    return dm.snapshot_status(room.device)


def extend(session: Session, room: Room) -> Room:
    """Twice the room, or less: what is of use, allowed, and to spare; returns what it is then.

    ``NoSpaceError`` when it has all that it may have, or the store has no more: it is asked first,
    since what allocates until there is no more takes that from all others meanwhile. The catalogue
    only repeats what the store has: one that is away, or whose disk is full, holds up nobody.
    """
    area = _known(session, room)
    limit_bytes = session.configuration.cow_limit_bytes or room.largest_bytes
    size_bytes = align_up(min(2 * area.size_bytes, room.largest_bytes, limit_bytes), MIB)
    if size_bytes <= area.size_bytes:
        raise NoSpaceError(
            f"{room} has {format_size(area.size_bytes)}, which is all that it may have",
            volume=room.volume.name,
        )
    space = open_space(room.volume.store)
    possible_bytes = align_down(area.size_bytes + space.spare_bytes(), MIB)
    size_bytes = min(size_bytes, possible_bytes)
    if size_bytes <= area.size_bytes:
        raise NoSpaceError(
            f"the store {room.volume.store} has no more to spare", volume=room.volume.name
        )
    space.grow(area.path, size_bytes)
    grown = replace(area, size_bytes=size_bytes)
    try:
        session.catalogue.update_area(grown)
    except DmsnapError as error:
        log.warning("that %s has %s now is not recorded: %s", room, format_size(size_bytes), error)
    return replace(room, area=grown)


def _known(session: Session, room: Room) -> Area:
    """The piece of the store, as large as it is recorded or was made by us."""
    try:
        recorded = session.area(room.volume, room.area.id)
    except DmsnapError:
        recorded = None
    if recorded is None or recorded.size_bytes < room.area.size_bytes:
        return room.area
    return recorded
