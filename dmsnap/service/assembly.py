"""A volume's stack as a whole: building it, taking it down, mounting its front."""

import errno
import logging
from collections.abc import Sequence
from dataclasses import replace

from dmsnap.catalogue.model import Area, Volume
from dmsnap.errors import OperatingSystemError, StackChangedError
from dmsnap.host import blockdev, lun
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.cookie import UdevFlags
from dmsnap.host.dm.target import Era, Table, format_table
from dmsnap.recovery import chain, history, replica
from dmsnap.service import mounting, trial
from dmsnap.service.session import Session
from dmsnap.snapshot import stack, write_count
from dmsnap.snapshot.stack import DmName
from dmsnap.units import PAGE_BYTES

log = logging.getLogger(__name__)

# What the checks of dm-era's superblock and of its trees' blocks answer (drivers/md, sb_check and
# node_check): another place than it was written for, a wrong checksum.
DAMAGED = (errno.ENOTBLK, errno.EILSEQ)


def build(session: Session, volume: Volume, areas: Sequence[Area]) -> None:
    """Make the origin and the front where they are missing or have a table of somebody else."""
    build_origin(session, volume)
    build_front(volume, areas)


def build_origin(session: Session, volume: Volume) -> None:
    """The snapshot-origin over the backing device."""
    backing = BlockDevice.probe(lun.node(volume.backing))
    is_new = not stack.exists(stack.origin(volume))
    settle(stack.origin(volume), stack.origin_table(volume, backing))
    if is_new:
        write_count.remember(session.configuration.run_directory, volume)


def build_front(volume: Volume, areas: Sequence[Area]) -> None:
    """dm-era over the origin that is there.

    Metadata that dm-era does not take is worth nothing, and the volume is: it begins anew.
    """
    metadata = stack.attach_area(volume, stack.era_area(volume, areas))
    table = stack.front_table(volume, metadata)
    try:
        settle(stack.front(volume), table, UdevFlags.SHOWN)
    except OperatingSystemError as error:
        if error.fields.get("errnum") not in DAMAGED or stack.exists(stack.front(volume)):
            raise
        log.warning(
            "dm-era does not take its metadata of %s, which is damaged: it begins anew, and the "
            "next sync compares in full",
            volume.name,
        )
        blockdev.clear_start(metadata.path, PAGE_BYTES)
        settle(stack.front(volume), table, UdevFlags.SHOWN)
    stack.turn_discards_off(volume)


def build_trial(volume: Volume, areas: Sequence[Area]) -> None:
    """A trial's devices as a boot left them: nothing. What it wrote is in the overlay.

    That of a commit that was cut off, too: what the kernel had merged is gone from the stores, and
    an exception leaves a store only when the origin has its chunk, so that snapshots over what is
    left show the same content. The commit is then finished by running it again.
    """
    below = _build_live(volume, areas) if volume.trial_live else _build_levels(volume)
    cow = stack.attach_area(volume, trial.overlay_area(volume, areas))
    settle(stack.origin(volume), trial.overlay_table(volume, below, cow))
    build_front(volume, areas)


def _build_live(volume: Volume, areas: Sequence[Area]) -> int:
    """While a trial shows it, nobody writes to the primary: the live point is what it was."""
    settle(trial.live_point(volume), trial.live_table(volume, areas))
    return stack.require(trial.live_point(volume)).devno


def _build_levels(volume: Volume) -> int:
    label = replica.label_of(volume)
    recovery = BlockDevice.probe(replica.recovery_path(volume))
    below = recovery.devno
    steps_back = history.position_of(label, volume.trial_point) or 0
    levels = chain.levels(volume, label, steps_back, chain.TRIAL)
    for level, entry in zip(levels, label.history, strict=False):
        settle(level.store, chain.store_table(entry, recovery))
        store = stack.require(level.store).devno
        table = chain.level_table(volume, below, store, level.chunk_bytes)
        settle(level.shown, table, read_only=True)
        below = stack.require(level.shown).devno
    return below


def settle(
    device: DmName, table: Table, udev: UdevFlags = UdevFlags.HIDDEN, *, read_only: bool = False
) -> None:
    """Have one of our devices with ``table``, and not suspended.

    An era target is never loaded over another one, which may have the same metadata open and
    would then destroy it.
    """
    info = stack.find(device)
    if info is None:
        dm.create(device.name, device.uuid, table, udev=udev, read_only=read_only)
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
    dm.reload(info.name, table, udev=udev, read_only=read_only)


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
        mounting.unmount(info.devno, wait_seconds, volume.mounts)


def as_mounted(session: Session, volume: Volume) -> Volume:
    """``volume`` with the mounts that its front has now; with those recorded when it has none."""
    info = dm.info(uuid=stack.front(volume).uuid)
    if info is None:
        return volume
    place = mounting.parking(session.configuration.run_directory, volume.name)
    now = mounting.records(info.devno, place)
    return replace(volume, mounts=mounting.merged(now, volume.mounts)) if now else volume
