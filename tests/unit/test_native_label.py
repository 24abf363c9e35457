"""Labels: what is written is read again, and nothing else is."""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmsnap._native import label
from dmsnap._native.label import HistoryEntry, HistoryFlag, Label, LabelState
from dmsnap.errors import CorruptError, DmsnapError, NotThisFormatError, OperatingSystemError

KIB = 1024
MIB = 1024 * KIB
DEVICE_BYTES = 16 * MIB + 1536
HISTORY = 8 * MIB

uuids = st.uuids()
times = st.integers(0, 2**64 - 1)
flags = st.sampled_from([HistoryFlag(0), HistoryFlag.KEEP])


def texts(size: int) -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=["C"]), max_size=size).filter(
        lambda text: len(text.encode()) <= size
    )


@st.composite
def histories(draw: st.DrawFn) -> tuple[HistoryEntry, ...]:
    lengths = draw(st.lists(st.integers(1, 8), max_size=64))
    entries = []
    position = HISTORY
    for length in lengths:
        position += 4 * KIB * draw(st.integers(0, 2))
        entries.append(
            HistoryEntry(
                draw(uuids),
                draw(times),
                position,
                length * 4 * KIB,
                2 ** draw(st.integers(0, 21)),
                draw(flags),
            )
        )
        position += length * 4 * KIB
    return tuple(draw(st.permutations(entries)))


@st.composite
def labels(draw: st.DrawFn) -> Label:
    optional = st.one_of(st.none(), uuids.filter(lambda uuid: uuid.int != 0))
    return Label(
        generation=draw(st.integers(1, 2**64 - 1)),
        size_bytes=draw(st.integers(1, HISTORY)),
        volume_uuid=draw(uuids),
        recovery_uuid=draw(uuids),
        state=draw(st.sampled_from(LabelState)),
        flags=draw(flags),
        point_uuid=draw(optional),
        point_time_ns=draw(times),
        next_point_uuid=draw(optional),
        next_point_time_ns=draw(times),
        history_offset_bytes=HISTORY,
        history_length_bytes=7 * MIB,
        name=draw(texts(64)),
        fs_type=draw(texts(16)),
        fs_uuid=draw(texts(40)),
        host=draw(texts(64)),
        history=draw(histories()),
    )


def example(**changes: object) -> Label:
    made = Label(
        generation=0,
        size_bytes=HISTORY,
        volume_uuid=UUID(int=1),
        recovery_uuid=UUID(int=2),
        state=LabelState.CONSISTENT,
        flags=HistoryFlag.KEEP,
        point_uuid=uuid4(),
        point_time_ns=1,
        next_point_uuid=None,
        next_point_time_ns=0,
        history_offset_bytes=HISTORY,
        history_length_bytes=4 * MIB,
        name="data",
        fs_type="xfs",
        fs_uuid="",
        host="example",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def device() -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        file.truncate(DEVICE_BYTES)
        yield file.fileno()


@given(labels())
def test_round_trip(made: Label) -> None:
    sector = label.encode(made)
    assert len(sector) == label.SECTOR_BYTES
    assert label.decode(sector, DEVICE_BYTES, "sdb") == made


@given(labels(), st.integers(8, 4095), st.integers(1, 255))
@settings(max_examples=300)
def test_a_changed_byte_is_noticed(made: Label, position: int, change: int) -> None:
    sector = bytearray(label.encode(made))
    sector[position] ^= change
    with pytest.raises(CorruptError, match="checksum"):
        label.decode(bytes(sector), DEVICE_BYTES, "sdb")


@given(labels())
def test_written_is_read(made: Label) -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(DEVICE_BYTES)
        written = label.write(file.fileno(), DEVICE_BYTES, made, "sdb")
        assert written == replace(made, generation=1)
        assert label.read(file.fileno(), DEVICE_BYTES, "sdb") == written


def test_nothing_but_the_area_is_touched(device: int) -> None:
    label.write(device, DEVICE_BYTES, example(), "sdb")
    label.write(device, DEVICE_BYTES, example(), "sdb")
    offset = label.offset(DEVICE_BYTES)
    content = os.pread(device, DEVICE_BYTES, 0)
    assert len(content) == DEVICE_BYTES
    assert not any(content[:offset])
    assert not any(content[offset + label.AREA_BYTES :])


def varied(number: int) -> Label:
    """A label that differs from all others in every part of the sector."""
    history = tuple(
        HistoryEntry(
            UUID(int=number << 64 | i), number, HISTORY + i * 4096, 4096, 8, HistoryFlag(0)
        )
        for i in range(label.MAX_HISTORY)
    )
    return example(host=f"host {number}", point_time_ns=number, history=history)


@pytest.mark.parametrize("generations", range(1, 6))
@pytest.mark.parametrize("torn_bytes", [10, 512, 2048, 4050])
def test_torn_write(device: int, generations: int, torn_bytes: int) -> None:
    """A write that stopped in the middle leaves the label before it; the next write replaces it."""
    for number in range(generations):
        last = label.write(device, DEVICE_BYTES, varied(number), "sdb")
    area = label.offset(DEVICE_BYTES)
    before = [os.pread(device, 4096, area), os.pread(device, 4096, area + 4096)]
    label.write(device, DEVICE_BYTES, varied(generations), "sdb")
    slot = 0 if os.pread(device, 4096, area) != before[0] else 1
    after = os.pread(device, 4096, area + slot * 4096)
    torn = after[:torn_bytes] + before[slot][torn_bytes:]
    assert torn not in (before[slot], after)
    os.pwrite(device, torn, area + slot * 4096)
    assert label.read(device, DEVICE_BYTES, "sdb") == last
    again = label.write(device, DEVICE_BYTES, example(name="again"), "sdb")
    assert again.generation == generations + 1
    assert label.read(device, DEVICE_BYTES, "sdb") == again
    assert os.pread(device, 4096, area + (1 - slot) * 4096) == before[1 - slot]


def test_no_label(device: int) -> None:
    with pytest.raises(NotThisFormatError, match="sdb: label: no magic number, at byte 167"):
        label.read(device, DEVICE_BYTES, "sdb")


def test_wipe(device: int) -> None:
    for _ in range(3):
        label.write(device, DEVICE_BYTES, example(), "sdb")
    label.wipe(device, DEVICE_BYTES, "sdb")
    with pytest.raises(NotThisFormatError):
        label.read(device, DEVICE_BYTES, "sdb")
    assert not any(os.pread(device, DEVICE_BYTES, 0))


def test_too_small() -> None:
    with pytest.raises(NotThisFormatError, match="8191 bytes have no room"):
        label.read(0, 8191, "sdb")


def test_a_label_that_no_one_could_read_is_not_written(device: int) -> None:
    written = label.write(device, DEVICE_BYTES, example(), "sdb")
    with pytest.raises(DmsnapError, match="replica"):
        label.write(device, DEVICE_BYTES, example(size_bytes=DEVICE_BYTES), "sdb")
    with pytest.raises(ValueError, match="does not fit"):
        label.write(device, DEVICE_BYTES, example(name="x" * 65), "sdb")
    assert label.read(device, DEVICE_BYTES, "sdb") == written


def test_read_only(device: int) -> None:
    fd = os.open(f"/proc/self/fd/{device}", os.O_RDONLY)
    try:
        with pytest.raises(OperatingSystemError, match="label: write: Bad file descriptor"):
            label.write(fd, DEVICE_BYTES, example(), "sdb")
    finally:
        os.close(fd)
