"""The backup of the catalogue on a recovery volume: torn, foreign and hostile slots."""

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmsnap._native import label as labels
from dmsnap._native.label import HistoryEntry, HistoryFlag, Label, LabelState
from dmsnap.errors import CorruptError, DmsnapError, ForeignDeviceError, NoSpaceError
from dmsnap.recovery import backup_area, history
from dmsnap.recovery.backup_area import Backup
from dmsnap.units import MIB, PAGE_BYTES

DEVICE_BYTES = 24 * MIB
SIZE_BYTES = 4 * MIB


def a_label(device_bytes: int = DEVICE_BYTES) -> Label:
    region = history.region(SIZE_BYTES, labels.offset(device_bytes))
    return Label(
        generation=1, size_bytes=SIZE_BYTES, volume_uuid=uuid4(), recovery_uuid=uuid4(),
        state=LabelState.CONSISTENT, flags=HistoryFlag(0), point_uuid=uuid4(), point_time_ns=9,
        next_point_uuid=None, next_point_time_ns=0, history_offset_bytes=region.offset_bytes,
        history_length_bytes=region.length_bytes, name="srv", fs_type="", fs_uuid="", host="",
    )  # fmt: skip


LABEL = a_label()
EXTENT = history.backup_extent(LABEL, labels.offset(DEVICE_BYTES))
assert EXTENT is not None
SLOTS = (EXTENT.offset_bytes, EXTENT.offset_bytes + backup_area.SLOT_BYTES)


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "recovery.img", os.O_RDWR | os.O_CREAT)
    os.ftruncate(descriptor, DEVICE_BYTES)
    labels.write(descriptor, DEVICE_BYTES, LABEL, "recovery.img")
    yield descriptor
    os.close(descriptor)


def write(fd: int, content: bytes, time_ns: int = 7) -> Backup | None:
    return backup_area.write(fd, LABEL, DEVICE_BYTES, content, time_ns=time_ns, name="recovery.img")


def read(fd: int, label: Label = LABEL) -> Backup | None:
    return backup_area.read(fd, label, DEVICE_BYTES, "recovery.img")


def content(fd: int) -> bytes | None:
    found = read(fd)
    return found.content if found else None


def test_the_newest_is_read(fd: int) -> None:
    assert read(fd) is None
    for number in range(1, 6):
        text = b"%d" % number * 5000
        done = write(fd, text, time_ns=number)
        assert done == read(fd)
        assert done is not None
        assert (done.generation, done.time_ns, done.content) == (number, number, text)
    assert labels.read(fd, DEVICE_BYTES, "recovery.img").point_uuid == LABEL.point_uuid


def test_what_says_nothing_new_is_not_written(fd: int) -> None:
    write(fd, b"same", time_ns=1)
    before = os.pread(fd, DEVICE_BYTES, 0)
    done = write(fd, b"same", time_ns=2)
    assert done is not None
    assert (done.generation, done.time_ns) == (1, 1)
    assert os.pread(fd, DEVICE_BYTES, 0) == before


def test_nothing_else_is_written_to(fd: int) -> None:
    before = os.pread(fd, DEVICE_BYTES, 0)
    for number in range(3):
        write(fd, os.urandom(backup_area.MAX_PACKED_BYTES - 1000 - number))
    after = os.pread(fd, DEVICE_BYTES, 0)
    assert EXTENT is not None
    assert after[: EXTENT.offset_bytes] == before[: EXTENT.offset_bytes]
    assert after[EXTENT.end_bytes :] == before[EXTENT.end_bytes :]
    assert EXTENT.end_bytes == labels.offset(DEVICE_BYTES)


