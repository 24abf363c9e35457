"""A volume's stack as a whole: building it, taking it down, mounting its front."""

from collections.abc import Sequence
from pathlib import Path

from dmsnap.catalogue.model import Area, Volume
from dmsnap.errors import StackChangedError
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.cookie import UdevFlags
from dmsnap.host.dm.target import Era, Table, format_table
from dmsnap.service import mounting
from dmsnap.service.session import Session
from dmsnap.snapshot import stack, write_count
from dmsnap.snapshot.stack import DmName


def build(session: Session, volume: Volume, areas: Sequence[Area]) -> None:
    """Make the origin and the front where they are missing or have a table of somebody else."""
    backing = BlockDevice.probe(Path(volume.backing))
    is_new = not stack.exists(stack.origin(volume))
    settle(stack.origin(volume), stack.origin_table(volume, backing))
    if is_new:
        write_count.remember(session.configuration.run_directory, volume)
    metadata = stack.attach_area(volume, stack.era_area(volume, areas))
    settle(stack.front(volume), stack.front_table(volume, metadata), UdevFlags.SHOWN)
    stack.turn_discards_off(volume)


def settle(device: DmName, table: Table, udev: UdevFlags = UdevFlags.HIDDEN) -> None:
    """Have one of our devices with ``table``, and not suspended.

    An era target is never loaded over another one, which may have the same metadata open and
    would then destroy it.
    """
    info = stack.find(device)
    if info is None:
        dm.create(device.name, device.uuid, table, udev=udev)
        return
    live = dm.table(info.name)
    if live == table:
        if info.suspended:
            dm.resume(info.name, udev=udev)
        return
    if any(isinstance(line.target, Era) for line in live):
        raise StackChangedError(
            f"{device.name} has another table of dm-era: {format_table(live)}",
            hint=f"unmount it, remove it with dmsetup remove {device.name}, and assemble it again",
        )
    dm.reload(info.name, table, udev=udev)


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
