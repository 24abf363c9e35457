"""Taking points out of a history: the oldest are dropped, one in the middle is passed over.

::

    one step back each:  store k, store k + 1
    without the point between them:  one store with all chunks of both, where store k + 1 counts

Of a chunk that both have, store k has what the point that goes holds there, and store k + 1 what
the older one does. The merged store is written whole to free space and flushed; then one label
names it in place of the two. Before that label nothing has happened, whatever lies in free space.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from uuid import UUID

from dmsnap._native import store_merge
from dmsnap._native.copy import Progress
from dmsnap._native.label import HistoryEntry, Label
from dmsnap.errors import CorruptError, NoSpaceError, OperatingSystemError, WrongStateError
from dmsnap.extent import Extent
from dmsnap.recovery import history
from dmsnap.recovery.replica import Replica
from dmsnap.units import PAGE_BYTES, align_up, format_size

log = logging.getLogger(__name__)

Entries = tuple[HistoryEntry, ...]


def groups(entries: Sequence[HistoryEntry], points: Collection[UUID]) -> list[Entries]:
    """The entries that each one which is left stands for, newest first, itself the last of them.

    Those behind the last one that is left are in no group: they are dropped.
    """
    found: list[Entries] = []
    passed: list[HistoryEntry] = []
    for entry in entries:
        passed.append(entry)
        if entry.point_uuid not in points:
            found.append(tuple(passed))
            passed = []
    return found


def needs_merging(entries: Sequence[HistoryEntry], points: Collection[UUID]) -> bool:
    """Whether any of ``points`` is passed over, and not only dropped."""
    return any(len(group) > 1 for group in groups(entries, points))


def shortened(entries: Sequence[HistoryEntry], points: Collection[UUID]) -> Entries:
    """The history without ``points``, all of which are the oldest in it: nothing is to be merged.

    To leave out one that others are read through would have them show what they never held.
    """
    if needs_merging(entries, points):
        raise WrongStateError("older points are read through one that goes: nothing was changed")
    return tuple(entry for (entry,) in groups(entries, points))


def bytes_to_merge(entries: Sequence[HistoryEntry], points: Collection[UUID]) -> int:
    """At most as much is copied: the stores that do not stay as they are."""
    merging = [group for group in groups(entries, points) if len(group) > 1]
    return sum(entry.store_length_bytes for group in merging for entry in group)


def merged(replica: Replica, points: Collection[UUID], progress: Progress | None = None) -> Entries:
    """The history without ``points``; the merged stores in it are written, and in no label yet.

    :class:`NoSpaceError` when one has no room beside those that it is made of.
    """
    taken = replica.label
    entries = []
    for group in groups(replica.label.history, points):
        entry = group[-1]
        if len(group) > 1:
            entry = _merge(replica, taken, group, progress)
            taken = replace(taken, history=(*taken.history, entry))
        entries.append(entry)
    return tuple(entries)


def relabel(replica: Replica, before: Sequence[HistoryEntry], after: Entries) -> None:
    """Have the label name ``after`` in place of ``before``, of which it was made."""
    if replica.label.history != tuple(before):
        raise WrongStateError(
            f"the history of {replica.label.name} has changed meanwhile: it stays as it is"
        )
    replica.write_label(replace(replica.label, history=after))


def joined(replica: Replica, label: Label, group: Entries, gain_bytes: int) -> Label | None:
    """``label`` with the last of ``group`` in place of them all; the recovery volume has it then.

    None when that has no room, makes less than ``gain_bytes`` free, or a store cannot be read:
    nothing but what ``label`` drops is changed then.
    """
    if label != replica.label:
        # What is written may lie where the dropped ones did.
        replica.write_label(label)
    try:
        entry = _merge(replica, replica.label, group, None, gain_bytes)
    except NoSpaceError:
        return None
    except (CorruptError, OperatingSystemError) as error:
        log.warning("undo stores of %s cannot be merged: %s", label.name, error)
        return None
    after = [entry if each == group[-1] else each for each in replica.label.history]
    relabel(replica, replica.label.history, tuple(each for each in after if each not in group))
    return replica.label


def room_for(label: Label, needed_bytes: int) -> Extent:
    """The smallest unused part of the region that is large enough: a sync wants the largest."""
    free = history.free_extents(label)
    fitting = [extent for extent in free if extent.length_bytes >= needed_bytes]
    if fitting:
        return min(fitting, key=lambda extent: extent.length_bytes)
    largest = max((extent.length_bytes for extent in free), default=0)
    raise NoSpaceError(
        f"the merged undo store takes {format_size(needed_bytes)}, the largest unused part of the "
        f"history of {label.name} has {format_size(largest)}: nothing was changed",
        hint="delete the oldest points first, or use a larger recovery volume",
        needed_bytes=needed_bytes,
        available_bytes=largest,
    )


def _merge(
    replica: Replica,
    taken: Label,
    group: Entries,
    progress: Progress | None,
    gain_bytes: int = 0,
) -> HistoryEntry:
    """One store for those of ``group``, in a place that no store of ``taken`` is in.

    :class:`NoSpaceError` also when it takes less than ``gain_bytes`` less than they do.
    """
    name, size_bytes = str(replica.device.path), replica.label.size_bytes
    stores = [history.store_extent(entry) for entry in group]
    measured = store_merge.measure(replica.fd, size_bytes, stores, name=name)
    needed_bytes = align_up(measured.used_bytes, PAGE_BYTES)
    held_bytes = sum(store.length_bytes for store in stores)
    if gain_bytes and held_bytes - needed_bytes < gain_bytes:
        raise NoSpaceError(
            f"the merged undo store takes {format_size(needed_bytes)} of {format_size(held_bytes)}",
            needed_bytes=needed_bytes,
        )
    place = Extent(room_for(taken, needed_bytes).offset_bytes, needed_bytes)
    made = store_merge.merge(replica.fd, size_bytes, stores, place, progress=progress, name=name)
    return replace(
        group[-1],
        store_offset_bytes=place.offset_bytes,
        store_length_bytes=place.length_bytes,
        chunk_size=made.chunk_size,
    )
