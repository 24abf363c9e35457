"""Marks of points that are to be kept, on a label."""

from uuid import UUID, uuid4

from dmsnap._native.label import HistoryEntry, HistoryFlag, Label, LabelState
from dmsnap.service.points import keeping

UNMARKED = HistoryFlag(0)


def a_label(count: int) -> Label:
    """One with a replica, and ``count`` points in its history."""
    entries = [
        HistoryEntry(uuid4(), 1, 4096 * number, 4096, 8, UNMARKED) for number in range(1, count + 1)
    ]
    return Label(
        generation=3, size_bytes=4096, volume_uuid=uuid4(), recovery_uuid=uuid4(),
        state=LabelState.CONSISTENT, flags=UNMARKED, point_uuid=uuid4(), point_time_ns=9,
        next_point_uuid=None, next_point_time_ns=0, history_offset_bytes=4096,
        history_length_bytes=4096 * 64, name="srv", fs_type="", fs_uuid="", host="",
        history=tuple(entries),
    )  # fmt: skip


def ids(label: Label) -> list[UUID]:
    """The points of a label, newest first."""
    assert label.point_uuid is not None
    return [label.point_uuid, *(entry.point_uuid for entry in label.history)]


def test_marks_are_set_and_cleared() -> None:
    label = a_label(2)
    for position, point in enumerate(ids(label)):
        marked = keeping.with_mark(label, point, keep=True)
        flags = [marked.flags, *(entry.flags for entry in marked.history)]
        assert [bool(flag) for flag in flags] == [at == position for at in range(3)]
        assert keeping.with_mark(marked, point, keep=True) == marked
        assert keeping.with_mark(marked, point, keep=False) == label
    assert keeping.with_mark(label, uuid4(), keep=True) == label
