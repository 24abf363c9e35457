"""A history that has no room for all: what gives way, on labels, by the functions of a sync."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_history import LENGTH, OFFSET, a_label, an_entry, check_layout
from test_removal import PAGES, a_replica, synced

from dmsnap._native import store_merge
from dmsnap._native.label import HistoryEntry, HistoryFlag, Label
from dmsnap.errors import NoSpaceError, OperatingSystemError
from dmsnap.policy import claims, retention
from dmsnap.policy.claims import Claim
from dmsnap.policy.retention import Action, AgingPoint, Retention
from dmsnap.recovery import apply, history, removal
from dmsnap.recovery.room import Merge, Merging, gone, make_room, merging_on
from dmsnap.units import MIB, PAGE_BYTES, align_up

SECOND = 10**9
HOUR = 3600 * SECOND
DAY = 24 * HOUR
START = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * SECOND
STORE = 64 * PAGE_BYTES
KEEP = HistoryFlag.KEEP

# The manual's rules before it knew how many points a label holds: more than three times as many.
TOO_MANY = Retention(keep_seconds=14 * 86400, daily=14, weekly=8, monthly=12)
FITTING = Retention(keep_seconds=86400, daily=14, weekly=8, monthly=12)


def merged_on_label(label: Label, group: Sequence[HistoryEntry], gain_bytes: int) -> Label | None:
    """What ``removal.joined`` does, of stores half of whose chunks are in the others, too."""
    lengths = sorted(entry.store_length_bytes for entry in group)
    needed = align_up(lengths[-1] + sum(lengths[:-1]) // 2, PAGE_BYTES)
    if sum(lengths) - needed < gain_bytes:
        return None
    try:
        place = removal.room_for(label, needed)
    except NoSpaceError:
        return None
    entry = replace(group[-1], store_offset_bytes=place.offset_bytes, store_length_bytes=needed)
    left = [entry if each == group[-1] else each for each in label.history]
    return replace(label, history=tuple(each for each in left if each not in group))


def on_label(merge: Merge = merged_on_label) -> Merging:
    """One that foresees what it does."""
    return Merging(merge, lambda: merge)


@dataclass
class House:
    """A volume that is synced and pruned, and what went for want of room."""

    retention: Retention
    label: Label
    now_ns: int = START
    given_up: list[Claim] = field(default_factory=list)

    def aging(self) -> list[AgingPoint]:
        found = [AgingPoint(each.point_uuid, each.point_time_ns) for each in self.label.history]
        assert self.label.point_uuid is not None
        return [*found[::-1], AgingPoint(self.label.point_uuid, self.label.point_time_ns)]

    def sync(self, needed_bytes: int = STORE, trusted: bool = True) -> None:
        point = UUID(int=self.now_ns)
        now_ns = self.now_ns if trusted else None
        found = claims.of_history(
            [*self.aging(), AgingPoint(point, self.now_ns)], self.retention, now_ns, UTC
        )
        after, place = make_room(self.label, needed_bytes, lambda: found, on_label())
        self.given_up += [found[each] for each in gone(self.label, after) if found[each]]
        entry = HistoryEntry(
            self.label.point_uuid or point, self.label.point_time_ns, place.offset_bytes,
            needed_bytes, 8, HistoryFlag(0),
        )  # fmt: skip
        self.label = replace(
            after, point_uuid=point, point_time_ns=self.now_ns, history=(entry, *after.history)
        )
        assert len(self.label.history) <= history.MAX_ENTRIES

    def prune(self) -> None:
        """As ``service.points.prune`` does it: what has no room to be merged stays."""
        decisions = retention.of_history(self.aging(), self.retention, self.now_ns, UTC)
        actions = {each.point: each.action for each in decisions}
        kept = [each for each in self.label.history if actions[each.point_uuid] is not Action.DROP]
        self.label = replace(self.label, history=tuple(kept))
        merging = {each for each, action in actions.items() if action is Action.MERGE}
        for group in removal.groups(self.label.history, merging):
            if len(group) > 1:
                self.label = merged_on_label(self.label, group, 0) or self.merged_by_pairs(group)

    def merged_by_pairs(self, group: Sequence[HistoryEntry]) -> Label:
        label = self.label
        for entry in reversed(group[:-1]):
            position = label.history.index(entry)
            label = merged_on_label(label, label.history[position : position + 2], 0) or label
        return label

    def holds_periods(self) -> bool:
        """A point of each of 14 days, of 8 weeks and of every month since the beginning."""
        points = [datetime.fromtimestamp(each.created_ns // SECOND, UTC) for each in self.aging()]
        now = datetime.fromtimestamp(self.now_ns // SECOND, UTC)
        days = {(now - timedelta(days=number)).date() for number in range(14)}
        weeks = {(now - timedelta(weeks=number)).isocalendar()[:2] for number in range(8)}
        return (
            days <= {each.date() for each in points}
            and weeks <= {each.isocalendar()[:2] for each in points}
            and set(range(1, now.month + 1)) == {each.month for each in points}
        )


def a_house(asked: Retention, stores: int) -> House:
    label = replace(a_label(length_bytes=stores * STORE), point_time_ns=START)
    return House(asked, replace(label, point_uuid=UUID(int=1)))


def a_time(house: House, days: int, every_hours: int) -> None:
    for hours in range(every_hours, days * 24, every_hours):
        house.now_ns = START + hours * HOUR
        house.sync()
        if hours % 12 == 0:
            house.prune()


def test_what_a_policy_keeps_and_a_label_holds_never_goes() -> None:
    house = a_house(FITTING, stores=400)
    a_time(house, days=100, every_hours=3)
    assert house.given_up == []
    assert house.holds_periods()


def test_of_more_than_a_label_holds_those_go_that_follow_each_other_closely() -> None:
    house = a_house(TOO_MANY, stores=400)
    a_time(house, days=100, every_hours=3)
    assert set(house.given_up) == {Claim.AGE}
    assert house.holds_periods()
    assert len(house.label.history) >= history.MAX_ENTRIES - 1


def test_of_more_than_a_region_holds_the_same_go() -> None:
    house = a_house(FITTING, stores=140)
    a_time(house, days=70, every_hours=3)
    by_age = house.given_up.count(Claim.AGE)
    assert by_age > 4 * (len(house.given_up) - by_age)


def test_while_the_clock_is_in_doubt_the_oldest_do_not_go_for_that() -> None:
    house = a_house(FITTING, stores=400)
    a_time(house, days=100, every_hours=3)
    oldest = house.label.history[-1]
    for _ in range(80):
        house.now_ns += HOUR
        house.sync(trusted=False)
    assert house.label.history[-1].point_uuid == oldest.point_uuid


def test_a_point_with_a_time_of_its_own_goes_by_no_clock_that_is_in_doubt() -> None:
    point, other = AgingPoint(UUID(int=1), 5, expires_ns=6), AgingPoint(UUID(int=2), 7)
    found = claims.of_history([point, other], Retention(), None, UTC)
    assert found[point.id] is Claim.EXPIRY
    assert claims.of_history([point, other], Retention(), 8, UTC)[point.id] is Claim.NONE


def test_what_is_marked_stays_and_what_nobody_claims_gives_way_in_the_middle() -> None:
    third = LENGTH // 4
    newest, middle, oldest = (
        an_entry(OFFSET + number * third, third, flags)
        for number, flags in enumerate((HistoryFlag(0), HistoryFlag(0), KEEP))
    )
    label = a_label(newest, middle, oldest)
    found = {newest.point_uuid: 5, oldest.point_uuid: 5}

    def merge(label: Label, group: Sequence[HistoryEntry], gain_bytes: int) -> Label:
        assert (list(group), gain_bytes) == ([middle, oldest], 0)
        shorter = replace(oldest, store_offset_bytes=OFFSET + 3 * third)
        return replace(label, history=(newest, shorter))

    after, place = make_room(label, 2 * third, lambda: found, on_label(merge))
    assert [each.point_uuid for each in after.history] == [newest.point_uuid, oldest.point_uuid]
    assert (place.offset_bytes, place.length_bytes) == (OFFSET + third, 2 * third)
    assert gone(label, after) == [middle.point_uuid]


def test_what_is_merged_ahead_takes_no_room_from_the_sync() -> None:
    """The place is there: the oldest does not go because something was written to it."""
    quarter = LENGTH // 4
    entries = [an_entry(OFFSET + at * quarter // 2, quarter // 2) for at in range(4)]
    found = {entry.point_uuid: 1 + at // 3 for at, entry in enumerate(entries)}

    def merge(label: Label, group: Sequence[HistoryEntry], _gain_bytes: int) -> Label | None:
        return merged_on_label(label, group, 0)

    label = a_label(*entries)
    after, place = make_room(label, 2 * quarter, lambda: found, on_label(merge))
    assert after == label
    assert place.length_bytes == 2 * quarter
    # One that fits where a store was freed is no such case.
    after, _ = make_room(
        replace(label, history_length_bytes=LENGTH - quarter),
        quarter // 2,
        lambda: found,
        on_label(merge),
    )
    assert after.history[-1].point_uuid == entries[-1].point_uuid


def test_no_point_is_given_up_for_what_cannot_be_had() -> None:
    half = LENGTH // 2
    newer, marked = an_entry(OFFSET, half), an_entry(OFFSET + half, half, KEEP)

    def merge(*_asked: object) -> Label:
        raise AssertionError

    label = a_label(newer, marked)
    with pytest.raises(NoSpaceError, match=r"its oldest point .* is to be kept: nothing was"):
        make_room(label, half + PAGE_BYTES, dict, on_label(merge))


def a_run(region_stores: int) -> tuple[Label, dict[UUID, int]]:
    """Seven stores from the beginning of a region; the newest and the oldest are claimed."""
    entries = [an_entry(OFFSET + at * STORE, STORE) for at in reversed(range(7))]
    label = a_label(*entries, length_bytes=region_stores * STORE)
    return label, {entries[0].point_uuid: 1, entries[-1].point_uuid: 5}


def test_what_nobody_claims_goes_in_parts_where_it_has_no_room_together() -> None:
    """All five merged into the oldest at once come to three stores and a half, of which three are
    free: what the policy keeps does not go for that.
    """
    label, found = a_run(10)
    after, place = make_room(label, 7 * STORE // 2, lambda: found, on_label())
    assert place.length_bytes >= 7 * STORE // 2
    assert not found.keys() & set(gone(label, after))
    check_layout(after)


def test_ahead_of_that_it_goes_in_parts_as_well() -> None:
    label, found = a_run(9)
    after, _ = make_room(label, STORE, lambda: found, on_label())
    assert gone(label, after) == [label.history[-2].point_uuid]
    check_layout(after)


def test_nothing_is_merged_for_a_sync_that_is_refused() -> None:
    """What lies between makes room, but that with which the marked one must be merged takes it."""
    parts = [(50, 25, HistoryFlag(0)), (40, 10, KEEP), (20, 20, HistoryFlag(0))]
    entries = [
        an_entry(OFFSET + at * PAGE_BYTES, pages * PAGE_BYTES, flags)
        for at, pages, flags in [*parts, (0, 20, HistoryFlag(0))]
    ]

    def merge(*_asked: object) -> Label:
        raise AssertionError

    label = a_label(*entries, length_bytes=100 * PAGE_BYTES)
    merging = Merging(merge, lambda: merged_on_label)
    with pytest.raises(NoSpaceError, match=r"full, and point .* is to be kept: nothing was ch"):
        make_room(label, 80 * PAGE_BYTES, dict, merging)
    make_room(label, 70 * PAGE_BYTES, dict, on_label())


def test_what_went_for_a_store_that_could_not_be_read_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with a_replica(30 * PAGE_BYTES) as made:
        synced(made, [{0, 1, 2, 3, 4, 5}, {6, 7, 8, 9}, {10, 11, 12, 13}])
        newest, marked, oldest = made.label.history
        marked = replace(marked, flags=KEEP)
        made.label = before = replace(made.label, history=(newest, marked, oldest))

        def fail(*_asked: object, **_more: object) -> None:
            raise OperatingSystemError("it cannot be read")

        monkeypatch.setattr(store_merge, "merge", fail)
        with pytest.raises(NoSpaceError, match="points went, but the replica was not changed"):
            make_room(before, 20 * PAGE_BYTES, dict, merging_on(made))  # type: ignore[arg-type]
        assert gone(before, made.label) == [oldest.point_uuid]
        monkeypatch.undo()
        made.check()


@pytest.mark.parametrize("position", [1, 2])
def test_a_store_that_the_kernel_gave_up_is_merged_with_none(
    position: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It had shown the point when the disk failed: the oldest goes, and the sync has its room."""
    with a_replica(30 * PAGE_BYTES) as made:
        synced(made, [{0, 1, 2, 3, 4, 5}, {4, 5, 6, 7}, {6, 7, 8, 9}])
        before = made.label
        newest, middle, oldest = before.history
        store = before.history[position].store_offset_bytes
        os.pwrite(made.fd, bytes(4), store + 4)  # dm-snapshot's disk_header: magic, valid
        found = {newest.point_uuid: 3, middle.point_uuid: 1, oldest.point_uuid: 2}
        after, place = make_room(before, 12 * PAGE_BYTES, lambda: found, merging_on(made))  # type: ignore[arg-type]
        assert place in history.free_extents(after)
        assert oldest.point_uuid in gone(before, after)
        assert "cannot be merged: disk: the exception store overflowed or failed" in caplog.text


