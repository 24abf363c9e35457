"""What the service does all the time, put together from what watches and what is watched."""

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from uuid import UUID

from dmsnap.daemon import announcements
from dmsnap.daemon.exposure import Exposure
from dmsnap.daemon.lifecycle import Duty
from dmsnap.daemon.room_watch import RoomWatch
from dmsnap.daemon.stranded import Stranded
from dmsnap.daemon.survey import Problems, Survey
from dmsnap.daemon.thread import in_own_thread
from dmsnap.errors import DmsnapError
from dmsnap.host import replacement, systemd
from dmsnap.host.dm.status import SnapshotStatus
from dmsnap.host.sysfs import SYSFS
from dmsnap.service.health import metrics, room, status, stranded
from dmsnap.service.health.era_room import EraRooms
from dmsnap.service.health.room import Listing, Room
from dmsnap.service.health.silence import Ask, Watch
from dmsnap.service.health.status import VolumeStatus
from dmsnap.service.points import clock_record
from dmsnap.service.schedules import left_over
from dmsnap.service.session import Session

log = logging.getLogger(__name__)

END_UNIT = "dmsnap-point-end@{}.service"
RESUME_UNIT = "dmsnap-resume@{}.service"


class LiveStores:
    """The stores of this host. What gives a point up is a unit of its own: hooks run with it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def rooms(self) -> Listing:
        return room.rooms(self._session)

    def read(self, store: Room) -> SnapshotStatus:
        return room.read(store)

    def extend(self, store: Room) -> Room:
        return room.extend(self._session, store)

    def is_kept(self, point: UUID) -> bool:
        """Asked at the last moment: that can be changed at any, and nothing announces it."""
        found = self._session.catalogue.find_point(point)
        return found is not None and found.keep

    def end_point(self, point: UUID) -> None:
        systemd.begin(END_UNIT.format(point))


def of(session: Session) -> list[Duty]:
    """All duties, each in threads of its own where it may block."""
    rooms = RoomWatch(LiveStores(session), time.monotonic)
    port = session.configuration.metrics_port
    exposure = Exposure(port) if port is not None else None
    left = Stranded(SYSFS.any_dm_suspended, partial(stranded.devices, session), conclude)
    survey = Survey(partial(look_around, session, EraRooms(), exposure, Watch()))
    listening = partial(announcements.listen, [rooms.event, survey.event])
    exposing = [exposure.run] if exposure is not None else []
    catching_up = partial(_catch_up, session)
    return [listening, left.run, rooms.run, survey.run, catching_up, *exposing]


async def _catch_up(session: Session) -> None:
    """Once, and in a thread of its own: it reads labels, and their disks may hang."""
    await in_own_thread(partial(go_on_copying, session))
    await asyncio.Event().wait()


def go_on_copying(session: Session) -> None:
    """Begin the copies that a boot has called off, those of each policy in a unit of its own."""
    if not systemd.is_running():
        return
    try:
        for name in left_over.begin(session):
            log.info("points under the policy %s wait to be copied: that is begun", name)
    except DmsnapError as error:
        log.warning("copies that wait were not begun: %s", error)


def conclude(volume: str) -> None:
    """Have what was cut off on a volume concluded, by a unit of its own: that of the boot may be
    waiting for another volume's disk.
    """
    if systemd.is_running():
        systemd.begin(RESUME_UNIT.format(systemd.escape(volume)))


def look_around(
    session: Session,
    eras: EraRooms,
    exposure: Exposure | None = None,
    ask: Ask | None = None,
) -> Problems:
    """Look at every volume, and at the clock: pruning may be rare, and boots lie in between."""
    clock_record.note(session.configuration.state_directory)
    return look(session, eras, exposure, ask)


def look(
    session: Session,
    eras: EraRooms,
    exposure: Exposure | None = None,
    ask: Ask | None = None,
) -> Problems:
    """What is wrong with each volume; metrics are made by the way, of what was just seen."""
    path = session.configuration.metrics_file
    if path is None and exposure is None:
        found = status.status(session, ask=ask)
    else:
        known = metrics.facts(session, ask)
        found = [each.status for each in known]
        text = metrics.text_of(known)
        if exposure is not None:
            exposure.text = text
        if path is not None:
            _write(text, path)
    return {each.volume: _problems(session, eras, each) for each in found}


def _write(text: str, path: Path) -> None:
    """Replace the collector's file as a whole: it may read it at any moment.

    Its directory may be the collector's, and what it finds there is not followed anywhere.
    """
    try:
        replacement.replace_name(path, text)
    except DmsnapError as error:
        log.warning("metrics were not written: %s", error)


def _problems(session: Session, eras: EraRooms, of_volume: VolumeStatus) -> Sequence[str] | None:
    if of_volume.running:
        return None
    return [*of_volume.problems, *eras.problems(session, of_volume.volume)]
