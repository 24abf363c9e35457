"""Applying a point to a replica, on image files: a failure at any write leads back or forward."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmsnap._native import copy, label
from dmsnap._native.copy import CopyOptions
from dmsnap._native.extent_set import ExtentSet
from dmsnap._native.label import HistoryFlag, Label, LabelState
from dmsnap.catalogue.model import Point
from dmsnap.errors import CorruptError, ForeignDeviceError, NoSpaceError
from dmsnap.extent import Extent
from dmsnap.host.blockdev import BlockDevice
from dmsnap.recovery import apply, history
from dmsnap.recovery.replica import Replica, holds, settled
from dmsnap.units import MIB

PAGE = 4096
SIZE = 64 * PAGE + 512  # no multiple of a page
DEVICE_BYTES = 2 * MIB + history.MIN_REGION_BYTES


def make_point() -> Point:
    return Point(uuid4(), uuid4(), 1, False, True, 1, "t", 0.001)


class Images:
    """A source and a recovery volume as files."""

    def __init__(self, directory: Path, old: bytes) -> None:
        self.source_path = directory / "source"
        self.recovery_path = directory / "recovery"
        self.source_path.write_bytes(old)
        with self.recovery_path.open("wb") as file:
            file.write(old)
            file.truncate(DEVICE_BYTES)
        self.source_fd = os.open(self.source_path, os.O_RDWR)
        self.fd = os.open(self.recovery_path, os.O_RDWR)
        self.device = BlockDevice(self.recovery_path, 0, DEVICE_BYTES, 512, False)
        region = history.region(SIZE, label.offset(DEVICE_BYTES))
        self.replica = Replica(self.device, self.fd, first_label(region))
        self.replica.write_label(self.replica.label)

    def close(self) -> None:
        os.close(self.source_fd)
        os.close(self.fd)

    def write_source(self, content: bytes) -> None:
        self.source_path.write_bytes(content)

    def content(self) -> bytes:
        return os.pread(self.fd, SIZE, 0)

    def reopened(self) -> Replica:
        """The replica as the next command finds it: its label read from the medium."""
        return Replica(self.device, self.fd, label.read(self.fd, DEVICE_BYTES, "recovery"))


def first_label(region: Extent) -> Label:
    return Label(
        generation=0,
        size_bytes=SIZE,
        volume_uuid=uuid4(),
        recovery_uuid=uuid4(),
        state=LabelState.CONSISTENT,
        flags=HistoryFlag(0),
        point_uuid=uuid4(),
        point_time_ns=1,
        next_point_uuid=None,
        next_point_time_ns=0,
        history_offset_bytes=region.offset_bytes,
        history_length_bytes=region.length_bytes,
        name="srv",
        fs_type="",
        fs_uuid="",
        host="here",
    )


@pytest.fixture
def images(tmp_path: Path) -> Iterator[Images]:
    made = Images(tmp_path, os.urandom(SIZE))
    yield made
    made.close()


def apply_all(images: Images, dirty: ExtentSet) -> None:
    undo = apply.write_undo(images.replica, images.source_fd, dirty)
    apply.mark_applying(images.replica, undo, make_point())
    apply.write_new(images.replica, images.source_fd, undo)
    apply.mark_consistent(images.replica, keep=False)


def changed(old: bytes, pages: set[int]) -> bytes:
    new = bytearray(old)
    for page in pages:
        end = min((page + 1) * PAGE, SIZE)
        new[page * PAGE : end] = os.urandom(end - page * PAGE)
    return bytes(new)


def covering(pages: set[int]) -> ExtentSet:
    return ExtentSet.from_extents([Extent(page * PAGE, PAGE) for page in pages])


def test_a_label_that_names_no_undo_store_is_a_sentence(images: Images) -> None:
    images.replica.write_label(replace(images.replica.label, state=LabelState.APPLYING))
    with pytest.raises(CorruptError, match="no undo store"):
        images.reopened().settle()


def test_a_host_that_comes_back_does_not_write_over_who_took_over(images: Images) -> None:
    """It hung in the middle of a sync, and was given up meanwhile."""
    before = images.content()
    images.write_source(changed(before, {3}))
    undo = apply.write_undo(images.replica, images.source_fd, covering({3}))
    apply.mark_applying(images.replica, undo, make_point())
    taken = replace(images.reopened().label, host="there", host_uuid=uuid4())
    taken = label.write(images.fd, DEVICE_BYTES, taken, "recovery")
    apply.write_new(images.replica, images.source_fd, undo)
    for late in (partial(apply.mark_consistent, images.replica, keep=False),
                 images.replica.roll_back):  # fmt: skip
        with pytest.raises(ForeignDeviceError, match="on the host there"):
            late()
    assert images.reopened().label == taken


PAGES = st.sets(st.integers(0, 64), max_size=20)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(PAGES, PAGES), min_size=1, max_size=5))
def test_the_replica_becomes_each_point_and_goes_back(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[set[int], set[int]]]
) -> None:
    images = Images(tmp_path_factory.mktemp("images"), os.urandom(SIZE))
    contents = [images.content()]
    for pages, superset in steps:
        contents.append(changed(contents[-1], pages))
        images.write_source(contents[-1])
        apply_all(images, covering(pages | superset))
        assert images.content() == contents[-1]
    for content in reversed(contents[:-1]):
        images.reopened().roll_back()
        assert images.content() == content
    assert images.reopened().label.history == ()
    images.close()


class Stop(Exception):  # noqa: N818 - the plug is pulled
    """The process ends here."""


def stop_at(call_number: int) -> ExitStack:
    """Let the ``call_number``-th write of any kind not happen, and end the process there."""
    calls = 0

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls == call_number:
                raise Stop
            return function(*arguments, **options)

        return call

    patches = ExitStack()
    for module, name in ((label, "write"), (copy, "compare"), (copy, "apply")):
        patches.enter_context(mock.patch.object(module, name, counted(getattr(module, name))))
    return patches


@pytest.mark.parametrize("call_number", range(1, 6))
def test_an_end_before_any_write_leaves_the_old_or_the_new_point(
    images: Images, call_number: int
) -> None:
    old = images.content()
    new = changed(old, {0, 3, 4, 17, 64})
    images.write_source(new)
    ended = True
    with stop_at(call_number):
        try:
            apply_all(images, covering(set(range(65))))
            ended = False
        except Stop:
            pass
    again = images.reopened()
    if again.label.state is LabelState.APPLYING:
        again.roll_back()
    assert images.content() == (old if ended else new)
    assert images.reopened().label.state is LabelState.CONSISTENT


def test_a_torn_apply_rolls_back_however_much_was_written(images: Images) -> None:
    old = images.content()
    new = changed(old, set(range(0, 65, 2)))
    images.write_source(new)
    undo = apply.write_undo(images.replica, images.source_fd, covering(set(range(65))))
    apply.mark_applying(images.replica, undo, make_point())
    os.pwrite(images.fd, new[: 20 * PAGE], 0)
    torn = images.reopened().label
    images.reopened().roll_back()
    assert images.content() == old
    rolled_back = images.reopened().label
    assert rolled_back != torn
    assert replace(settled(Path("disk"), torn), generation=rolled_back.generation) == rolled_back


def test_what_is_found_wrong_is_no_point_before_it_is_rolled_back(images: Images) -> None:
    """Whoever is killed in between leaves a label that leads back; said twice it is the same."""
    old, former = images.content(), images.replica.label.point_uuid
    images.write_source(changed(old, {0, 3, 64}))
    apply_all(images, covering({0, 3, 64}))
    done = images.reopened().label
    assert done.point_uuid is not None
    for _ in range(2):
        images.reopened().leave_point()
        left = images.reopened().label
        assert (left.state, left.point_uuid) == (LabelState.APPLYING, former)
        assert left.next_point_uuid == done.point_uuid
        assert not holds(left, done.point_uuid)
    images.reopened().settle()
    assert images.content() == old
    assert images.reopened().label.point_uuid == former


def test_a_sync_that_cannot_be_undone_is_refused_and_drops_nothing(images: Images) -> None:

    images.replica.write_label(replace(images.replica.label, history_length_bytes=8 * PAGE))
    old = images.content()
    images.write_source(changed(old, set(range(30))))
    with pytest.raises(NoSpaceError, match="nothing was changed"):
        apply.write_undo(images.replica, images.source_fd, covering(set(range(65))))
    assert images.content() == old
    assert images.reopened().label.state is LabelState.CONSISTENT


@pytest.mark.parametrize("pages", [60, 24])
def test_what_differs_is_told_coarser_and_taken_back_exactly(images: Images, pages: int) -> None:
    """Of two extents at most, and where the worst case has room, or only what differs."""
    images.replica.write_label(replace(images.replica.label, history_length_bytes=pages * PAGE))
    old = images.content()
    new = changed(old, {0, 9, 20, 33, 50, 64})
    images.write_source(new)
    options = CopyOptions(most_extents=2)
    undo = apply.write_undo(
        images.replica, images.source_fd, covering(set(range(65))), options=options
    )
    assert len(undo.different) <= 2
    assert undo.stats.bytes_different == 5 * PAGE + 512 < undo.different.bytes
    apply.mark_applying(images.replica, undo, make_point())
    apply.write_new(images.replica, images.source_fd, undo)
    apply.mark_consistent(images.replica, keep=False)
    assert images.content() == new
    images.replica.roll_back()
    assert images.content() == old


def test_the_oldest_point_makes_room(images: Images) -> None:

    images.replica.write_label(replace(images.replica.label, history_length_bytes=60 * PAGE))
    first = images.replica.label.point_uuid
    content = images.content()
    for _ in range(4):
        content = changed(content, set(range(20)))
        images.write_source(content)
        apply_all(images, covering(set(range(65))))
        assert images.content() == content
    kept = [entry.point_uuid for entry in images.reopened().label.history]
    assert kept
    assert first not in kept
