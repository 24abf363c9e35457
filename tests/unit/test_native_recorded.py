"""Images that a kernel wrote, against what was written and what era_invalidate says."""

import gzip
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dmsnap._native.era import EraMetadata
from dmsnap._native.exception_store import ExceptionStore
from dmsnap._native.extent_set import ExtentSet
from dmsnap.errors import PointInvalidError

IMAGES = Path(__file__).parents[1] / "native" / "images"
ERA = sorted(path.stem for path in IMAGES.glob("era-*.json"))
STORES = sorted(path.stem for path in IMAGES.glob("store-*.json"))


def expected(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((IMAGES / f"{name}.json").read_text())
    return found


@contextmanager
def unpacked(name: str) -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        file.write(gzip.decompress((IMAGES / f"{name}.img.gz").read_bytes()))
        file.flush()
        yield file.fileno()


def blocks(extents: ExtentSet, block_size: int) -> list[int]:
    found: list[int] = []
    for offset, length in extents.pairs():
        assert offset % block_size == 0
        assert length % block_size == 0
        found += range(offset // block_size, (offset + length) // block_size)
    return found


def test_all_images_are_here() -> None:
    assert len(ERA) == 12
    assert len(STORES) == 10


@pytest.mark.parametrize("name", ERA)
@pytest.mark.parametrize("view", ["live", "snapshot"])
def test_era(name: str, view: str) -> None:
    image = expected(name)
    if view not in image:
        pytest.skip("no metadata snapshot in it")
    with unpacked(name) as fd, EraMetadata.open(fd, name) as era:
        assert era.superblock.block_size_bytes == image["block_size"]
        assert era.superblock.nr_blocks == image["nr_blocks"]
        assert bool(era.superblock.metadata_snap) == ("snapshot" in image)
        for since in range(1, era.superblock.current_era + 2):
            found = blocks(
                era.written_since(since, from_snapshot=view == "snapshot"), image["block_size"]
            )
            assert found == [block for block, last in image[view]["written"] if last >= since]
            judged = image[view]["era_invalidate"].get(str(since))
            if judged is not None:
                check_judge(name, found, [b for b in judged if b < era.superblock.nr_blocks])


def check_judge(name: str, found: list[int], judged: list[int]) -> None:
    """Equal, but for two cases in which era_invalidate says less than the log of writes.

    0.9 leaves the current writeset out; 1.1 the era array, when no archived writeset is older
    than what it was asked for. What it does say must be there.
    """
    if name.startswith("era-in-use") or not judged:
        assert set(judged) <= set(found)
    else:
        assert found == judged


@pytest.mark.parametrize("name", [name for name in ERA if name.startswith("era-in-use")])
def test_current_writeset(name: str) -> None:
    image = expected(name)
    with unpacked(name) as fd, EraMetadata.open(fd, name) as era:
        assert era.superblock.current_writeset_root
        current = era.superblock.current_era
        found = blocks(era.written_since(current), image["block_size"])
    assert found
    assert found == [block for block, last in image["live"]["written"] if last == current]


def test_since_0_is_every_block() -> None:
    with unpacked(ERA[0]) as fd, EraMetadata.open(fd, ERA[0]) as era:
        superblock = era.superblock
        assert era.written_since(0).bytes == superblock.nr_blocks * superblock.block_size_bytes


@pytest.mark.parametrize("name", STORES)
def test_store(name: str) -> None:
    image = expected(name)
    with unpacked(name) as fd:
        length = os.fstat(fd).st_size
        with ExceptionStore.open(fd, 0, length, name) as store:
            assert store.header.chunk_size == image["chunk_size"]
            assert store.header.valid == image["valid"]
            if not image["valid"]:
                assert len(store) == 0
                with pytest.raises(PointInvalidError):
                    store.extents()
                return
            assert sorted(exception.old_chunk for exception in store) == image["chunks"]
            assert len(store) == len(image["chunks"])
            found = blocks(store.extents(), store.header.chunk_size_bytes)
    assert found == image["chunks"]
