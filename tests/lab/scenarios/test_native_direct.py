"""The native readers on real block devices: O_DIRECT, both sector sizes, bad sectors."""

import errno
import gzip
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from conftest import MIB, Lab, run

from dmsnap._native import label
from dmsnap._native.era import EraMetadata
from dmsnap._native.exception_store import ExceptionStore
from dmsnap._native.label import HistoryFlag, Label, LabelState, LabelTwin
from dmsnap.errors import OperatingSystemError

IMAGES = Path(__file__).parents[2] / "native" / "images"
SECTOR = 512

both_sector_sizes = pytest.mark.parametrize("sector_bytes", [512, 4096])


@contextmanager
def direct(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        yield fd
    finally:
        os.close(fd)


def put(path: str, content: bytes, offset_bytes: int = 0) -> None:
    with open(path, "r+b") as file:
        file.seek(offset_bytes)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def unreadable(path: str, size_bytes: int, offset_bytes: int, length_bytes: int) -> Iterator[str]:
    """``path``, but for a range that gives EIO."""
    start, length, end = (n // SECTOR for n in (offset_bytes, length_bytes, size_bytes))
    behind = start + length
    table = [f"0 {start} linear {path} 0", f"{start} {length} error"]
    if behind < end:
        table.append(f"{behind} {end - behind} linear {path} {behind}")
    name = f"direct-{uuid4().hex[:8]}"
    run("dmsetup", "create", name, "--table", "\n".join(table))
    run("dmsetup", "mknodes", name)
    try:
        yield f"/dev/mapper/{name}"
    finally:
        run("dmsetup", "remove", "--retry", name)


def example() -> Label:
    return Label(
        generation=0,
        size_bytes=8 * MIB,
        volume_uuid=UUID(int=1),
        recovery_uuid=UUID(int=2),
        state=LabelState.COPYING,
        flags=HistoryFlag(0),
        point_uuid=None,
        point_time_ns=0,
        next_point_uuid=UUID(int=3),
        next_point_time_ns=1,
        history_offset_bytes=8 * MIB,
        history_length_bytes=MIB,
        name="data",
        fs_type="ext4",
        fs_uuid="",
        host="lab",
    )


@both_sector_sizes
def test_era(lab: Lab, sector_bytes: int) -> None:
    image = gzip.decompress((IMAGES / "era-snapshot-6.1.img.gz").read_bytes())
    expected = json.loads((IMAGES / "era-snapshot-6.1.json").read_text())
    disk = lab.disk(len(image), sector_bytes=sector_bytes)
    put(disk, image)
    with direct(disk) as fd, EraMetadata.open(fd, disk) as era:
        for view in ("live", "snapshot"):
            extents = era.written_since(2, from_snapshot=view == "snapshot")
            size = expected["block_size"]
            found = [
                n for at, long in extents.pairs() for n in range(at // size, (at + long) // size)
            ]
            assert found == [block for block, last in expected[view]["written"] if last >= 2]


def test_unreadable_block_is_named(lab: Lab) -> None:
    image = gzip.decompress((IMAGES / "era-removed-6.1.img.gz").read_bytes())
    disk = lab.disk(len(image))
    put(disk, image)
    with direct(disk) as fd, EraMetadata.open(fd, disk) as era:
        root = era.superblock.era_array_root * 4096
    with (
        unreadable(disk, len(image), root, 4096) as spoiled,
        direct(spoiled) as fd,
        EraMetadata.open(fd, spoiled) as era,
        pytest.raises(OperatingSystemError) as caught,
    ):
        era.written_since(1)
    assert caught.value.fields["errnum"] == errno.EIO
    assert caught.value.fields["offset_bytes"] == root


@both_sector_sizes
@pytest.mark.parametrize("offset_bytes", [0, 12288, 512 * 3])
def test_store_of_any_place(lab: Lab, sector_bytes: int, offset_bytes: int) -> None:
    """The region's place and the chunk size need not be multiples of the sector that is read."""
    store = gzip.decompress((IMAGES / "store-4k-6.1.img.gz").read_bytes())
    expected = json.loads((IMAGES / "store-4k-6.1.json").read_text())
    disk = lab.disk(8 * MIB, sector_bytes=sector_bytes)
    put(disk, store, offset_bytes)
    with direct(disk) as fd, ExceptionStore.open(fd, offset_bytes, len(store), disk) as opened:
        assert sorted(exception.old_chunk for exception in opened) == expected["chunks"]


@both_sector_sizes
def test_label(lab: Lab, sector_bytes: int) -> None:
    size = 12 * MIB + (3 * SECTOR if sector_bytes == SECTOR else 0)
    disk = lab.disk(size, sector_bytes=sector_bytes)
    with direct(disk) as fd:
        for generation in range(1, 4):
            written = label.write(fd, size, example(), disk)
            assert written.generation == generation
            assert label.read(fd, size, disk) == written
        label.wipe(fd, size, disk)
    assert not any(Path(disk).read_bytes())


def test_label_with_one_unreadable_sector(lab: Lab) -> None:
    size = 12 * MIB
    disk = lab.disk(size)
    area = label.offset(size)
    with direct(disk) as fd:
        label.write(fd, size, example(), disk)
        second = label.write(fd, size, replace(example(), lease_time_ns=1), disk)
    for slot in (0, 1):
        with unreadable(disk, size, area + slot * 4096, 4096) as spoiled, direct(spoiled) as fd:
            assert label.read(fd, size, spoiled) == replace(second, twin=LabelTwin.DAMAGED)
    with (
        unreadable(disk, size, area, 8192) as spoiled,
        direct(spoiled) as fd,
        pytest.raises(OperatingSystemError, match="Input/output error"),
    ):
        label.read(fd, size, spoiled)
