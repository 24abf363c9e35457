"""Live points: COW snapshots on the primary, all of a set taken in one window."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from dmsnap._native import window
from dmsnap._native.window import WindowAction, WindowStep
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import Area, Point, Volume
from dmsnap.errors import CorruptError, DmsnapError, NotFoundError, PointInvalidError, of_volume
from dmsnap.host import blockdev, fsfreeze
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.cookie import Cookie, UdevFlags
from dmsnap.host.dm.status import SnapshotState, SnapshotStatus
from dmsnap.host.dm.target import Snapshot
from dmsnap.host.mountinfo import mounts_of
from dmsnap.snapshot import bypass, layers, stack, suspension, window_count
from dmsnap.snapshot.window_count import WriteCounts
from dmsnap.units import MIB, PAGE_BYTES, align_up

log = logging.getLogger(__name__)

MIN_COW_BYTES = 16 * MIB


@dataclass(frozen=True, slots=True)
class TakenPoint:
    """A point, and what was counted at its moment; None where that is not known."""

    point: Point
    counts: WriteCounts | None


@dataclass(frozen=True, slots=True)
class PreparedPoint:
    """A snapshot that is created and loaded, and waits for the window to activate it."""

    volume: Volume
    point_id: UUID
    area: Area


def cow_bytes(volume: Volume, percent: int) -> int:
    """Room for ``percent`` of the volume's chunks, its metadata areas included."""
    data_bytes = align_up(volume.size_bytes * percent // 100, volume.chunk_bytes)
    metadata_bytes = align_up(data_bytes // volume.chunk_bytes * 16, PAGE_BYTES)
    return align_up(max(MIN_COW_BYTES, data_bytes + metadata_bytes + MIB), MIB)


def prepare(volume: Volume, point_id: UUID, area: Area) -> PreparedPoint:
    """Create and load the snapshot: everything that touches its COW store happens here."""
    table = stack.point_table(volume, stack.backing(volume), stack.attach_area(volume, area))
    device = stack.live_point(volume, point_id)
    dm.create_inactive(device.name, device.uuid, table)
    return PreparedPoint(volume, point_id, area)


def remove(volume: Volume, point_id: UUID) -> None:
    """Remove a live point's snapshot device, if there is one."""
    device = stack.live_point(volume, point_id)
    stack.remove(device)
    stack.remove(stack.store_again(device))


def undivide(volume: Volume, deadline_ms: int) -> None:
    """Have the origin pass writes on whole, now that no snapshot is there for which it cuts them.

    Only its resume asks for the chunks of the snapshots that there are (drivers/md/dm-snap.c,
    origin_resume): until then a write of 1 MiB would go on as 256 requests, at twice the processor
    time. The front is not suspended, and what comes meanwhile, less than a millisecond, waits in
    the origin. Nothing is lost but speed where this fails.
    """
    try:
        info = stack.find(stack.origin(volume))
        if info is None or not info.live_table or info.inactive_table or info.suspended:
            return
        actions = (WindowAction.SUSPEND_NO_FREEZE, WindowAction.RESUME)
        window.run([WindowStep(info.uuid, action) for action in actions], deadline_ms)
    except DmsnapError as error:
        log.warning("writes to %s go on in chunks until its next point: %s", volume.name, error)


def take(
    prepared: Sequence[PreparedPoint], deadline_ms: int, *, keep: bool, temporary: bool
) -> list[TakenPoint]:
    """Run the window: one moment for all. Returns the points, to be recorded.

    Dirty pages are flushed before it, so that the freeze has little left to write: the bulk here,
    where a signal can end it, and what was written meanwhile right before the first suspend. The
    era is read before the window too: reading it inside hangs, and after it a foreign suspend
    could have rolled it once more. Every write after the window carries at least that era + 1.

    ``NoSpaceError`` and ``WrongStateError`` where a front could not go on after it.
    :class:`StackChangedError` where dm-era cannot write its metadata: the front goes on without it.
    """
    eras = []
    for item in prepared:
        with of_volume(item.volume.name):
            eras.append(_era_before(item.volume, deadline_ms))
    volumes = [item.volume for item in prepared]
    with ExitStack() as opened, window_count.counters(volumes) as counters, Cookie() as cookie:
        file_systems = []
        for item in prepared:
            with of_volume(item.volume.name):
                file_systems += _flushed(item.volume, opened)
        steps = window_steps(in_order(prepared), cookie)
        with bypass.going_on(volumes, deadline_ms), _of_their_volume(volumes):
            times = window.run(steps, deadline_ms, file_systems=file_systems, counters=counters)
        created_ns = now_ns()
        for step in times.steps:
            if step.event_nr and not step.uevent_generated:
                cookie.complete_one()
        cookie.wait(dm.UDEV_SECONDS)
    for item in prepared:
        dm.make_nodes(stack.live_point(item.volume, item.point_id).name)
        layers.require(item.volume)
    points = [
        Point(
            id=item.point_id,
            volume_id=item.volume.id,
            created_ns=created_ns,
            keep=keep,
            temporary=temporary,
            era_since=era + 1,
            tracking_id=item.volume.tracking_id,
            window_seconds=times.seconds,
            area_id=item.area.id,
        )
        for item, era in zip(prepared, eras, strict=True)
    ]
    counts = window_count.of(volumes, times.counted)
    return [TakenPoint(*taken) for taken in zip(points, counts, strict=True)]


def _flushed(volume: Volume, opened: ExitStack) -> list[int]:
    return [opened.enter_context(fsfreeze.flushed(place)) for place in mounted(volume)]


@contextmanager
def _of_their_volume(volumes: Sequence[Volume]) -> Iterator[None]:
    """A window that fails names the device that it failed of by its UUID: LVM's for a front that is
    an LV, else one with the volume's in it.
    """
    try:
        yield
    except DmsnapError as error:
        for volume in volumes:
            if str(volume.id) in str(error) or stack.front(volume).uuid in str(error):
                error.fields.setdefault("volume", volume.name)
        raise


def in_order(prepared: Sequence[PreparedPoint]) -> list[PreparedPoint]:
    """Those first whose stores or backing devices lie on others of them."""
    fronts = [
        suspension.front(
            stack.require(stack.front(item.volume)),
            [stack.attach_area(item.volume, item.area).devno],
        )
        for item in prepared
    ]
    return [prepared[place] for place in suspension.order(fronts)]


def window_steps(prepared: Sequence[PreparedPoint], cookie: Cookie) -> list[WindowStep]:
    """Suspend fronts, suspend origins, activate snapshots, resume origins, resume fronts.

    The origin is suspended and resumed around the activation because only its resume makes it
    split large writes at the chunk size (drivers/md/dm-snap.c, origin_resume); without that a
    snapshot misses all but the first chunk of each.
    """
    fronts = [stack.front(item.volume).uuid for item in prepared]
    origins = [stack.origin(item.volume).uuid for item in prepared]
    points = [stack.live_point(item.volume, item.point_id).uuid for item in prepared]
    return [
        *(WindowStep(uuid, WindowAction.SUSPEND) for uuid in fronts),
        *(WindowStep(uuid, WindowAction.SUSPEND_NO_FREEZE) for uuid in origins),
        *(
            WindowStep(uuid, WindowAction.RESUME, cookie.event_nr(UdevFlags.HIDDEN))
            for uuid in points
        ),
        *(WindowStep(uuid, WindowAction.RESUME) for uuid in reversed(origins)),
        *(bypass.resuming(item.volume) for item in reversed(prepared)),
    ]


def mounted(volume: Volume) -> list[Path]:
    """A place where the front's file system is mounted, if it is; one stands for all."""
    info = stack.require(stack.front(volume))
    return [mount.mount_point for mount in mounts_of(info.devno)[:1]]


def current_era(volume: Volume) -> int:
    """The front's era. Never called inside a window: a suspended era device does not answer."""
    return dm.era_status(stack.front(volume).name).current_era


def _era_before(volume: Volume, deadline_ms: int) -> int:
    """dm-era writes its metadata with every answer: ``Error`` says that it could not."""
    try:
        return suspension.resumable_era(stack.require(stack.front(volume)))
    except CorruptError as error:
        bypass.pass_by(volume, deadline_ms)
        raise bypass.lost(volume) from error


def usage(volume: Volume, point: Point) -> SnapshotStatus:
    """How full a live point's COW store is, and whether it is still valid."""
    return dm.snapshot_status(stack.live_point(volume, point.id).name)


def require_valid(volume: Volume, point: Point) -> None:
    """Raise :class:`PointInvalidError` when the kernel gave the snapshot up, or when what was
    written to the volume passed it by, now or as it was found before.
    """
    layers.require(volume)
    status = usage(volume, point)
    if status.state is not SnapshotState.OK:
        raise PointInvalidError(
            f"point {point.id} of {volume.name} is {status.state.value}: its COW store "
            f"could not take all that was written to the volume meanwhile",
            hint="give points more room with --cow-percent",
            point=str(point.id),
        )
    if point.invalid_reason is not None:
        raise PointInvalidError(
            f"point {point.id} of {volume.name} is worth nothing: {point.invalid_reason}",
            point=str(point.id),
        )


def make_durable(volume: Volume) -> None:
    """Have the volume's device keep for good what its points show.

    A freeze flushes the file system's device; without one, a suspend flushes no cache of the disk.
    What the disk then loses under a host that lives on is on the replica, and has no mark.
    """
    blockdev.flush_cache_apart(stack.backing(volume).path)


def _is_snapshot(name: str) -> bool:
    return [line.target.type_name for line in dm.table(name)] == [Snapshot.type_name]


def with_validity(volume: Volume, point: Point) -> Point:
    """``point`` with the reason why its snapshot is worth nothing any more, if there is one."""
    if point.area_id is None or point.invalid_reason is not None:
        return point
    if (sentence := layers.dropped(volume)) is not None:
        return replace(point, invalid_reason=sentence)
    info = stack.find(stack.live_point(volume, point.id))
    gone = replace(point, invalid_reason="its snapshot device is gone")
    if info is None or not info.live_table or not _is_snapshot(info.name):
        return gone
    try:
        state = usage(volume, point).state
    except NotFoundError:  # removed since, by a command that works on the volume
        return gone
    if state is SnapshotState.OK:
        return point
    return replace(point, invalid_reason=f"the kernel reports its snapshot as {state.value}")
