"""A volume's stack as a whole: building it, taking it down, mounting its front."""

from collections.abc import Sequence
from pathlib import Path

from dmsnap.catalogue.model import Area, Volume
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.cookie import UdevFlags
from dmsnap.service import mounting
from dmsnap.snapshot import stack


def build(volume: Volume, areas: Sequence[Area]) -> None:
    """Make the origin and the front where they are missing."""
    origin, front = stack.origin(volume), stack.front(volume)
    if dm.info(uuid=origin.uuid) is None:
        backing = BlockDevice.probe(Path(volume.backing))
        dm.create(origin.name, origin.uuid, stack.origin_table(volume, backing))
    if dm.info(uuid=front.uuid) is None:
        metadata = stack.attach_area(volume, stack.era_area(volume, areas))
        table = stack.front_table(volume, metadata)
        dm.create(front.name, front.uuid, table, udev=UdevFlags.SHOWN)
        stack.turn_discards_off(volume)


def tear_down(volume: Volume) -> None:
    """Remove front and origin, as far as they exist."""
    for device in (stack.front(volume), stack.origin(volume)):
        stack.remove(device)


def mount_front(volume: Volume) -> None:
    """Mount the front at every place recorded for the volume."""
    info = stack.require(stack.front(volume))
    mounting.mount_all(dm.node(info.name), info.devno, volume.mounts)


def unmount_front(volume: Volume, wait_seconds: float) -> None:
    """Unmount the front everywhere; nothing happens when it does not exist."""
    info = dm.info(uuid=stack.front(volume).uuid)
    if info is not None:
        mounting.unmount(info.devno, wait_seconds)
