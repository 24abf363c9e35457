"""The era reader against a slow model that writes the metadata."""

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from era_model import BLOCK, Model, Writeset, build
from hypothesis import given, settings
from hypothesis import strategies as st

from dmsnap._native.era import EraMetadata
from dmsnap.errors import CorruptError, NotThisFormatError, OperatingSystemError, WrongStateError

BLOCK_BYTES = 64 * 1024


@contextmanager
def opened(content: bytes) -> Iterator[EraMetadata]:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        with EraMetadata.open(file.fileno(), "meta") as era:
            yield era


def found(era: EraMetadata, since: int, *, from_snapshot: bool = False) -> set[int]:
    size = era.superblock.block_size_bytes
    blocks = era.written_blocks(since, from_snapshot=from_snapshot)
    extents = era.written_since(since, from_snapshot=from_snapshot)
    assert list(blocks.pairs()) == list(extents.pairs())
    assert (len(blocks), blocks.bytes) == (len(extents), extents.bytes)
    for json in (True, False):
        assert "".join(blocks.texts(json=json)) == "".join(extents.texts(json=json))
    return {
        block
        for offset, length in extents.pairs()
        for block in range(offset // size, (offset + length) // size)
    }


@st.composite
def models(draw: st.DrawFn) -> Model:
    nr_blocks = draw(st.integers(1, 2500))
    current_era = draw(st.integers(1, 12))
    seed = random.Random(draw(st.integers(0, 2**32)))
    share = draw(st.sampled_from([0.0, 0.01, 0.5, 1.0]))

    def some(bits: int) -> set[int]:
        return {block for block in range(bits) if seed.random() < share}

    def writeset(era: int) -> Writeset:
        nr_bits = draw(st.sampled_from([nr_blocks, 1, nr_blocks // 2 + 1, nr_blocks + 700]))
        return Writeset(era, nr_bits, some(nr_bits))

    eras = [seed.randint(0, current_era) if seed.random() < share else 0 for _ in range(nr_blocks)]
    archived = draw(st.sets(st.integers(1, current_era), max_size=4))
    current = writeset(current_era) if draw(st.booleans()) else None
    return Model(
        block_size=draw(st.sampled_from([8, 128, 24])),
        current_era=current_era,
        eras=eras,
        archived=[writeset(era) for era in archived],
        current=current,
    )


@given(models(), st.integers(0, 14), st.sampled_from([2, 3, 200]))
@settings(max_examples=60, deadline=None)
def test_live(model: Model, since: int, fan_out: int) -> None:
    with opened(build(model, fan_out=fan_out)) as era:
        assert era.superblock.nr_blocks == len(model.eras)
        assert era.superblock.current_era == model.current_era
        assert era.superblock.block_size_bytes == model.block_size * 512
        assert found(era, since) == model.written_since(since)


@given(models(), st.integers(0, 14), st.integers(1, 4000))
@settings(max_examples=60, deadline=None)
def test_snapshot(model: Model, since: int, nr_blocks: int) -> None:
    """The device may have grown or shrunk since: the live superblock says how large it is."""
    model.nr_blocks = nr_blocks
    with opened(build(model, snapshot=True)) as era:
        assert found(era, since, from_snapshot=True) == model.written_since(
            since, from_snapshot=True
        )


@st.composite
def large_models(draw: st.DrawFn) -> Model:
    """Bitsets of several blocks, of which the last is full to the bit, nearly, or barely begun."""
    seed = random.Random(draw(st.integers(0, 2**32)))
    bits_per_block = 509 * 64
    sizes = st.sampled_from([bits_per_block + by for by in (-1, 0, 1, 64, 3000)])
    nr_blocks = draw(sizes)

    def writeset(era: int) -> Writeset:
        nr_bits = draw(sizes)
        some = {nr_bits - 1, *(seed.randrange(nr_bits) for _ in range(50))}
        return Writeset(era, nr_bits, some)

    eras = [0] * nr_blocks
    for _ in range(100):
        eras[seed.randrange(nr_blocks)] = seed.randint(1, 9)
    eras[-1] = draw(st.integers(0, 9))
    archived = draw(st.sets(st.integers(1, 9), min_size=1, max_size=9))
    return Model(
        current_era=9,
        eras=eras,
        archived=[writeset(era) for era in archived],
        current=writeset(9) if draw(st.booleans()) else None,
    )


@given(large_models(), st.integers(1, 10), st.integers(2, 200), st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_shapes(model: Model, since: int, fan_out: int, seed: int) -> None:
    """Trees of several levels whose nodes are as full as chance has it."""
    with opened(build(model, fan_out=fan_out, chance=random.Random(seed))) as era:
        assert found(era, since) == model.written_since(since)


@given(large_models(), st.integers(1, 10), st.integers(1, 40000), st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_shapes_of_a_snapshot(model: Model, since: int, nr_blocks: int, seed: int) -> None:
    """Grown or shrunk since, by more than a block of the array."""
    model.nr_blocks = nr_blocks
    with opened(build(model, snapshot=True, chance=random.Random(seed))) as era:
        assert found(era, since, from_snapshot=True) == model.written_since(
            since, from_snapshot=True
        )


def test_no_snapshot() -> None:
    with opened(build(Model(eras=[1]))) as era, pytest.raises(WrongStateError, match="snapshot"):
        era.written_since(1, from_snapshot=True)


@pytest.mark.parametrize("from_snapshot", [False, True])
def test_metadata_that_is_written_meanwhile(from_snapshot: bool) -> None:
    """Without a metadata snapshot nothing holds it still; with one only its drop counts."""
    model = Model(current_era=3, eras=[1, 2, 0], nr_blocks=3)
    with tempfile.TemporaryFile() as file:
        file.write(build(model, snapshot=True))
        file.flush()
        with EraMetadata.open(file.fileno(), "meta") as era:
            model.current_era = 4
            file.seek(0)
            file.write(build(model, snapshot=from_snapshot))
            file.flush()
            if from_snapshot:
                assert len(era.written_blocks(2, from_snapshot=True)) == 1
                file.seek(0)
                file.write(build(model, snapshot=False))
                file.flush()
            with pytest.raises(WrongStateError) as caught:
                era.written_blocks(2, from_snapshot=from_snapshot)
    part = "was dropped while" if from_snapshot else "current_era 3, now 4): it is in use"
    assert part in str(caught.value)


def test_last_block_may_reach_beyond_the_device() -> None:
    with opened(build(Model(current_era=1, eras=[0, 1]))) as era:
        found = (era.written_since(1), era.written_blocks(1))
    for extents in found:
        assert list(extents.pairs()) == [(BLOCK_BYTES, BLOCK_BYTES)]
        extents.clamp(BLOCK_BYTES + 512)
        assert list(extents.pairs()) == [(BLOCK_BYTES, 512)]


@pytest.mark.parametrize("content", [b"", b"x", bytes(BLOCK), b"\xff" * 3 * BLOCK])
def test_no_metadata(content: bytes) -> None:
    with pytest.raises(NotThisFormatError), opened(content):
        pass


def test_error_names_device_block_and_place() -> None:
    content = bytearray(build(Model(current_era=2, eras=[2] * 2000, archived=[])))
    # The writeset tree is block 1, the first array block 2.
    content[2 * BLOCK + 100] ^= 1
    with (
        opened(bytes(content)) as era,
        pytest.raises(CorruptError, match=r"^meta: era array block 2: checksum .*, at byte 8192$"),
    ):
        era.written_since(1)


@given(models(), st.data())
@settings(max_examples=100, deadline=None)
def test_truncated(model: Model, data: st.DataObject) -> None:
    """Never less than there was: what is cut off is an error, unless nothing was there."""
    content = build(model, spare=0)
    size = data.draw(st.integers(0, len(content) - 1))
    try:
        with opened(content[:size]) as era:
            assert found(era, 1) == model.written_since(1)
    except CorruptError:
        pass


@given(models(), st.data())
@settings(max_examples=200, deadline=None)
def test_flipped_bit(model: Model, data: st.DataObject) -> None:
    content = bytearray(build(model, spare=0))
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CorruptError), opened(bytes(content)) as era:
        found(era, 0)


def test_not_a_descriptor() -> None:
    with pytest.raises(OperatingSystemError, match="Bad file descriptor"):
        EraMetadata.open(10**6, "meta")


def test_closed() -> None:
    with opened(build(Model(eras=[1]))) as era:
        pass
    with pytest.raises(ValueError, match="closed"):
        era.written_since(1)
