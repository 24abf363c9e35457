"""A trial: the front over a writable overlay over a point of the recovery volume."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from dmsnap._native.label import Label, LabelState
from dmsnap.catalogue.model import Area, AreaRole, Volume, VolumeState
from dmsnap.errors import (
    BusyError,
    DmsnapError,
    ForeignDeviceError,
    OperatingSystemError,
    PointInvalidError,
    StackChangedError,
    WrongStateError,
)
from dmsnap.host import blockdev
from dmsnap.host.blockdev import (
    LET_GO_ATTEMPTS,
    BlockDevice,
    describe_users_of,
    may_be_let_go,
)
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.cookie import UdevFlags
from dmsnap.host.dm.device import DmInfo
from dmsnap.host.dm.status import SnapshotState, SnapshotStatus
from dmsnap.host.dm.target import Snapshot, Table, single
from dmsnap.recovery import chain, history, replica
from dmsnap.service.exports import exported
from dmsnap.service.journal import StepTimes
from dmsnap.service.session import Session
from dmsnap.snapshot import bypass, origin_count, stack, window_count
from dmsnap.snapshot.exchange import exchange
from dmsnap.snapshot.stack import DmName

log = logging.getLogger(__name__)

OVERLAY_CHUNK_BYTES = 4096
OVERLAY_WARNING_PERCENT = 80

# What the label of a recovery volume may say while the front lies over it: a commit marks it, and
# may be cut off before it has recorded what it marked.
LABEL_STATES = {
    VolumeState.TRIAL: (LabelState.CONSISTENT,),
    VolumeState.COMMITTING: (LabelState.CONSISTENT, LabelState.MERGING, LabelState.PRIMARY),
}


@dataclass(frozen=True, slots=True)
class SwapResult:
    """What the front shows now, and the seconds of every step.

    ``given_up`` says what was lost with a trial that could not be shown any more.
    """

    volume: str
    state: VolumeState
    point: UUID | None
    steps: dict[str, float]
    seconds: float
    given_up: str | None = None


def result(volume: Volume, times: StepTimes) -> SwapResult:
    """What the front shows now."""
    return SwapResult(volume.name, volume.state, volume.trial_point, times.seconds, times.total)


def overlay_table(volume: Volume, below: int, cow: BlockDevice) -> Table:
    """A writable overlay over a point."""
    return single(volume.size_bytes, Snapshot(below, cow.devno, OVERLAY_CHUNK_BYTES))


def create_overlay(volume: Volume, below: int, cow: BlockDevice) -> None:
    """Make a trial's overlay, whose header is there after a power cut, too: the kernel flushes it
    with the first thing to keep, and without one a boot takes the overlay for lost.
    """
    device = stack.origin(volume)
    dm.create(device.name, device.uuid, overlay_table(volume, below, cow))
    blockdev.flush_cache(cow.path)


def overlay_area(volume: Volume, areas: Sequence[Area]) -> Area:
    """The piece of the store that takes what a trial writes."""
    for area in areas:
        if area.role is AreaRole.OVERLAY and area.generation == volume.generation:
            return area
    raise StackChangedError(f"the catalogue has no overlay for the trial of {volume.name}")


def point_area(areas: Sequence[Area], point_id: UUID | None) -> Area:
    """The COW store of the live point that a trial shows."""
    for area in areas:
        if area.role is AreaRole.COW and area.point_id == point_id:
            return area
    raise StackChangedError(f"the catalogue has no COW store for point {point_id}")


def require_recovery(volume: Volume) -> Label:
    """The label of the recovery volume that a trial, or the commit of one, lies over.

    Another host may have taken it since the devices were there last, and serve it: an overlay over
    anything but the point that it was made for shows what never was, and what the other host has
    mounted would be written to by two. Raises ``ForeignDeviceError`` and ``PointInvalidError``.
    """
    path = replica.recovery_path(volume)
    label = replica.label_of(volume)
    try:
        replica.require_usable(path, label)
    except ForeignDeviceError as error:
        error.hint = (
            f"if the other host gives it back with dmsnap unprotect, dmsnap assemble {volume.name} "
            f"builds the trial again"
        )
        raise
    if label.state not in LABEL_STATES[volume.state]:
        raise PointInvalidError(
            f"{path} is {label.state.name.lower()}: it is not what the trial of {volume.name} lies "
            f"over any more"
        )
    levels_by(volume, label)
    return label


def levels(volume: Volume) -> list[chain.Level]:
    """The levels between the recovery volume and the overlay; over a live point there are none."""
    return [] if volume.trial_live else levels_by(volume, replica.label_of(volume))


def levels_by(volume: Volume, label: Label) -> list[chain.Level]:
    """The levels down to the point that a trial shows of its recovery volume.

    Where that has become the volume all are merged. :class:`PointInvalidError` when the label does
    not have the point: nothing there is what the overlay was made for.
    """
    if volume.state is VolumeState.COMMITTING and label.state is LabelState.PRIMARY:
        return []
    steps_back = history.position_of(label, volume.trial_point)
    if steps_back is None:
        raise PointInvalidError(
            f"the trial of {volume.name} shows point {volume.trial_point}, which is not on its "
            f"recovery volume any more"
        )
    return chain.levels(volume, label, steps_back, chain.TRIAL)


def expected_tables(volume: Volume, areas: Sequence[Area]) -> dict[DmName, Table]:
    """What the devices of a volume in trial should look like now."""
    if volume.trial_live:
        return _expected_over_live(volume, areas)
    below = BlockDevice.probe(replica.recovery_path(volume)).devno
    tables: dict[DmName, Table] = {}
    for level in levels(volume):
        store = stack.require(level.store).devno
        tables[level.shown] = chain.level_table(volume, below, store, level.chunk_bytes)
        below = stack.require(level.shown).devno
    return tables | _expected_above(volume, areas, below)


def _expected_above(volume: Volume, areas: Sequence[Area], below: int) -> dict[DmName, Table]:
    cow = stack.attach_area(volume, overlay_area(volume, areas))
    metadata = stack.attach_area(volume, stack.era_area(volume, areas))
    return {
        stack.origin(volume): overlay_table(volume, below, cow),
        stack.front(volume): stack.front_table(volume, metadata),
    }


def _expected_over_live(volume: Volume, areas: Sequence[Area]) -> dict[DmName, Table]:
    shown = live_point(volume)
    table = live_table(volume, areas)
    return {shown: table} | _expected_above(volume, areas, stack.require(shown).devno)


def live_point(volume: Volume) -> DmName:
    """The device of the live point that a trial shows."""
    if volume.trial_point is None:
        raise StackChangedError(f"the catalogue does not say which point {volume.name} shows")
    return stack.live_point(volume, volume.trial_point)


def live_table(volume: Volume, areas: Sequence[Area]) -> Table:
    """What the live point that a trial shows should look like."""
    cow = stack.attach_area(volume, point_area(areas, volume.trial_point))
    return stack.point_table(volume, stack.backing(volume), cow)


def hide(volume: Volume, levels: list[chain.Level]) -> None:
    """Remove the overlay's device and the levels below it."""
    device = stack.origin(volume)
    stack.remove(device)
    stack.remove(stack.store_again(device))
    chain.remove(levels)


