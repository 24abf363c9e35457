"""What the service does all the time, put together from what watches and what is watched."""

import time
from collections.abc import Sequence
from functools import partial
from uuid import UUID

from dmsnap.daemon import announcements
from dmsnap.daemon.lifecycle import Duty
from dmsnap.daemon.room_watch import RoomWatch
from dmsnap.daemon.survey import Problems, Survey
from dmsnap.host import systemd
from dmsnap.host.dm.status import SnapshotStatus
from dmsnap.service import era_room, room, status
from dmsnap.service.room import Room
from dmsnap.service.session import Session
from dmsnap.service.status import VolumeStatus

END_UNIT = "dmsnap-point-end@{}.service"


class LiveStores:
    """The stores of this host. What gives a point up is a unit of its own: hooks run with it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def rooms(self) -> list[Room]:
        return room.rooms(self._session)

    def read(self, store: Room) -> SnapshotStatus:
        return room.read(store)

    def extend(self, store: Room) -> Room:
        return room.extend(self._session, store)

    def end_point(self, point: UUID) -> None:
        systemd.begin(END_UNIT.format(point))


def of(session: Session) -> list[Duty]:
    """All duties, each in threads of its own where it may block."""
    rooms = RoomWatch(LiveStores(session), time.monotonic)
    survey = Survey(partial(look, session))
    listening = partial(announcements.listen, [rooms.event, survey.event])
    return [listening, rooms.run, survey.run]


def look(session: Session) -> Problems:
    """What is wrong with each volume."""
    found = status.status(session)
    return {each.volume: _problems(session, each) for each in found}


def _problems(session: Session, of_volume: VolumeStatus) -> Sequence[str] | None:
    if of_volume.running:
        return None
    return [*of_volume.problems, *era_room.problems(session, of_volume.volume)]
