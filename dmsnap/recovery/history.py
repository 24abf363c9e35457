"""Where undo stores lie in the region behind the replica. Pure arithmetic on labels."""

from dataclasses import replace
from uuid import UUID

from dmsnap._native.label import HistoryEntry, Label, LabelState
from dmsnap.extent import Extent
from dmsnap.units import MIB, PAGE_BYTES, align_down, align_up

# With so many the label's sector is full: more would be another version of it.
MAX_ENTRIES = 64
REGION_GRANULARITY_BYTES = MIB
MIN_REGION_BYTES = 4 * MIB
BACKUP_BYTES = MIB
# The backup of the catalogue takes at most a sixteenth of what the history would have.
BACKUP_SHARE = 16


def region(size_bytes: int, label_offset_bytes: int) -> Extent:
    """The region for undo stores: from behind a replica of ``size_bytes`` up to the label.

    Where there is room, it ends before the backup of the catalogue.
    """
    start = align_up(size_bytes, REGION_GRANULARITY_BYTES)
    end = align_down(label_offset_bytes, PAGE_BYTES)
    if end - start >= BACKUP_SHARE * BACKUP_BYTES:
        end -= BACKUP_BYTES
    return Extent(start, end - start)


def backup_extent(label: Label, label_offset_bytes: int) -> Extent | None:
    """Where the backup of the catalogue lies: before the label area, and behind all else.

    None where the history goes up to the label.
    """
    start = align_down(label_offset_bytes, PAGE_BYTES) - BACKUP_BYTES
    end = max(label.history_offset_bytes + label.history_length_bytes, label.size_bytes)
    return Extent(start, BACKUP_BYTES) if start >= end else None


def with_backup(label: Label, label_offset_bytes: int) -> Label | None:
    """``label`` with a history that leaves room for the backup; itself where it does already.

    None where it cannot: the history would be too small, or a store lies there.
    """
    if backup_extent(label, label_offset_bytes) is not None:
        return label
    end = region(label.size_bytes, label_offset_bytes).end_bytes
    length_bytes = end - label.history_offset_bytes
    used = max((store_extent(entry).end_bytes for entry in label.history), default=0)
    settled = label.state in (LabelState.CONSISTENT, LabelState.PRIMARY)
    shorter = replace(label, history_length_bytes=max(0, length_bytes))
    if not settled or used > end or backup_extent(shorter, label_offset_bytes) is None:
        return None
    return shorter


def needed_device_bytes(size_bytes: int, label_area_bytes: int) -> int:
    """The smallest recovery volume that a volume of ``size_bytes`` can have."""
    replica_bytes = align_up(size_bytes, REGION_GRANULARITY_BYTES)
    return replica_bytes + MIN_REGION_BYTES + label_area_bytes


def largest_replica_bytes(label_offset_bytes: int) -> int:
    """The largest volume that a device whose label begins there can be, or hold."""
    return align_down(label_offset_bytes - MIN_REGION_BYTES, REGION_GRANULARITY_BYTES)


def held(label: Label) -> list[UUID]:
    """The points that a recovery volume holds, newest first: the replica's, then its history's."""
    if label.state is not LabelState.CONSISTENT or label.point_uuid is None:
        return []
    return [label.point_uuid, *(entry.point_uuid for entry in label.history)]


def store_extent(entry: HistoryEntry) -> Extent:
    """Where an undo store lies."""
    return Extent(entry.store_offset_bytes, entry.store_length_bytes)


def free_extents(label: Label) -> list[Extent]:
    """The unused parts of the region, ascending."""
    free = []
    position = label.history_offset_bytes
    for used in sorted(store_extent(entry) for entry in label.history):
        if used.offset_bytes > position:
            free.append(Extent(position, used.offset_bytes - position))
        position = used.end_bytes
    end = label.history_offset_bytes + label.history_length_bytes
    if end > position:
        free.append(Extent(position, end - position))
    return free


def largest_free(label: Label) -> Extent | None:
    """The longest unused part of the region."""
    return max(free_extents(label), key=lambda extent: extent.length_bytes, default=None)


def position_of(label: Label, point_id: object) -> int | None:
    """How many steps back a point lies: 0 is the replica itself; None when it is not there."""
    if label.point_uuid == point_id:
        return 0
    for position, entry in enumerate(label.history, start=1):
        if entry.point_uuid == point_id:
            return position
    return None
