"""Devices that a command which was killed left suspended, and its watchdog with it. Root."""

from dmsnap.catalogue import jobs
from dmsnap.catalogue.model import Volume
from dmsnap.host.dm import device as dm
from dmsnap.service.session import Session
from dmsnap.snapshot import stack


def devices(session: Session) -> frozenset[str]:
    """The names of suspended devices of volumes on which something was cut off, and nobody works.

    What somebody else suspends has no such job, and is theirs. Asks no target, and takes no lock.
    """
    return frozenset(
        name
        for volume in session.catalogue.volumes()
        if session.running(volume.name) is None and jobs.unfinished(session.catalogue, volume.id)
        for name in _suspended(volume)
        # Asked last: a command that has begun since may have suspended it.
        if session.running(volume.name) is None
    )


def _suspended(volume: Volume) -> set[str]:
    found = dm.list_devices(f"{dm.UUID_PREFIX}{volume.id}-")
    if front := dm.info(uuid=stack.front(volume).uuid):  # an LV's own has LVM's UUID
        found.append(front)
    return {info.name for info in found if info.suspended and info.live_table}
