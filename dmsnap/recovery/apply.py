"""Bring a replica from its point to the next one, so that no crash can leave it torn.

The order: undo data and its metadata areas, then the store's header, flush; label ``applying``,
flush; new data, flush; label ``consistent``, flush. Before the first label nothing happened;
between the labels the undo store leads back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from dmsnap._native import copy, exception_store
from dmsnap._native.copy import CopyOptions, CopyStats, Kept, Progress, UndoStore
from dmsnap._native.extent_set import ExtentSet
from dmsnap._native.label import HistoryEntry, HistoryFlag, Label, LabelState
from dmsnap.catalogue.model import Point
from dmsnap.extent import Extent
from dmsnap.host.signature import Signature
from dmsnap.recovery import history
from dmsnap.recovery.replica import Replica
from dmsnap.recovery.room import Claims, gone, make_room, merging_on
from dmsnap.units import PAGE_BYTES, align_up, to_sectors

UNDO_CHUNK_BYTES = PAGE_BYTES
NO_OPTIONS = CopyOptions()


@dataclass(frozen=True, slots=True)
class Undo:
    """What the undo phase found and where the store lies; nothing refers to it yet.

    ``gone`` are the points that had to leave the history for it.
    """

    label: Label
    stats: CopyStats
    different: ExtentSet
    store: Extent
    kept: Kept
    gone: Sequence[UUID] = ()


def store_bytes(different_bytes: int) -> int:
    """The undo store's size for that many bytes in whole chunks."""
    chunks = align_up(different_bytes, UNDO_CHUNK_BYTES) // UNDO_CHUNK_BYTES
    return exception_store.size_bytes(chunks, UNDO_CHUNK_BYTES)


def write_undo(
    replica: Replica,
    source_fd: int,
    dirty: ExtentSet,
    progress: Progress | None = None,
    options: CopyOptions = NO_OPTIONS,
    claims: Callable[[], Claims] = dict,
) -> Undo:
    """Compare ``dirty`` with the point, and write the old content of what differs.

    When the worst case does not fit into the free part of the history, what differs is counted
    first, and as many points as must go are merged into older ones, or dropped (``recovery.room``):
    from the label before anything is written where their stores lie.
    """
    dirty, needed_bytes, compared = _fitting(replica, source_fd, dirty, progress, options)
    before = replica.label
    current, room = make_room(before, needed_bytes, claims, merging_on(replica))
    if current != replica.label:
        # The stores about to be overwritten must not be in the label any more.
        replica.write_label(current)
    kept = Kept()
    stats, different, undo = copy.compare(
        source_fd,
        replica.fd,
        replica.label.size_bytes,
        dirty,
        undo=UndoStore(
            replica.fd, room.offset_bytes, room.length_bytes, to_sectors(UNDO_CHUNK_BYTES)
        ),
        kept=kept,
        progress=progress,
        options=options,
        name=str(replica.device.path),
    )
    assert undo is not None  # noqa: S101 - a store was given
    stats = replace(stats, bytes_compared=stats.bytes_compared + compared)
    store = Extent(room.offset_bytes, align_up(undo.used_bytes, PAGE_BYTES))
    return Undo(replica.label, stats, different, store, kept, gone(before, current))


def _fitting(
    replica: Replica,
    source_fd: int,
    dirty: ExtentSet,
    progress: Progress | None,
    options: CopyOptions,
) -> tuple[ExtentSet, int, int]:
    """``dirty``, or what of it differs where the undo of all of it would not fit; how large the
    store may become; and how many bytes were compared to know that.
    """
    size_bytes = replica.label.size_bytes
    dirty = aligned(dirty, size_bytes)
    room = history.largest_free(replica.label)
    needed_bytes = store_bytes(dirty.bytes)
    if room is not None and room.length_bytes >= needed_bytes:
        return dirty, needed_bytes, 0
    counted, different, _ = copy.compare(
        source_fd,
        replica.fd,
        size_bytes,
        dirty,
        progress=progress,
        options=options,
        name=str(replica.device.path),
    )
    # What differs may be told coarser than it is.
    return different, store_bytes(counted.bytes_different), counted.bytes_compared


def aligned(dirty: ExtentSet, size_bytes: int) -> ExtentSet:
    """``dirty`` in whole undo chunks, cut at the replica's end."""
    dirty.align(UNDO_CHUNK_BYTES)
    dirty.clamp(size_bytes)
    return dirty


def mark_applying(replica: Replica, undo: Undo, point: Point) -> None:
    """From here on the replica is between two points, and the label says how to get back."""
    old = replica.label
    assert old.point_uuid is not None  # noqa: S101 - a consistent label has one
    entry = HistoryEntry(
        point_uuid=old.point_uuid,
        point_time_ns=old.point_time_ns,
        store_offset_bytes=undo.store.offset_bytes,
        store_length_bytes=undo.store.length_bytes,
        chunk_size=to_sectors(UNDO_CHUNK_BYTES),
        flags=HistoryFlag(old.flags & HistoryFlag.KEEP),
    )
    replica.write_label(
        replace(
            old,
            state=LabelState.APPLYING,
            next_point_uuid=point.id,
            next_point_time_ns=point.created_ns,
            history=(entry, *old.history),
        )
    )


def write_new(
    replica: Replica,
    source_fd: int,
    undo: Undo,
    progress: Progress | None = None,
    options: CopyOptions = NO_OPTIONS,
) -> CopyStats:
    """Copy what differs, from memory what was kept of it, and from the point; and flush."""
    return copy.apply(
        source_fd,
        replica.fd,
        replica.label.size_bytes,
        undo.different,
        kept=undo.kept,
        progress=progress,
        options=options,
        name=str(replica.device.path),
    )


def write_left_out(
    replica: Replica,
    source_fd: int,
    left_out: ExtentSet,
    progress: Progress | None = None,
    options: CopyOptions = NO_OPTIONS,
) -> CopyStats:
    """Copy what the replica's own point leaves out, without keeping what is there, and flush.

    May come before the label says ``applying``: no point holds anything there.
    """
    return copy.apply(
        source_fd,
        replica.fd,
        replica.label.size_bytes,
        left_out,
        zero_detection=True,
        progress=progress,
        options=options,
        name=str(replica.device.path),
    )


def mark_consistent(replica: Replica, *, keep: bool, content: Signature | None = None) -> None:
    """The replica is the next point now; ``content`` is what the point holds, where it is known."""
    current = replica.label
    if content is not None and content.fs_type is not None:
        current = replace(current, fs_type=content.fs_type, fs_uuid=content.uuid or "")
    replica.write_label(
        replace(
            current,
            state=LabelState.CONSISTENT,
            flags=HistoryFlag.KEEP if keep else HistoryFlag(0),
            point_uuid=current.next_point_uuid,
            point_time_ns=current.next_point_time_ns,
            next_point_uuid=None,
            next_point_time_ns=0,
        )
    )
