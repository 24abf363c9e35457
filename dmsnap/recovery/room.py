"""Room for one more undo store: which points of a full history give way to it.

Those go first that have the least claim, of equals the oldest. The oldest of all is dropped with
its store; any other one is merged into the next older, which takes room beside the two, and is
passed over where there is none, or where merging would bring none. So that there is, it is merged
before the region is full to its end, rather than that the oldest has to be dropped then.

Whether all that makes room enough is found out first, by what the stores come to: no point goes for
a sync that is refused.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from uuid import UUID

from dmsnap._native.label import HistoryEntry, HistoryFlag, Label
from dmsnap.errors import ConfigurationError, NoSpaceError
from dmsnap.extent import Extent
from dmsnap.recovery import history, removal
from dmsnap.recovery.removal import Entries
from dmsnap.recovery.replica import Replica
from dmsnap.units import format_size

# How much points claim to stay, by id. One that is in it not, or with 0, goes before all others.
Claims = Mapping[UUID, int]
# Of what a store that is merged away takes, as much must become free for it to be worth its point.
LEAST_GAIN = 4

# The label with the last of some entries in place of them all, and the bytes of the region that
# must become free by that; None where it cannot be.
Merge = Callable[[Label, Entries, int], Label | None]


def _no_merge(_label: Label, _entries: Entries, _gain_bytes: int) -> None:
    return None


def _foresee_no_merge() -> Merge:
    return _no_merge


@dataclass(frozen=True, slots=True)
class Merging:
    """How stores are merged: by ``merge`` on the recovery volume.

    What ``foresee`` gives says what that would make of one label after the other, and writes
    nothing. ``is_written``: the recovery volume has another label than at first.
    """

    merge: Merge = _no_merge
    foresee: Callable[[], Merge] = _foresee_no_merge
    is_written: Callable[[], bool] = bool


NO_MERGING = Merging()


def merging_on(replica: Replica) -> Merging:
    """As :mod:`dmsnap.recovery.removal` merges them on a recovery volume."""
    before = replica.label.history
    return Merging(
        partial(removal.joined, replica),
        lambda: removal.Foresight(replica).joined,
        lambda: replica.label.history != before,
    )


def make_room(
    label: Label,
    needed_bytes: int,
    claims: Callable[[], Claims] = dict,
    merging: Merging = NO_MERGING,
) -> tuple[Label, Extent]:
    """The label without what must go so that a store of ``needed_bytes`` fits, and where it does.

    ``claims`` is asked when there is little room, and may fail with ``ConfigurationError``, which
    is for the caller when there is none. :class:`NoSpaceError` when even an empty region would
    be too small, or when points that are marked to be kept are in the way: then no point went,
    unless a store that was to be merged could not be read. Nothing is written here but by
    ``merging``.
    """
    place = _place(label, needed_bytes)
    if place is not None:
        left_bytes = _left_bytes(label, place, needed_bytes)
        if left_bytes >= 2 * max((each.store_length_bytes for each in label.history), default=0):
            return label, place
        try:
            return _Making(label, needed_bytes, claims(), merging).ahead(place, left_bytes)
        except ConfigurationError:
            return label, place
    if needed_bytes > label.history_length_bytes:
        raise NoSpaceError(
            f"undoing this sync takes {format_size(needed_bytes)}, the history of "
            f"{label.name} has {format_size(label.history_length_bytes)}: nothing was changed",
            hint="use a larger recovery volume, or sync more often",
            needed_bytes=needed_bytes,
            available_bytes=label.history_length_bytes,
        )
    return _Making(label, needed_bytes, claims(), merging).run()


def gone(before: Label, after: Label) -> list[UUID]:
    """The points that left the history, newest first."""
    left = {entry.point_uuid for entry in after.history}
    return [each.point_uuid for each in before.history if each.point_uuid not in left]


def _place(label: Label, needed_bytes: int) -> Extent | None:
    """Where a store can be written, and its entry recorded."""
    free = history.largest_free(label)
    fits = free is not None and free.length_bytes >= needed_bytes
    return free if fits and len(label.history) < history.MAX_ENTRIES else None


def _left_bytes(label: Label, place: Extent, needed_bytes: int) -> int:
    """The largest unused part of the region once a store was written at ``place``."""
    lengths = [each.length_bytes for each in history.free_extents(label) if each != place]
    return max([*lengths, place.length_bytes - needed_bytes])


@dataclass(slots=True)
class _Making:
    """``stuck`` are entries that could not be merged into one as things are."""

    label: Label
    needed_bytes: int
    claims: Claims
    merging: Merging
    stuck: set[Entries] = field(default_factory=set)

    def run(self) -> tuple[Label, Extent]:
        """Let go of what must go. No point is given up for what cannot be had."""
        marked = [each for each in self.label.history if each.flags & HistoryFlag.KEEP]
        held_bytes = sum(each.store_length_bytes for each in marked)
        if self.needed_bytes > self.label.history_length_bytes - held_bytes:
            raise self._refusal(marked[-1])
        if _place(self.label, self.needed_bytes) is None:
            foreseen = _Making(self.label, self.needed_bytes, self.claims, self.merging)
            if foreseen.let_go(self.merging.foresee()) is None:
                raise self._refusal(foreseen.label.history[-1])
        place = self.let_go(self.merging.merge)
        if place is None:
            raise self._refusal(self.label.history[-1])
        return self.label, place

    def let_go(self, merge: Merge) -> Extent | None:
        """Until there is a place, which is returned; None: all that is left is to be kept."""
        while (place := _place(self.label, self.needed_bytes)) is None:
            position = next(self._candidates(), None)
            if position is None:
                return None
            self._let_one_go(position, merge)
        return place

    def ahead(self, place: Extent, left_bytes: int) -> tuple[Label, Extent]:
        """Merge the first that can be, of those with a lesser claim than the oldest has.

        Nothing while the first of them can be merged later, in what is left unused behind this; and
        none that may be written to where the store is to lie, unless that fits where one was freed.
        """
        entries = self.label.history
        oldest = self._claim(entries[-1]) if entries else 0
        for position in self._candidates():
            if self._claim(entries[position]) >= oldest:
                break
            for part in self._parts(position):
                lengths = [entry.store_length_bytes for entry in part]
                if left_bytes >= sum(lengths):
                    return self.label, place
                if max(lengths) < self.needed_bytes or part in self.stuck:
                    continue
                merged = self.merging.merge(self.label, part, self._gain_bytes(part))
                if merged is not None:
                    # The place is another one now, and there may be none where it was the largest.
                    return _Making(merged, self.needed_bytes, self.claims, self.merging).run()
                self.stuck.add(part)
        return self.label, place

    def _candidates(self) -> Iterator[int]:
        """The positions of what may go, the first one first."""
        entries = self.label.history
        free = [
            position
            for position, entry in enumerate(entries)
            if not entry.flags & HistoryFlag.KEEP
            and entries[position : position + 2] not in self.stuck
        ]
        yield from sorted(free, key=lambda at: (self._claim(entries[at]), -at))

    def _claim(self, entry: HistoryEntry) -> int:
        return self.claims.get(entry.point_uuid, 0)

    def _let_one_go(self, position: int, merge: Merge) -> None:
        """It may have become stuck instead; what was stuck may fit once there is more room."""
        entries = self.label.history
        if position == len(entries) - 1:
            self.label = replace(self.label, history=entries[:-1])
            self.stuck.clear()
            return
        for part in self._parts(position):
            if part in self.stuck:
                continue
            merged = merge(self.label, part, self._gain_bytes(part))
            if merged is not None:
                self.label = merged
                self.stuck.clear()
                return
            self.stuck.add(part)

    def _parts(self, position: int) -> list[Entries]:
        """What is merged into one to pass it over: with all beside it that nobody claims, at once.

        Where that has no room, it and the next older alone may have.
        """
        entries = self.label.history
        pair = entries[position : position + 2]
        if self._claim(entries[position]):
            return [pair]
        unclaimed = {
            entry.point_uuid
            for entry in entries
            if not self._claim(entry) and not entry.flags & HistoryFlag.KEEP
        }
        found = removal.groups(entries, unclaimed)
        whole = next(group for group in found if entries[position] in group)
        return list(dict.fromkeys([whole, pair]))

    def _gain_bytes(self, group: Sequence[HistoryEntry]) -> int:
        """What merging must bring: nothing where entries are wanted, or nobody claims the point."""
        if len(self.label.history) >= history.MAX_ENTRIES or not self._claim(group[0]):
            return 0
        return group[0].store_length_bytes // LEAST_GAIN

    def _refusal(self, marked: HistoryEntry) -> NoSpaceError:
        """``marked`` is in the way: where all others went, the oldest that is left."""
        is_oldest = marked.point_uuid == self.label.history[-1].point_uuid
        which = f"{'its oldest ' if is_oldest else ''}point {marked.point_uuid}"
        is_written = self.merging.is_written()
        changed = "points went, but the replica was not" if is_written else "nothing was"
        return NoSpaceError(
            f"the history of {self.label.name} is full, and {which} is to be kept: {changed} "
            f"changed",
            hint="delete that point, or use a larger recovery volume",
            needed_bytes=self.needed_bytes,
        )