def test_a_write_that_is_cut_off_leaves_the_one_before(fd: int) -> None:
    """Whatever part of it reached the disk, in whichever order."""
    write(fd, b"first" * 3000)
    write(fd, os.urandom(9000))
    old = content(fd)
    before = os.pread(fd, DEVICE_BYTES, 0)
    write(fd, os.urandom(12000))
    after = os.pread(fd, DEVICE_BYTES, 0)
    changed = [
        at for at in range(0, DEVICE_BYTES, 512) if before[at : at + 512] != after[at : at + 512]
    ]
    assert len(changed) > 20
    for written in (
        *(changed[:count] for count in range(len(changed))),
        *(changed[count:] for count in range(1, len(changed))),
        *([each for each in changed if each != left] for left in changed),
    ):
        os.pwrite(fd, before, 0)
        for at in written:
            os.pwrite(fd, after[at : at + 512], at)
        assert content(fd) == old
    os.pwrite(fd, after, 0)
    assert content(fd) != old


@pytest.mark.parametrize("slot", SLOTS)
def test_one_damaged_slot_is_made_up_for(fd: int, slot: int) -> None:
    write(fd, b"older")
    write(fd, b"newer")
    os.pwrite(fd, b"\xff" * 16, slot + PAGE_BYTES)
    assert content(fd) == (b"newer" if slot == SLOTS[0] else b"older")
    write(fd, b"newest")
    assert content(fd) == b"newest"
    # The damaged one was written over, not the one that is whole.
    os.pwrite(fd, b"\xff" * 16, slot + PAGE_BYTES)
    assert content(fd) == (b"newer" if slot == SLOTS[0] else b"older")


def test_none_that_is_whole_is_a_sentence(fd: int) -> None:
    write(fd, b"older")
    write(fd, b"newer")
    for slot in SLOTS:
        os.pwrite(fd, b"\xff" * 16, slot + PAGE_BYTES)
    with pytest.raises(CorruptError, match="its checksum is wrong") as caught:
        read(fd)
    assert "recovery.img" in str(caught.value)
    write(fd, b"again")
    assert content(fd) == b"again"


@pytest.mark.parametrize("field", ["volume_uuid", "recovery_uuid"])
def test_another_volumes_is_foreign(fd: int, field: str) -> None:
    """What an earlier recovery volume left on the disk; the next write begins anew."""
    write(fd, b"theirs")
    other = replace(LABEL, **{field: uuid4()})  # type: ignore[arg-type]
    with pytest.raises(ForeignDeviceError, match="not of srv"):
        read(fd, other)
    done = backup_area.write(fd, other, DEVICE_BYTES, b"ours", time_ns=1, name="recovery.img")
    assert done is not None
    assert done.generation == 1
    assert read(fd, other) == done


def sealed(slot: bytearray) -> bytes:
    """With the checksum that the bytes ask for."""
    import hashlib

    slot[16:48] = bytes(32)
    slot[16:48] = hashlib.sha256(slot).digest()
    return bytes(slot)


@pytest.mark.parametrize(
    ("at", "form", "value", "sentence"),
    [
        (8, "<I", 2, "version 2, which this dmsnap does not know"),
        (12, "<I", 1, "what no dmsnap writes"),
        (48, "<Q", 0, "what no dmsnap writes"),
        (48, "<Q", 2**64 - 1, "what no dmsnap writes"),
        (88, "<Q", 2**63, "what no dmsnap writes"),
        (96, "<I", 2**31, "it says that it has"),
        (96, "<I", 3, "cannot be unpacked|does not unpack"),
        (100, "<I", 2**31, "it says that it has"),
        (100, "<I", 3, "does not unpack"),
        (100, "<I", 100_000, "does not unpack"),
    ],
)
def test_a_forged_header_is_refused(fd: int, at: int, form: str, value: int, sentence: str) -> None:
    slot = bytearray(backup_area.encode(LABEL, b"x" * 5000, generation=1, time_ns=1))
    struct.pack_into(form, slot, at, value)
    os.pwrite(fd, sealed(slot), SLOTS[0])
    with pytest.raises(CorruptError, match=sentence):
        read(fd)
    write(fd, b"good")
    assert content(fd) == b"good"


