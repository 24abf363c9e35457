"""The label's codec, and the choice between its two sectors, against a slow model of both."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import label_model
from hypothesis import given, settings
from hypothesis import strategies as st
from label_model import SECTOR, Entry, Model

from dmsnap._native import label
from dmsnap._native.label import LabelTwin
from dmsnap.errors import CorruptError

DEVICE_BYTES = 1 << 20
AREA = label_model.area_offset(DEVICE_BYTES)
REGION = AREA // 2
DISK_SECTOR = 512

uuids = st.uuids()
times = st.integers(0, 2**64 - 1)
numbers = st.one_of(
    st.integers(0, DEVICE_BYTES // SECTOR).map(lambda blocks: blocks * SECTOR),
    st.integers(0, 2**64 - 1),
)


def texts(size: int) -> st.SearchStrategy[bytes]:
    return st.text(st.characters(exclude_categories=["C"]), max_size=size).map(
        lambda text: text.encode()[:size].decode(errors="ignore").encode()
    )


@st.composite
def histories(draw: st.DrawFn) -> list[Entry]:
    """Stores side by side in the region, in any order."""
    starts = draw(st.lists(st.integers(0, 60), unique=True, max_size=20))
    return [
        Entry(
            draw(uuids),
            draw(times),
            REGION + start * 2 * SECTOR,
            draw(st.integers(1, 2)) * SECTOR,
            2 ** draw(st.integers(0, 21)),
            draw(st.integers(0, 1)),
        )
        for start in starts
    ]


@st.composite
def models(draw: st.DrawFn) -> Model:
    return Model(
        generation=draw(st.integers(1, 2**64 - 2)),
        size_bytes=draw(st.integers(1, REGION)),
        volume_uuid=draw(uuids),
        recovery_uuid=draw(uuids),
        state=draw(st.integers(1, 5)),
        flags=draw(st.integers(0, 1)),
        point_uuid=draw(uuids),
        point_time_ns=draw(times),
        next_point_uuid=draw(uuids),
        next_point_time_ns=draw(times),
        history_offset=REGION,
        history_length=AREA - REGION,
        name=draw(texts(64)),
        fs_type=draw(texts(16)),
        fs_uuid=draw(texts(40)),
        host=draw(texts(64)),
        history=draw(histories()),
        **draw(st.one_of(st.just({}), owners())),
    )


@st.composite
def owners(draw: st.DrawFn) -> dict[str, Any]:
    """What version 2 has; each may be unknown."""
    sizes = st.one_of(st.just(0), st.integers(0, 31).map(lambda power: 2**power))
    return {
        "host_uuid": draw(st.one_of(st.just(label_model.NONE), uuids)),
        "lease_time_ns": draw(st.one_of(st.just(0), times)),
        "block_size": draw(sizes),
        "chunk_size": draw(sizes),
        "device": draw(texts(192)),
        "store": draw(texts(128)),
        "mount_point": draw(texts(128)),
        "mount_options": draw(texts(128)),
    }


@st.composite
def damages(draw: st.DrawFn, model: Model) -> Model:
    """One field of ``model`` replaced by a value that may or may not do."""
    changes: dict[str, st.SearchStrategy[object]] = {
        "generation": st.just(0),
        "size_bytes": numbers,
        "state": st.integers(0, 7),
        "flags": st.integers(0, 3),
        "history_offset": numbers,
        "history_length": numbers,
        "name": st.binary(max_size=64),
        "host": st.binary(max_size=64),
        "magic": st.sampled_from([b"DMSNAPLB", b"DMSNAPLC", bytes(8)]),
        "version": st.integers(0, 3),
        "block_size": st.integers(0, 2**32 - 1),
        "chunk_size": st.integers(0, 2**32 - 1),
        "device": st.binary(max_size=192),
        "mount_options": st.binary(max_size=128),
        "nr_history": st.sampled_from([0, 1, 63, 64, 65, 2**32 - 1]),
        "patches": st.dictionaries(
            st.one_of(st.integers(140, 143), st.integers(936, 1023)),
            st.integers(1, 255),
            max_size=1,
        ),
    }
    name = draw(st.sampled_from([*changes, "history"]))
    if name != "history":
        return replace(model, **{name: draw(changes[name])})  # type: ignore[arg-type]
    if not model.history:
        return model
    return replace(model, history=[*model.history, draw(damaged_entries(model.history[0]))])


@st.composite
def damaged_entries(draw: st.DrawFn, entry: Entry) -> Entry:
    changes = {
        "store_offset": numbers,
        "store_length": numbers,
        "chunk_size": st.integers(0, 2**32 - 1),
        "flags": st.integers(0, 3),
    }
    name = draw(st.sampled_from(list(changes)))
    changed = {name: draw(changes[name])}
    return replace(entry, **changed)  # type: ignore[arg-type]


def decoded(sector: bytes) -> label.Label | None:
    try:
        return label.decode(sector, DEVICE_BYTES, "sdb")
    except CorruptError:
        return None


@given(models())
@settings(deadline=None)
def test_same_bytes(model: Model) -> None:
    """Decoding the model's bytes and encoding them gives them back: not a field is elsewhere."""
    assert model.is_valid(DEVICE_BYTES)
    found = label.decode(model.encode(), DEVICE_BYTES, "sdb")
    assert (found.generation, found.size_bytes) == (model.generation, model.size_bytes)
    assert (found.state, found.flags) == (model.state, model.flags)
    assert (found.name.encode(), found.host.encode()) == (model.name, model.host)
    assert (found.host_uuid or label_model.NONE) == model.host_uuid
    assert (found.device.encode(), found.store.encode()) == (model.device, model.store)
    assert [
        (entry.point_uuid, entry.store_offset_bytes, entry.chunk_size) for entry in found.history
    ] == [(entry.point_uuid, entry.store_offset, entry.chunk_size) for entry in model.history]
    assert label.encode(found) == model.encode()


