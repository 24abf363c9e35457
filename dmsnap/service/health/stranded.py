"""Devices that were left suspended by a command that is gone, and its watchdog with it. Root."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dmsnap.catalogue import jobs
from dmsnap.catalogue.model import Job, Volume
from dmsnap.errors import DmsnapError
from dmsnap.host import watchdog_process
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.device import DmInfo
from dmsnap.host.system_call import system_call
from dmsnap.service import left_suspended
from dmsnap.service.session import Session
from dmsnap.snapshot import stack

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Left:
    """The name of a device that was left suspended, and of the volume that it is of."""

    volume: str
    device: str


def devices(session: Session) -> frozenset[Left]:
    """Suspended devices of volumes on which something was cut off or failed, and nobody works.

    What somebody else suspends has no such job, and is theirs. Asks no target, and takes no lock.
    The catalogue is asked once for all volumes, and more of those of which something is cut off.
    """
    cut_off = {each for job in jobs.running(session.catalogue) for each in job.volume_ids}
    return frozenset(
        Left(volume.name, name)
        for volume in session.catalogue.volumes()
        if session.running(volume.name) is None
        for name in _left(session, volume, is_cut_off=volume.id in cut_off)
        # Asked last: a command that has begun since may have suspended it.
        if session.running(volume.name) is None
    )


def _left(session: Session, volume: Volume, *, is_cut_off: bool) -> set[str]:
    cut_off = jobs.unfinished(session.catalogue, volume.id) if is_cut_off else []
    if is_news(session, volume, cut_off):
        return suspended(volume)
    return by_failure(session, volume)


def suspended(volume: Volume) -> set[str]:
    """All that is suspended of a volume now, by name; a front that is LVM's, too."""
    found = {info.name for info in _suspended(volume)}
    front = dm.info(uuid=stack.front(volume).uuid)
    if front is not None and front.suspended and front.live_table:
        found.add(front.name)
    return found


def left(session: Session, volume: Volume, cut_off: Sequence[Job]) -> set[str]:
    """What jobs that are ``cut_off``, or the last one when it failed, left suspended, by name.

    Of those that are cut off nothing tells what it was: it is all that is suspended when that is
    looked at first. What is suspended later, while they wait to be concluded, is somebody else's.
    """
    if is_news(session, volume, cut_off):
        return {info.name for info in _suspended(volume)}
    return by_failure(session, volume)


def by_failure(session: Session, volume: Volume) -> set[str]:
    """What the last job on a volume left suspended when it failed, by name.

    Devices of our own alone: LVM may have suspended its own. And none that a watchdog is at work
    on: that goes on trying, and who hung beside it would keep a swap from the volume, which is what
    a device that hangs asks for.
    """
    found = _suspended(volume)
    if not found:
        return set()
    named = left_suspended.named(jobs.last(session.catalogue, volume.id))
    ours = [info for info in found if info.uuid in named]
    if any(watchdog_process.stands_by(info.uuid) for info in ours):
        return set()
    return {info.name for info in ours}


def note_resumed(session: Session, volume: Volume) -> None:
    """What the last job left suspended goes on: who suspends it from now on means to.

    Where that cannot be recorded, as in a catalogue that is full, it is looked at again.
    """
    try:
        left_suspended.note_resumed(session.catalogue, volume.id)
    except DmsnapError as error:
        log.warning("that devices of %s were resumed is not recorded: %s", volume.name, error)


def note_seen(session: Session, volume: Volume, cut_off: Sequence[Job]) -> None:
    """Of these jobs, which are cut off, nothing is suspended, and nobody was killed since."""
    path = _record(session, volume)
    try:
        with system_call(f"write {path}"):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_text("".join(f"{_named(job)}\n" for job in cut_off))
    except DmsnapError as error:
        log.warning("that devices of %s were resumed is not recorded: %s", volume.name, error)


def forget_seen(session: Session, volume: Volume) -> None:
    """Whoever works on the volume now may be killed, and leave something suspended."""
    path = _record(session, volume)
    try:
        with system_call(f"remove {path}"):
            path.unlink(missing_ok=True)
    except DmsnapError as error:
        log.warning("what is left suspended of %s may be overlooked: %s", volume.name, error)


def is_news(session: Session, volume: Volume, cut_off: Sequence[Job]) -> bool:
    """Whether one of the jobs, or who looked at them last, may have left something suspended."""
    if not cut_off:
        return False
    try:
        seen = _record(session, volume).read_text().splitlines()
    except (OSError, ValueError):
        seen = []
    return any(_named(job) not in seen for job in cut_off)


def _named(job: Job) -> str:
    """A catalogue that is made again, or restored, gives out numbers that jobs had before."""
    return f"{job.id} {job.started_ns}"


def _record(session: Session, volume: Volume) -> Path:
    """It has the jobs that are cut off and whose devices were looked at."""
    return session.configuration.run_directory / "stranded" / str(volume.id)


def _suspended(volume: Volume) -> list[DmInfo]:
    found = dm.list_devices(f"{dm.UUID_PREFIX}{volume.id}-")
    return [info for info in found if info.suspended and info.live_table]