def test_claims_are_not_asked_for_while_there_is_room() -> None:
    def ask() -> dict[UUID, int]:
        raise AssertionError

    make_room(a_label(an_entry(OFFSET, MIB)), MIB, ask)


def test_a_merge_that_brings_nothing_costs_no_point_that_is_claimed() -> None:
    half = LENGTH // 2
    newer, older = an_entry(OFFSET, half), an_entry(OFFSET + half, half)
    label = a_label(newer, older)
    found = {newer.point_uuid: 1, older.point_uuid: 5}
    after, _ = make_room(label, half, lambda: found)
    assert [each.point_uuid for each in after.history] == [newer.point_uuid]


@pytest.mark.parametrize("claimed", [0, 1])
def test_on_a_recovery_volume_all_others_show_what_they_held(
    claimed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The middle one is merged into the next older, and the history ends as it did."""
    monkeypatch.setattr(history, "MAX_ENTRIES", 4)
    with a_replica() as made:
        synced(made, [{1, 2, 3}, {2, 3, 4}, {3, 4, 5}, set(range(PAGES - 1))])
        entries = made.label.history
        middle, others = entries[1], [each for each in entries if each is not entries[1]]
        found = {each.point_uuid: 5 for each in others} | {middle.point_uuid: claimed}
        merging = merging_on(made)  # type: ignore[arg-type]
        after, place = make_room(made.label, PAGE_BYTES, lambda: found, merging)
        assert after == made.label
        assert place in history.free_extents(after)
        assert [each.point_uuid for each in after.history] == [each.point_uuid for each in others]
        made.check()


# What a sync changes, how much its point claims, and whether that is marked.
syncs = st.lists(
    st.tuples(st.sets(st.integers(0, PAGES - 1), min_size=1), st.integers(0, 3), st.booleans()),
    min_size=4,
    max_size=12,
)


@given(syncs, st.integers(8, 80))
@settings(deadline=None, max_examples=60)
def test_whatever_gives_way_all_others_show_what_they_held(
    done: list[tuple[set[int], int, bool]], region_pages: int
) -> None:
    """On stores in a file: merged, dropped, or refused, by the label and byte for byte."""
    with a_replica(region_pages * PAGE_BYTES) as made, pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "MAX_ENTRIES", 5)
        found: dict[UUID, int] = {}
        for number, (pages, claim, marked) in enumerate(done, start=1):
            before = made.label
            assert before.point_uuid is not None
            needed = apply.store_bytes(len(pages) * PAGE_BYTES)
            free = history.largest_free(before)
            is_room = free and free.length_bytes >= needed and len(before.history) < 5
            try:
                merging = merging_on(made)  # type: ignore[arg-type]
                after, place = make_room(before, needed, lambda: found, merging)
            except NoSpaceError:
                assert made.label == before
                after, place = before, None
            went = gone(before, after)
            assert not any(e.flags & KEEP for e in before.history if e.point_uuid in went)
            left = [entry.point_uuid for entry in after.history]
            assert left == [e.point_uuid for e in before.history if e.point_uuid not in went]
            if is_room and before.history:
                assert left[-1] == before.history[-1].point_uuid  # merged at most
            check_layout(after)
            made.label = after
            if place is not None:
                assert place.length_bytes >= needed
                content = bytearray(made.contents[before.point_uuid])
                for page in pages:
                    first = page * PAGE_BYTES
                    content[first : first + PAGE_BYTES] = bytes([number]) * PAGE_BYTES
                made.sync(bytes(content[: len(made.contents[before.point_uuid])]), place)
                newest = replace(made.label.history[0], flags=KEEP if marked else HistoryFlag(0))
                made.label = replace(made.label, history=(newest, *made.label.history[1:]))
                assert made.label.point_uuid is not None
                found[made.label.point_uuid] = claim
        made.check()