def make_metadata(volume: Volume, area: Area) -> None:
    """Let dm-era make the metadata of a generation that the front will be loaded for.

    Done while the old front still serves: it takes dm-era longer the larger the volume is.
    Measured: 0.08 s for 64 GiB, 1.8 s for 4 TiB, in blocks of 64 KiB.
    """
    device = stack.era_maker(volume)
    metadata = stack.attach_area(volume, area)
    dm.create(device.name, device.uuid, stack.front_table(volume, metadata))
    stack.remove(device)


def load_front(session: Session, volume: Volume, metadata: Area) -> None:
    """Reload the unmounted front for the volume's generation, and drop what was cached of it.

    In a window: killed in the middle of it, the front goes on, with one table or the other.
    ``BusyError`` while somebody has it open, as when what was mounted cannot be unmounted again.

    Never loaded twice: a second era target on metadata in use would destroy it.
    """
    front = stack.require(stack.front(volume))
    table = stack.front_table(volume, stack.attach_area(volume, metadata))
    if dm.table(front.name) != table:
        require_unopened(volume)
        _go_over(session, volume, front, table)
    stack.turn_discards_off(volume)
    blockdev.flush_buffers(dm.node(front.name))


def _go_over(session: Session, volume: Volume, front: DmInfo, table: Table) -> None:
    """Load the front over the volume's origin, and count from that moment on: an initiator may
    write all the while.
    """
    left = _leave(session, volume)
    origins = [stack.require(stack.origin(each)).devno for each in (volume, *left)]
    devices = [front.devno, *origins]
    deadline_ms = session.configuration.window_deadline_ms
    by_front, *counted = exchange(front, table, deadline_ms, counted=devices)
    counts = [window_count.of_front(by_front, each) for each in counted]
    directory = session.configuration.run_directory
    for other, of_other in zip(left, counts[1:], strict=True):
        if of_other is not None:
            origin_count.left(directory, other, of_other)
    origin_count.arrive(directory, volume, counts[0])


def _leave(session: Session, volume: Volume) -> list[Volume]:
    """Before the front lies over the volume's present generation: what is known of another one, of
    those that are returned.
    """
    known = []
    for generation in (volume.generation - 1, volume.generation + 1):
        other = replace(volume, generation=generation)
        try:
            if lies_over(other):
                origin_count.leave(session.configuration.run_directory, other)
                known.append(other)
        except DmsnapError as error:  # it keeps nobody from a recovery
            log.warning("who writes to %s is not counted: %s", stack.origin(other).name, error)
    return known


def load_front_back(session: Session, volume: Volume, metadata: Area) -> bool:
    """Reload the front for a generation that it had before; whether dm-era is in it again.

    Where its metadata cannot be read or written the front leads past it: the volume comes first.
    """
    try:
        if not bypass.leads_past(volume):
            load_front(session, volume, metadata)
            return True
    except OperatingSystemError as error:
        if error.fields.get("errnum") not in bypass.METADATA_ERRORS:
            raise
        log.warning("dm-era cannot use its metadata of %s any more: %s", volume.name, error)
        _load_front_past_era(session, volume)
    return False


