"""Where undo stores lie: never over each other, the oldest goes first, what is kept stays."""

from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmsnap._native import label as labels
from dmsnap._native.label import HistoryEntry, HistoryFlag, Label, LabelState
from dmsnap.errors import NoSpaceError
from dmsnap.extent import Extent
from dmsnap.recovery import history
from dmsnap.recovery.room import make_room
from dmsnap.units import MIB, PAGE_BYTES

OFFSET, LENGTH = 64 * MIB, 8 * MIB
KEEP, DROP = HistoryFlag.KEEP, HistoryFlag(0)


def an_entry(offset_bytes: int, length_bytes: int, flags: HistoryFlag = DROP) -> HistoryEntry:
    return HistoryEntry(uuid4(), 1, offset_bytes, length_bytes, 8, flags)


def a_label(*entries: HistoryEntry, length_bytes: int = LENGTH) -> Label:
    return Label(
        generation=3, size_bytes=OFFSET, volume_uuid=uuid4(), recovery_uuid=uuid4(),
        state=LabelState.CONSISTENT, flags=DROP, point_uuid=uuid4(), point_time_ns=9,
        next_point_uuid=None, next_point_time_ns=0, history_offset_bytes=OFFSET,
        history_length_bytes=length_bytes, name="srv", fs_type="", fs_uuid="", host="",
        history=tuple(entries),
    )  # fmt: skip


def taken(label: Label, needed_bytes: int, flags: HistoryFlag) -> Label:
    """A sync: make room, put the store at the front of it, the newest first."""
    current, room = make_room(label, needed_bytes)
    entry = an_entry(room.offset_bytes, needed_bytes, flags)
    return replace(current, history=(entry, *current.history))


pages = st.integers(1, LENGTH // PAGE_BYTES).map(lambda count: count * PAGE_BYTES)
syncs = st.lists(st.tuples(pages, st.booleans()), max_size=40)


def check_layout(label: Label) -> None:
    """No two stores overlap, none leaves the region, and free and used make up the whole."""
    used = sorted(history.store_extent(entry) for entry in label.history)
    free = history.free_extents(label)
    position = label.history_offset_bytes
    for extent in sorted([*used, *free]):
        assert extent.offset_bytes == position
        position = extent.end_bytes
    assert position == label.history_offset_bytes + label.history_length_bytes


@given(syncs)
def test_any_sequence_of_syncs_keeps_the_layout(needs: list[tuple[int, bool]]) -> None:
    label = a_label()
    for needed_bytes, keep in needs:
        before = label
        try:
            label = taken(label, needed_bytes, KEEP if keep else DROP)
        except NoSpaceError:
            assert any(entry.flags & KEEP for entry in before.history)
            continue
        check_layout(label)
        kept = label.history[1:]
        # What is left is the newest part of what there was, and what went was not to be kept.
        assert kept == before.history[: len(kept)]
        assert not any(entry.flags & KEEP for entry in before.history[len(kept) :])


@given(syncs, pages)
def test_nothing_is_dropped_when_there_is_room(
    needs: list[tuple[int, bool]], needed_bytes: int
) -> None:
    label = a_label()
    for length_bytes, _ in needs:
        label = taken(label, length_bytes, DROP)
    largest = history.largest_free(label)
    current, room = make_room(label, needed_bytes)
    assert room.length_bytes >= needed_bytes
    if largest and largest.length_bytes >= needed_bytes and len(label.history) < 64:
        assert current is label
    else:
        assert len(current.history) < len(label.history)


def test_the_label_holds_as_many_points_as_the_history_plans() -> None:
    assert history.MAX_ENTRIES == labels.MAX_HISTORY


def test_a_full_list_drops_its_oldest() -> None:
    entries = [an_entry(OFFSET + number * PAGE_BYTES, PAGE_BYTES) for number in range(64)]
    current, _ = make_room(a_label(*entries), PAGE_BYTES)
    assert list(current.history) == entries[:63]


def test_a_point_to_be_kept_is_never_dropped() -> None:
    label = a_label(an_entry(OFFSET + LENGTH // 2, LENGTH // 2), an_entry(OFFSET, MIB, KEEP))
    with pytest.raises(NoSpaceError, match="is to be kept: nothing was changed") as caught:
        make_room(label, LENGTH // 2)
    assert str(label.history[1].point_uuid) in str(caught.value)
    assert caught.value.hint


def test_what_even_an_empty_history_could_not_hold_is_refused() -> None:
    label = a_label(an_entry(OFFSET, MIB))
    with pytest.raises(NoSpaceError, match="nothing was changed") as caught:
        make_room(label, LENGTH + PAGE_BYTES)
    assert caught.value.fields["available_bytes"] == LENGTH
    assert len(label.history) == 1


def test_positions_count_from_the_replica() -> None:
    label = a_label(an_entry(OFFSET, MIB), an_entry(OFFSET + MIB, MIB))
    assert history.position_of(label, label.point_uuid) == 0
    assert history.position_of(label, label.history[1].point_uuid) == 2
    assert history.position_of(label, UUID(int=7)) is None


@given(st.integers(1, 2**50).map(lambda count: count * 512))
def test_the_smallest_recovery_volume_has_a_history(size_bytes: int) -> None:
    device_bytes = history.needed_device_bytes(size_bytes, labels.AREA_BYTES)
    region = history.region(size_bytes, labels.offset(device_bytes))
    assert region.offset_bytes >= size_bytes
    assert region.length_bytes >= history.MIN_REGION_BYTES - PAGE_BYTES
    assert region.end_bytes <= labels.offset(device_bytes)
    assert region.offset_bytes % MIB == 0


def test_an_extent_is_never_empty() -> None:
    for arguments in ((-1, 5), (0, 0), (3, -2)):
        with pytest.raises(ValueError, match="not an extent"):
            Extent(*arguments)
    assert Extent(3, 4).end_bytes == 7


def test_what_is_held_is_the_replicas_point_and_then_its_history() -> None:
    older, oldest = an_entry(OFFSET, PAGE_BYTES), an_entry(OFFSET + PAGE_BYTES, PAGE_BYTES)
    label = a_label(older, oldest)
    assert history.held(label) == [label.point_uuid, older.point_uuid, oldest.point_uuid]
    for state in set(LabelState) - {LabelState.CONSISTENT}:
        assert history.held(replace(label, state=state)) == []
    assert history.held(replace(label, point_uuid=None)) == []