def test_a_content_that_never_ends_is_not_unpacked(fd: int) -> None:
    """A gibibyte of zeroes in a megabyte would be the end of a small host."""
    bomb = zlib.compress(bytes(2**28), 9)
    assert len(bomb) < backup_area.MAX_PACKED_BYTES
    slot = bytearray(backup_area.encode(LABEL, b"x", generation=1, time_ns=1))
    slot += bytes(-(-(PAGE_BYTES + len(bomb)) // PAGE_BYTES) * PAGE_BYTES - len(slot))
    slot[PAGE_BYTES : PAGE_BYTES + len(bomb)] = bomb
    struct.pack_into("<II", slot, 96, len(bomb), 5000)
    os.pwrite(fd, sealed(slot), SLOTS[0])
    with pytest.raises(CorruptError, match="does not unpack to the 5000 bytes"):
        read(fd)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 255)), min_size=1, max_size=8))
def test_no_change_goes_unnoticed(changes: list[tuple[int, int]]) -> None:
    slot = backup_area.encode(LABEL, b"content", generation=3, time_ns=1)
    changed = bytearray(slot)
    for at, value in changes:
        if at < len(changed):
            changed[at] = value
    try:
        found = backup_area.decode(bytes(changed), LABEL, "recovery.img")
    except DmsnapError:
        found = None
    assert found is None or bytes(changed) == slot


def test_too_much_is_refused_before_anything_is_written(fd: int) -> None:
    write(fd, b"before")
    before = os.pread(fd, DEVICE_BYTES, 0)
    for much in (os.urandom(backup_area.SLOT_BYTES), bytes(backup_area.MAX_CONTENT_BYTES + 1)):
        with pytest.raises(NoSpaceError, match="a slot for it has"):
            write(fd, much)
    assert os.pread(fd, DEVICE_BYTES, 0) == before


# where it lies


def test_a_small_history_is_left_whole() -> None:
    """A sixteenth of the history at most: before that there is no backup."""
    small = SIZE_BYTES + 15 * MIB + labels.AREA_BYTES
    label = a_label(small)
    assert label.history_length_bytes == 15 * MIB
    assert history.backup_extent(label, labels.offset(small)) is None
    assert history.with_backup(label, labels.offset(small)) is None


def whole_history(*stores: tuple[int, int], state: LabelState = LabelState.CONSISTENT) -> Label:
    """A recovery volume of before there were backups."""
    length = labels.offset(DEVICE_BYTES) - SIZE_BYTES
    made = [HistoryEntry(uuid4(), 1, at, size, 8, HistoryFlag(0)) for at, size in stores]
    return replace(LABEL, history_length_bytes=length, history=tuple(made), state=state)


@pytest.mark.parametrize("stores", [(), ((SIZE_BYTES, MIB),)])
def test_room_is_made_on_a_recovery_volume_of_before(
    fd: int, stores: tuple[tuple[int, int], ...]
) -> None:
    label = whole_history(*stores)
    assert history.backup_extent(label, labels.offset(DEVICE_BYTES)) is None
    roomy = history.with_backup(label, labels.offset(DEVICE_BYTES))
    assert roomy is not None
    assert roomy == replace(label, history_length_bytes=LABEL.history_length_bytes)
    labels.write(fd, DEVICE_BYTES, roomy, "recovery.img")
    assert history.with_backup(roomy, labels.offset(DEVICE_BYTES)) is roomy


def test_no_store_is_ever_written_over() -> None:
    last = labels.offset(DEVICE_BYTES) - PAGE_BYTES
    label = whole_history((SIZE_BYTES, MIB), (last, PAGE_BYTES))
    assert history.with_backup(label, labels.offset(DEVICE_BYTES)) is None


@pytest.mark.parametrize("state", [LabelState.APPLYING, LabelState.MERGING, LabelState.COPYING])
def test_a_label_that_is_not_settled_is_left_alone(state: LabelState) -> None:
    assert history.with_backup(whole_history(state=state), labels.offset(DEVICE_BYTES)) is None