def _load_front_past_era(session: Session, volume: Volume) -> None:
    front = stack.require(stack.front(volume))
    if not bypass.leads_past(volume):
        require_unopened(volume)
        _leave(session, volume)
        exchange(front, bypass.table(volume), session.configuration.window_deadline_ms)
        origin_count.forget(session.configuration.run_directory, volume)
    stack.turn_discards_off(volume)
    blockdev.flush_buffers(dm.node(front.name))


def create_front(session: Session, volume: Volume, metadata: Area) -> None:
    """Make the front over the volume's present generation, where there is none: a boot that could
    not assemble the volume left none, and a host that never had it has none.
    """
    front = stack.front(volume)
    table = stack.front_table(volume, stack.attach_area(volume, metadata))
    dm.create(front.name, front.uuid, table, udev=UdevFlags.SHOWN)
    stack.turn_discards_off(volume)
    origin_count.arrive(session.configuration.run_directory, volume)


def is_loaded(volume: Volume, areas: Sequence[Area]) -> bool:
    """Whether the front lies over the volume's present generation.

    It does not when a swap or a revert was killed between loading the front and recording it.
    """
    if not stack.exists(stack.front(volume)) or not stack.exists(stack.origin(volume)):
        return False
    metadata = stack.attach_area(volume, stack.era_area(volume, areas))
    return dm.table(stack.front(volume).name) == stack.front_table(volume, metadata)


def lies_over(volume: Volume) -> bool:
    """Whether the front lies over the volume's present generation: neither store nor catalogue is
    asked.
    """
    front, below = stack.find(stack.front(volume)), stack.find(stack.origin(volume))
    return front is not None and below is not None and below.devno in dm.deps(front.name)


def require_unopened(volume: Volume) -> None:
    """Raise while somebody has the front open: its content is about to change under them.

    LIO may: a LUN stays what it is, and what initiators have cached of it is for them to drop.
    """
    published = exported.opened_by_lio(volume)
    for _ in range(LET_GO_ATTEMPTS):
        info = stack.require(stack.front(volume))
        if info.open_count <= published:
            return
        if not may_be_let_go(info.devno):
            break
    users = describe_users_of(info.devno) or "the kernel or another mount namespace"
    raise BusyError(f"/dev/mapper/{volume.name} is in use: {users}")


def overlay_usage(volume: Volume) -> SnapshotStatus:
    """How full a trial's overlay is, and whether the kernel gave it up."""
    return dm.snapshot_status(stack.require(stack.origin(volume)).name)


def overlay_problems(volume: Volume) -> list[str]:
    """A trial whose overlay is full is lost: the front gives errors, only reverting is left."""
    usage = overlay_usage(volume)
    if usage.state is not SnapshotState.OK:
        return [
            f"the overlay of the trial of {volume.name} is {usage.state.value}: what the trial "
            f"wrote is lost, dmsnap swap revert {volume.name} returns to the primary"
        ]
    if usage.used_sectors * 100 > usage.total_sectors * OVERLAY_WARNING_PERCENT:
        return [
            f"the overlay of the trial is over {OVERLAY_WARNING_PERCENT} % full: "
            f"dmsnap swap extend {volume.name} gives it more room"
        ]
    return []


def require_overlay(volume: Volume) -> None:
    """Raise :class:`PointInvalidError` when the trial's overlay cannot be merged any more."""
    if overlay_usage(volume).state is not SnapshotState.OK:
        raise PointInvalidError(overlay_problems(volume)[0])


def way_back(volume: Volume) -> str | None:
    """What ends a trial that a boot could not build again, or its commit; None: it is shown, or has
    no primary.
    """
    if volume.state not in LABEL_STATES or dm.info(uuid=stack.front(volume).uuid) is not None:
        return None
    if volume.state is VolumeState.COMMITTING:
        return way_out(volume)
    if not volume.backing:
        return None
    return (
        f"dmsnap swap revert {volume.name} gives up the trial and what it wrote, and goes back to "
        f"the primary"
    )


def way_out(volume: Volume) -> str:
    """What gives up a trial, or a commit, as a part of a sentence."""
    if volume.state is VolumeState.COMMITTING and volume.backing and not volume.trial_live:
        return (
            f"if the recovery volume is gone for good, dmsnap swap revert {volume.name} --give-up "
            f"goes back to {volume.backing} as it was left"
        )
    return (
        f"if what it lies on is gone for good, dmsnap unprotect {volume.name} --give-up takes all "
        f"of it down"
    )


def require_trial(volume: Volume) -> None:
    """Raise unless the volume is in trial."""
    if volume.state is not VolumeState.TRIAL:
        hint = way_out(volume) if volume.state is VolumeState.COMMITTING else None
        raise WrongStateError(
            f"{volume.name} is in state {volume.state}, there is no trial", hint=hint
        )
