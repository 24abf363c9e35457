"""Devices that were left suspended by a command that is gone, and its watchdog with it. Root."""

from dataclasses import dataclass

from dmsnap.catalogue import jobs
from dmsnap.catalogue.model import JobState, Volume
from dmsnap.host import watchdog_process
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.device import DmInfo
from dmsnap.service.session import Session
from dmsnap.snapshot import stack

# A window that could not resume a device leaves it to its watchdog, and its job fails.
NOT_DONE = (JobState.FAILED, JobState.UNDONE)


@dataclass(frozen=True, slots=True)
class Left:
    """The name of a device that was left suspended, and of the volume that it is of."""

    volume: str
    device: str


def devices(session: Session) -> frozenset[Left]:
    """Suspended devices of volumes on which something was cut off or failed, and nobody works.

    What somebody else suspends has no such job, and is theirs. Asks no target, and takes no lock.
    """
    return frozenset(
        Left(volume.name, name)
        for volume in session.catalogue.volumes()
        if session.running(volume.name) is None
        for name in _left(session, volume)
        # Asked last: a command that has begun since may have suspended it.
        if session.running(volume.name) is None
    )


def _left(session: Session, volume: Volume) -> set[str]:
    if not jobs.unfinished(session.catalogue, volume.id):
        return by_failure(session, volume)
    found = _suspended(volume)
    front = dm.info(uuid=stack.front(volume).uuid)  # an LV's own has LVM's UUID
    if front is not None and front.suspended and front.live_table:
        found.append(front)
    return {info.name for info in found}


def by_failure(session: Session, volume: Volume) -> set[str]:
    """What the last job on a volume left suspended when it failed, by name.

    Devices of our own alone: LVM may have suspended its own. And none that a watchdog is at work
    on: that goes on trying, and who hung beside it would keep a swap from the volume, which is what
    a device that hangs asks for.
    """
    found = _suspended(volume)
    if not found or jobs.last_state(session.catalogue, volume.id) not in NOT_DONE:
        return set()
    if any(watchdog_process.stands_by(info.uuid) for info in found):
        return set()
    return {info.name for info in found}


def _suspended(volume: Volume) -> list[DmInfo]:
    found = dm.list_devices(f"{dm.UUID_PREFIX}{volume.id}-")
    return [info for info in found if info.suspended and info.live_table]
