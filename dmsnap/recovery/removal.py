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
from dmsnap.errors import (
    CorruptError,
    NoSpaceError,
    OperatingSystemError,
    PointInvalidError,
    WrongStateError,
)
from dmsnap.extent import Extent
from dmsnap.recovery import history
from dmsnap.recovery.replica import Replica
from dmsnap.units import PAGE_BYTES, align_up, format_size

log = logging.getLogger(__name__)

Entries = tuple[HistoryEntry, ...]

# How a store fails that is to be merged; given up by the kernel while it showed the point, too.
UNREADABLE = (CorruptError, OperatingSystemError, PointInvalidError)


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

    None when that has no room, or makes less than ``gain_bytes`` free, and nothing is changed then;
    and when a store cannot be read: then the recovery volume may have ``label``.
    """
    stores = [history.store_extent(entry) for entry in group]
    place = _foreseen(replica, label, group, stores, gain_bytes)
    if place is None:
        return None
    if label.history != replica.label.history:
        # What is written may lie where the dropped ones did.
        replica.write_label(replace(replica.label, history=label.history))
    try:
        entry = _write(replica, group[-1], stores, place)
    except (*UNREADABLE, NoSpaceError) as error:
        log.warning("undo stores of %s cannot be merged: %s", label.name, error)
        return None
    relabel(replica, replica.label.history, _with(replica.label, group, entry).history)
    return replica.label


class Foresight:
    """What :func:`joined` would make of one label after the other; writes nothing.

    A store that would be written before is taken for those that it would be made of.
    """

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._made_of: dict[HistoryEntry, list[Extent]] = {}

    def joined(self, label: Label, group: Entries, gain_bytes: int) -> Label | None:
        """As the function does it, if every store can be read."""
        stores = [
            store
            for entry in group
            for store in self._made_of.get(entry, [history.store_extent(entry)])
        ]
        place = _foreseen(self._replica, label, group, stores, gain_bytes)
        if place is None:
            return None
        entry = _at(group[-1], place)
        self._made_of[entry] = stores
        return _with(label, group, entry)


def _foreseen(
    replica: Replica, label: Label, group: Entries, stores: Sequence[Extent], gain_bytes: int
) -> Extent | None:
    """Where the one store for all ``stores`` goes that takes the place of those of ``group``.

    None where it cannot be, or does not take ``gain_bytes`` less than they do.
    """
    held_bytes = sum(entry.store_length_bytes for entry in group)
    try:
        needed_bytes = _needed_bytes(replica, stores)
        if gain_bytes and held_bytes - needed_bytes < gain_bytes:
            return None
        return Extent(room_for(label, needed_bytes).offset_bytes, needed_bytes)
    except NoSpaceError:
        return None
    except UNREADABLE as error:
        log.warning("undo stores of %s cannot be merged: %s", label.name, error)
        return None


def _with(label: Label, group: Entries, entry: HistoryEntry) -> Label:
    """``label`` with ``entry`` in place of ``group``."""
    after = (entry if each == group[-1] else each for each in label.history)
    return replace(label, history=tuple(each for each in after if each not in group))


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
    replica: Replica, taken: Label, group: Entries, progress: Progress | None
) -> HistoryEntry:
    """One store for those of ``group``, in a place that no store of ``taken`` is in."""
    stores = [history.store_extent(entry) for entry in group]
    needed_bytes = _needed_bytes(replica, stores)
    place = Extent(room_for(taken, needed_bytes).offset_bytes, needed_bytes)
    return _write(replica, group[-1], stores, place, progress)


def _needed_bytes(replica: Replica, stores: Sequence[Extent]) -> int:
    """What the one store for all ``stores`` takes; their areas are read, and nothing else."""
    name = str(replica.device.path)
    measured = store_merge.measure(replica.fd, replica.label.size_bytes, stores, name=name)
    return align_up(measured.used_bytes, PAGE_BYTES)


def _write(
    replica: Replica,
    last: HistoryEntry,
    stores: Sequence[Extent],
    place: Extent,
    progress: Progress | None = None,
) -> HistoryEntry:
    """The one store for all ``stores`` at ``place``, which becomes that of ``last``."""
    name, size_bytes = str(replica.device.path), replica.label.size_bytes
    made = store_merge.merge(replica.fd, size_bytes, stores, place, progress=progress, name=name)
    return replace(_at(last, place), chunk_size=made.chunk_size)


def _at(entry: HistoryEntry, place: Extent) -> HistoryEntry:
    return replace(
        entry, store_offset_bytes=place.offset_bytes, store_length_bytes=place.length_bytes
    )
