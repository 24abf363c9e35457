"""A stack that gets the size that is recorded: origin and front, under their users."""

from dmsnap.catalogue.model import Area, AreaRole, Volume
from dmsnap.errors import StackChangedError
from dmsnap.host import lun
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.cookie import UdevFlags
from dmsnap.host.dm.target import Era, Table, single
from dmsnap.service.session import Session
from dmsnap.service.swaps import primary
from dmsnap.service.volumes import assembly, spare
from dmsnap.snapshot import layers, stack
from dmsnap.snapshot.exchange import exchange
from dmsnap.snapshot.stack import DmName


def format_metadata(volume: Volume, area: Area) -> None:
    """Let dm-era format metadata of the volume's new size, over the device that has it already.

    Nothing is written to that: the device that does it is there for a moment.
    """
    device, metadata = stack.spare_maker(volume), stack.attach_area(volume, area)
    below = BlockDevice.probe(lun.node(volume.backing))
    target = Era(metadata.devno, below.devno, volume.block_bytes)
    dm.create(device.name, device.uuid, single(volume.size_bytes, target))
    stack.remove(device)


def drop_points(session: Session, volume: Volume) -> None:
    """Drop live points, which have the former size: the origin grows under nobody."""
    for point in session.live_points(volume):
        session.drop_live_point(volume, point, "resize: it had the former size")


def grow(session: Session, volume: Volume) -> None:
    """Give what is there of the stack the recorded size, from below; the rest is for assemble.

    A primary that hangs is not waited for: the sentence says that it does.
    """
    if not stack.exists(stack.front(volume)):
        return
    primary.require_answer(
        volume,
        session.configuration.primary_wait_seconds,
        hint=f"dmsnap resize {volume.name} goes on when it answers",
    )
    areas = session.catalogue.areas(volume.id)
    deadline_ms = session.configuration.window_deadline_ms
    if stack.live_front(volume):
        assembly.build(session, volume, areas)
        return
    if stack.exists(stack.base(volume)):
        _exchange(stack.base(volume), layers.held_table(volume), deadline_ms)
    below = stack.origin_table(volume, stack.backing(volume))
    _exchange(stack.origin(volume), below, deadline_ms)
    metadata = stack.attach_area(volume, stack.era_area(volume, areas))
    front = stack.front_table(volume, metadata)
    _exchange(stack.front(volume), front, deadline_ms, UdevFlags.SHOWN)
    stack.turn_discards_off(volume)


def _exchange(
    device: DmName, table: Table, deadline_ms: int, udev: UdevFlags = UdevFlags.HIDDEN
) -> None:
    """Never loaded twice: what a killed command loaded has the new metadata open."""
    info = stack.require(device)
    if info.inactive_table:
        dm.clear(info.name)
    if dm.table(info.name) == table:
        return
    if info.suspended:
        raise StackChangedError(f"{device.name} is suspended", device=device.name)
    exchange(info, table, deadline_ms, udev=udev)


def release(session: Session, volume: Volume) -> None:
    """Give back the metadata of the smaller front, and a spare that does not fit any more."""
    fit = spare.find(session, volume)
    for area in session.catalogue.areas(volume.id, AreaRole.SPARE):
        if fit is None or area.id != fit.id:
            session.release_area(volume, area)
    spare.release_retired(session, volume)


def grow_file_system(volume: Volume) -> str | None:
    """What makes the file system as large as its volume; None where that is not known."""
    mount_point = volume.mounts[0].mount_point if volume.mounts else f"/mnt/{volume.name}"
    commands = {
        "ext2": f"resize2fs /dev/mapper/{volume.name}",
        "ext3": f"resize2fs /dev/mapper/{volume.name}",
        "ext4": f"resize2fs /dev/mapper/{volume.name}",
        "xfs": f"xfs_growfs {mount_point}",
        "btrfs": f"btrfs filesystem resize max {mount_point}",
    }
    return commands.get(volume.fs_type)
