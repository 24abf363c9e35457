"""Whose turn it is to copy: scheduled jobs wait for their disks, and for a place among all.

After a downtime every timer fires at once. What is copied at the administrator's word waits for
nobody.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from dmsnap.catalogue.model import Volume
from dmsnap.errors import DmsnapError
from dmsnap.host import blockdev, lun
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.slots import slot
from dmsnap.host.sysfs import SYSFS
from dmsnap.service.session import Session


@contextmanager
def turn(session: Session, volume: Volume) -> Iterator[None]:
    """Hold the volume's disks, and then one of the places."""
    with turn_on(session, [volume.serving, volume.recovery]):
        yield


@contextmanager
def turn_on(session: Session, devices: Sequence[str | None]) -> Iterator[None]:
    """Hold the disks below devices, by their recorded names, and then one of the places.

    Disks are taken in the order of their names by everybody, and the places last, so that nobody
    waits for a disk with a place in hand, nor in a circle.
    """
    configuration = session.configuration
    directory = configuration.run_directory / "slots"
    with ExitStack() as held:
        for disk in disks(devices):
            held.enter_context(slot(directory, f"disk-{disk}", configuration.jobs_per_disk))
        held.enter_context(slot(directory, "job", configuration.jobs_at_once))
        yield


def disks(devices: Sequence[str | None]) -> list[str]:
    """The names of the disks below devices, as far as they are there.

    One that is missing is for the job itself to complain of.
    """
    found: set[int] = set()
    for device in devices:
        try:
            node = lun.node(device) if device else None
            found |= blockdev.disks_below(BlockDevice.probe(node).devno) if node else set()
        except DmsnapError:
            continue
    return sorted(SYSFS.kernel_name(devno) for devno in found)
