"""A volume's stack as a whole: building it, taking it down, mounting its front."""

import errno
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from uuid import UUID

from dmsnap.catalogue.model import SETTLED, Area, Volume
from dmsnap.errors import (
    CorruptError,
    DmsnapError,
    NotFoundError,
    OperatingSystemError,
    PointInvalidError,
)
from dmsnap.host import blockdev, placeholder
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.cookie import UdevFlags
from dmsnap.host.dm.target import Table
from dmsnap.recovery import chain, replica
from dmsnap.service.exports import exported
from dmsnap.service.session import Session
from dmsnap.service.swaps import mounting, trial
from dmsnap.snapshot import bypass, cow_store, layers, live, origin_count, stack, write_count
from dmsnap.snapshot.stack import DmName
from dmsnap.units import PAGE_BYTES

log = logging.getLogger(__name__)

# What the checks of dm-era's superblock and of its trees' blocks answer (drivers/md, sb_check and
# node_check): another place than it was written for, a wrong checksum.
DAMAGED = (errno.ENOTBLK, errno.EILSEQ)

MISSED_WRITES = "its snapshot was not there while the volume was in use"


def build(session: Session, volume: Volume, areas: Sequence[Area]) -> None:
    """Make the origin and the front where they are missing or have a table of somebody else."""
    if stack.live_front(volume):
        build_layers(session, volume, areas)
        return
    build_origin(session, volume)
    build_front(session, volume, areas)


def build_layers(session: Session, volume: Volume, areas: Sequence[Area]) -> None:
    """Put the layers under the LV, whoever has it mounted; nothing happens when they are there.

    A swap that was killed may have left a front of its own over the same metadata.
    """
    deadline_ms = session.configuration.window_deadline_ms
    if not layers.are_in_place(volume):
        for device in (stack.own_front(volume), stack.era_maker(volume)):
            stack.remove(device)
        layers.build_base(volume, deadline_ms)
        build_origin(session, volume)
        area = stack.era_area(volume, areas)
        metadata = stack.attach_area(volume, area)
        # Before the LV waits for it.
        make = partial(trial.make_metadata, volume, area)
        begin_anew_if_damaged(session, volume, metadata, make)
        layers.put(volume, metadata, deadline_ms)
    stack.turn_discards_off(volume)


def remove_layers(session: Session, volume: Volume) -> None:
    """Give the LV its own table back under its users, and remove what lay below."""
    layers.take_out(volume, session.configuration.window_deadline_ms)
    tear_down(volume)


def build_origin(session: Session, volume: Volume) -> None:
    """The snapshot-origin over the backing device, or over the base that stands for it.

    Once the LV's own dm device is no front any more, the base lies on it: so LVM may do with the LV
    what it does with one that is in use.
    """
    if not stack.live_front(volume) and stack.exists(stack.base(volume)):
        _settle(session, stack.base(volume), layers.held_table(volume))
    is_new = not stack.exists(stack.origin(volume))
    _settle(session, stack.origin(volume), stack.origin_table(volume, stack.backing(volume)))
    if is_new:
        write_count.remember(session.configuration.run_directory, volume)


def build_front(session: Session, volume: Volume, areas: Sequence[Area]) -> None:
    """dm-era over the origin that is there."""
    area = stack.era_area(volume, areas)
    try:
        metadata = stack.attach_area(volume, area)
    except (NotFoundError, OperatingSystemError) as error:
        if not _may_lead_past(volume):
            raise
        log.warning("%s, where dm-era has its metadata, is away: %s", area.path, error)
        build_past_era(session, volume)
        return
    table = stack.front_table(volume, metadata)
    settle = partial(_settle, session, stack.front(volume), table, UdevFlags.SHOWN)
    try:
        begin_anew_if_damaged(session, volume, metadata, settle)
    except OperatingSystemError as error:
        if error.fields.get("errnum") not in bypass.METADATA_ERRORS or not _may_lead_past(volume):
            raise
        build_past_era(session, volume)
    else:
        stack.turn_discards_off(volume)
        origin_count.arrive(session.configuration.run_directory, volume)


def build_past_era(session: Session, volume: Volume) -> None:
    """A front without dm-era, whose metadata cannot be read or written: the volume comes first."""
    log.warning("dm-era cannot use its metadata of %s: the front leads past it", volume.name)
    session.distrust(volume)
    _settle(session, stack.front(volume), bypass.table(volume), UdevFlags.SHOWN)
    stack.turn_discards_off(volume)


def _may_lead_past(volume: Volume) -> bool:
    """A front that is there goes on as it is; who protects a volume, or shows one on trial, can do
    without.
    """
    return volume.state in SETTLED and not stack.exists(stack.front(volume))


def begin_anew_if_damaged(
    session: Session, volume: Volume, metadata: BlockDevice, open_it: Callable[[], None]
) -> None:
    """Metadata that dm-era does not take is worth nothing, and the volume is: it begins anew.

    That is recorded before: its eras begin at 1 again, and soon pass those of the points.
    """
    try:
        open_it()
    except OperatingSystemError as error:
        if error.fields.get("errnum") not in DAMAGED or stack.exists(stack.own_front(volume)):
            raise
        log.warning(
            "dm-era does not take its metadata of %s, which is damaged: it begins anew, and the "
            "next sync compares in full",
            volume.name,
        )
        session.distrust(volume)
        blockdev.clear_start(metadata.path, PAGE_BYTES)
        open_it()