@given(models().flatmap(damages))
@settings(max_examples=300, deadline=None)
def test_taken_when_valid(model: Model) -> None:
    """What the model calls valid is taken, and nothing else, though its checksum is right."""
    assert (decoded(model.encode()) is not None) == model.is_valid(DEVICE_BYTES)
    found = Model.decode(model.encode())  # by which power failures are judged
    assert (found is not None and found.is_valid(DEVICE_BYTES)) == model.is_valid(DEVICE_BYTES)


@contextmanager
def device(*slots: bytes) -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        file.truncate(DEVICE_BYTES)
        for i, slot in enumerate(slots):
            os.pwrite(file.fileno(), slot, AREA + i * SECTOR)
        yield file.fileno()


def truth(slots: list[Model]) -> Model | None:
    """The one with the higher generation that passes every check."""
    whole = [slot for slot in slots if slot.is_valid(DEVICE_BYTES)]
    return max(whole, key=lambda slot: slot.generation, default=None)


def read(fd: int) -> bytes | None:
    try:
        return label.encode(label.read(fd, DEVICE_BYTES, "sdb"))
    except CorruptError:
        return None


@given(st.lists(st.one_of(models(), models().flatmap(damages)), min_size=2, max_size=2))
@settings(max_examples=200, deadline=None)
def test_choice(slots: list[Model]) -> None:
    expected = truth(slots)
    sectors = [slot.encode() for slot in slots]
    with device(*sectors) as fd:
        assert read(fd) == (None if expected is None else expected.encode())
    found = label_model.newest(b"".join(sectors), DEVICE_BYTES)
    assert (found and found.encode()) == (expected and expected.encode())


@given(
    st.lists(
        st.tuples(models(), st.booleans(), st.sets(st.integers(0, SECTOR // DISK_SECTOR - 1))),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=60, deadline=None)
def test_torn_writes(writes: list[tuple[Model, bool, set[int]]]) -> None:
    """Power fails in each write: of its disk sectors only some, in no order, are there.

    The first of the two slots is flushed before the second is begun. What is read is the new label
    where all of what differs of one slot is there, else the last that was.
    """
    with device() as fd:
        last: bytes | None = None
        for model, in_first, lost in writes:
            before = os.pread(fd, label_model.AREA, AREA)
            made = label.decode(model.encode(), DEVICE_BYTES, "sdb")
            first = 1 if last is not None and before[:SECTOR] == last else 0
            new = label.encode(label.write(fd, DEVICE_BYTES, made, "sdb"))
            assert os.pread(fd, label_model.AREA, AREA) == new + new
            torn = first if in_first else 1 - first
            if in_first:  # nothing of the second was written
                rest = before[(1 - first) * SECTOR :][:SECTOR]
                os.pwrite(fd, rest, AREA + (1 - first) * SECTOR)
            for sector in lost:
                at = torn * SECTOR + sector * DISK_SECTOR
                os.pwrite(fd, before[at : at + DISK_SECTOR], AREA + at)
            if not in_first or os.pread(fd, SECTOR, AREA + first * SECTOR) == new:
                last = new
            assert read(fd) == last


@given(models(), models(), st.integers(0, 1), st.integers(0, SECTOR - 1))
@settings(max_examples=60, deadline=None)
def test_either_sector_is_enough(old: Model, new: Model, slot: int, position: int) -> None:
    """Whichever sector of a whole label goes bad later, the other one says the same."""
    with device() as fd:
        for model in (old, new):
            made = label.decode(model.encode(), DEVICE_BYTES, "sdb")
            written = label.write(fd, DEVICE_BYTES, made, "sdb")
        at = AREA + slot * SECTOR + position
        os.pwrite(fd, bytes([os.pread(fd, 1, at)[0] ^ 0x40]), at)
        found = label.read(fd, DEVICE_BYTES, "sdb")
        assert label.encode(found) == label.encode(written)
        doubtful = new.right_version == 1
        assert found.twin is (LabelTwin.DOUBTFUL if doubtful else LabelTwin.DAMAGED)
