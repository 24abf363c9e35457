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
from dmsnap._native.label import HistoryEntry, HistoryFlag, Label, LabelState, LabelTwin
from dmsnap.errors import CorruptError, DmsnapError, NotThisFormatError, OperatingSystemError

KIB = 1024
MIB = 1024 * KIB
DEVICE_BYTES = 16 * MIB + 1536
HISTORY = 8 * MIB

uuids = st.uuids()
times = st.integers(0, 2**64 - 1)
sizes = st.one_of(st.just(0), st.integers(0, 31).map(lambda power: 2**power))
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
        host_uuid=draw(optional),
        lease_time_ns=draw(times),
        block_size=draw(sizes),
        chunk_size=draw(sizes),
        device=draw(texts(192)),
        store=draw(texts(128)),
        mount_point=draw(texts(128)),
        mount_options=draw(texts(128)),
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


CHANGES = st.tuples(st.integers(8, 4095), st.integers(1, 255))


@given(labels(), st.lists(CHANGES, min_size=30, max_size=30))
@settings(max_examples=30)
def test_a_changed_byte_is_noticed(made: Label, changes: list[tuple[int, int]]) -> None:
    sector = label.encode(made)
    for position, change in changes:
        changed = bytearray(sector)
        changed[position] ^= change
        with pytest.raises(CorruptError, match="checksum"):
            label.decode(bytes(changed), DEVICE_BYTES, "sdb")


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
    return example(
        host=f"host {number}", point_time_ns=number, history=history, lease_time_ns=number + 1
    )


def slots_of(device: int) -> list[bytes]:
    area = label.offset(DEVICE_BYTES)
    return [os.pread(device, 4096, area + slot * 4096) for slot in (0, 1)]


def put_slot(device: int, slot: int, sector: bytes) -> None:
    os.pwrite(device, sector, label.offset(DEVICE_BYTES) + slot * 4096)


@pytest.mark.parametrize("generations", range(1, 4))
@pytest.mark.parametrize("torn_bytes", [10, 512, 2048, 4050])
def test_torn_write(device: int, generations: int, torn_bytes: int) -> None:
    """A write that stopped in its first sector leaves the label before it, in the second the new
    one; the next write replaces both.
    """
    for number in range(generations):
        last = label.write(device, DEVICE_BYTES, varied(number), "sdb")
    before = slots_of(device)[0]
    new = label.write(device, DEVICE_BYTES, varied(generations), "sdb")
    after = slots_of(device)[0]
    assert slots_of(device) == [after, after]
    assert new.generation == generations + 1
    torn = after[:torn_bytes] + before[torn_bytes:]
    assert torn not in (before, after)
    put_slot(device, 1, torn)
    assert label.read(device, DEVICE_BYTES, "sdb") == replace(new, twin=LabelTwin.DAMAGED)
    put_slot(device, 0, before)
    assert label.read(device, DEVICE_BYTES, "sdb") == replace(last, twin=LabelTwin.DAMAGED)
    put_slot(device, 1, after)
    assert label.read(device, DEVICE_BYTES, "sdb") == replace(new, twin=LabelTwin.EARLIER)
    put_slot(device, 1, torn)
    again = label.write(device, DEVICE_BYTES, example(name="again"), "sdb")
    assert again.generation == generations + 1
    assert label.read(device, DEVICE_BYTES, "sdb") == again
    assert slots_of(device)[0] == slots_of(device)[1]


def test_the_first_write_goes_to_one_sector_at_a_time(device: int) -> None:
    """What a write reaches first is not the sector that holds the truth."""
    first = label.write(device, DEVICE_BYTES, example(), "sdb")
    put_slot(device, 0, bytes(4096))
    second = label.write(device, DEVICE_BYTES, example(name="second"), "sdb")
    assert (first.generation, second.generation) == (1, 2)


@pytest.mark.parametrize(
    ("generations", "expected"), [(1, LabelTwin.EARLIER), (2, LabelTwin.DOUBTFUL)]
)
def test_a_label_of_before_its_sectors_were_alike(
    device: int, generations: int, expected: LabelTwin
) -> None:
    """Version 1 wrote in turn: a sector that is damaged may have been the later one."""
    for number in range(generations):
        label.write(device, DEVICE_BYTES, example(point_time_ns=number), "sdb")
    put_slot(device, 1, b"\xff" * 4096)
    found = label.read(device, DEVICE_BYTES, "sdb")
    assert found.twin is expected
    written = label.write(device, DEVICE_BYTES, replace(found, lease_time_ns=1), "sdb")
    put_slot(device, 1, b"\xff" * 4096)
    assert label.read(device, DEVICE_BYTES, "sdb") == replace(written, twin=LabelTwin.DAMAGED)


def test_what_fits() -> None:
    assert label.fits("device", "x" * 192)
    assert not label.fits("device", "x" * 193)
    assert not label.fits("mount_point", "ü" * 65)
    assert not label.fits("store", "a\nb")


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