def build_trial(session: Session, volume: Volume, areas: Sequence[Area]) -> None:
    """A trial's devices as a boot left them: nothing. What it wrote is in the overlay.

    That of a commit that was cut off, too: what the kernel had merged is gone from the stores, and
    an exception leaves a store only when the origin has its chunk, so that snapshots over what is
    left show the same content. The commit is then finished by running it again.
    """
    if volume.trial_live:
        below = _build_live(session, volume, areas)
    else:
        below = _build_levels(session, volume)
    cow = stack.attach_area(volume, trial.overlay_area(volume, areas))
    if not stack.exists(stack.origin(volume)):
        cow_store.require_header(cow, f"the overlay of the trial of {volume.name}")
    _settle(session, stack.origin(volume), trial.overlay_table(volume, below, cow))
    build_front(session, volume, areas)


def _build_live(session: Session, volume: Volume, areas: Sequence[Area]) -> int:
    """While a trial shows it, nobody writes to the primary: the live point is what it was."""
    shown = trial.live_point(volume)
    if not stack.exists(shown):
        _require_live_store(session, volume, areas)
    _settle(session, shown, trial.live_table(volume, areas))
    return stack.require(shown).devno


def _require_live_store(session: Session, volume: Volume, areas: Sequence[Area]) -> None:
    """A live point whose store is damaged is no point: that is recorded, too."""
    area = trial.point_area(areas, volume.trial_point)
    store = stack.attach_area(volume, area)
    try:
        name = f"the COW store of point {volume.trial_point} of {volume.name}"
        cow_store.require_device(store, volume.chunk_bytes, name)
    except CorruptError as error:
        point = session.catalogue.find_point(volume.trial_point) if volume.trial_point else None
        if point is not None and point.invalid_reason is None:
            session.catalogue.update_point(replace(point, invalid_reason=str(error)))
        raise PointInvalidError(
            f"the trial of {volume.name} cannot be shown: {error}", point=str(volume.trial_point)
        ) from error


def _build_levels(session: Session, volume: Volume) -> int:
    """Of the kernel's own devices nothing is made before label and stores are looked at."""
    label = trial.require_recovery(volume)
    recovery = BlockDevice.probe(replica.recovery_path(volume))
    levels = trial.levels_by(volume, label)
    chain.require_whole(recovery, label.history[: len(levels)])
    below = recovery.devno
    for level, entry in zip(levels, label.history, strict=False):
        _settle(session, level.store, chain.store_table(entry, recovery))
        store = stack.require(level.store).devno
        table = chain.level_table(volume, below, store, level.chunk_bytes)
        _settle(session, level.shown, table, read_only=True)
        below = stack.require(level.shown).devno
    return below


def _settle(
    session: Session,
    device: DmName,
    table: Table,
    udev: UdevFlags = UdevFlags.HIDDEN,
    *,
    read_only: bool = False,
) -> None:
    deadline_ms = session.configuration.window_deadline_ms
    stack.settle(device, table, deadline_ms, udev, read_only=read_only)


def drop_broken_points(session: Session, volume: Volume, *, but: UUID | None = None) -> None:
    """A snapshot that was not there while its origin was written to holds no moment.

    What its store cannot give back now, as it is away, the next command does.
    """
    for point in session.live_points(volume):
        if point.id == but:
            continue
        live.remove(volume, point.id)
        area = session.area(volume, point.area_id) if point.area_id else None
        reason = point.invalid_reason or MISSED_WRITES
        session.catalogue.update_point(replace(point, area_id=None, invalid_reason=reason))
        if area is not None:
            _given_back(session, volume, area)


def _given_back(session: Session, volume: Volume, area: Area) -> None:
    try:
        session.require_store(volume)
        session.release_area(volume, area)
    except DmsnapError as error:
        log.warning("%s could not be given back: %s", area.path, error)


def tear_down(volume: Volume) -> None:
    """Remove a front of ours, the origin and what stands for an LV below, as far as they exist."""
    for device in (
        stack.own_front(volume),
        stack.era_maker(volume),
        stack.origin(volume),
        stack.base(volume),
    ):
        stack.remove(device)


def mount_front(volume: Volume) -> None:
    """Mount the front at every place recorded for the volume.

    What LIO publishes it holds for itself: that is recorded of the time before, and not mounted.
    """
    info = stack.require(stack.front(volume))
    if volume.mounts and exported.opened_by_lio(volume):
        log.warning("/dev/mapper/%s is exported, and so not mounted", volume.name)
        return
    mounting.mount_all(dm.node(info.name), info.devno, volume.mounts)


def unmount_front(volume: Volume, wait_seconds: float) -> None:
    """Unmount the front everywhere; nothing happens when it does not exist.

    Its mount points are held until it is mounted again, or the volume's lock let go.
    """
    info = dm.info(uuid=stack.front(volume).uuid)
    if info is not None:
        held_as = placeholder.source(volume.id, volume.name)
        mounting.unmount(info.devno, wait_seconds, volume.mounts, held_as=held_as)


def as_mounted(session: Session, volume: Volume, *, asked: bool = False) -> Volume:
    """``volume`` with the mounts that its front has now; with those recorded when it has none.

    ``asked``: as they were made by somebody, also where an error has made them read-only since.
    """
    info = dm.info(uuid=stack.front(volume).uuid)
    if info is None:
        return volume
    place = mounting.parking(session.configuration.run_directory, volume.name)
    now = mounting.records(info.devno, place, asked=asked)
    return replace(volume, mounts=mounting.merged(now, volume.mounts)) if now else volume
