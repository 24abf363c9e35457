"""Thin metadata that kernels wrote, against thin_dump, thin_delta and a log of what was written.

tests/native/images/record_thin.py makes the images.
"""

import gzip
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dmsnap._native.extent_set import ExtentSet
from dmsnap._native.thin import ThinMetadata

IMAGES = Path(__file__).parents[1] / "native" / "images"
POOLS = sorted(path.stem for path in IMAGES.glob("thin-*.json"))
DUMPED = ("mapped_blocks", "transaction", "creation_time", "snap_time")

Runs = list[list[int]]


def expected(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((IMAGES / f"{name}.json").read_text())
    return found


VIEWS = [(name, view) for name in POOLS for view in ("live", "snapshot") if view in expected(name)]


@contextmanager
def unpacked(name: str, view: str) -> Iterator[ThinMetadata]:
    with tempfile.TemporaryFile() as file:
        file.write(gzip.decompress((IMAGES / f"{name}.img.gz").read_bytes()))
        file.flush()
        snapshot = view == "snapshot"
        with ThinMetadata.open(file.fileno(), name, from_snapshot=snapshot) as thin:
            yield thin


def runs(extents: ExtentSet, block_size: int) -> Runs:
    """First block and length; touching runs of thin_delta are one extent of ours."""
    return [[offset // block_size, length // block_size] for offset, length in extents.pairs()]


def joined(found: Runs) -> Runs:
    answer: Runs = []
    for begin, length in found:
        if answer and sum(answer[-1]) == begin:
            answer[-1][1] += length
        else:
            answer.append([begin, length])
    return answer


def test_all_images_are_here() -> None:
    assert len(POOLS) == 10
    assert len(VIEWS) == 12


@pytest.mark.parametrize(("name", "view"), VIEWS)
def test_devices(name: str, view: str) -> None:
    dump = expected(name)[view]["thin_dump"]
    with unpacked(name, view) as thin:
        superblock = thin.superblock
        assert superblock.data_block_size == dump["data_block_size"]
        assert bool(superblock.held_root) == ("snapshot" in expected(name))
        if view == "live":
            assert superblock.data_nr_blocks == dump["nr_data_blocks"]
            assert (superblock.time, superblock.trans_id) == (dump["time"], dump["transaction"])
        assert {
            str(device.dev_id): [
                device.mapped_blocks,
                device.transaction_id,
                device.creation_time,
                device.snapshotted_time,
            ]
            for device in thin.devices
        } == {dev_id: [device[key] for key in DUMPED] for dev_id, device in dump["devices"].items()}


@pytest.mark.parametrize(("name", "view"), VIEWS)
def test_mappings(name: str, view: str) -> None:
    judges = expected(name)[view]
    with unpacked(name, view) as thin:
        for device in thin.devices:
            mappings = thin.mappings(device.dev_id)
            assert [
                [run.thin_block, run.data_block, run.nr_blocks, run.time] for run in mappings
            ] == judges["thin_dump"]["devices"][str(device.dev_id)]["mappings"]
            found = runs(mappings.extents(), thin.superblock.block_size_bytes)
            assert found == judges["log"][str(device.dev_id)]


@pytest.mark.parametrize(("name", "view"), VIEWS)
def test_differences(name: str, view: str) -> None:
    judges = expected(name)[view]
    with unpacked(name, view) as thin:
        size = thin.superblock.block_size_bytes
        for pair, delta in judges["thin_delta"].items():
            old, new = (int(dev_id) for dev_id in pair.split())
            there, back = thin.difference(old, new), thin.difference(new, old)
            assert runs(there.added, size) == joined(delta["right_only"])
            assert runs(there.removed, size) == joined(delta["left_only"])
            assert runs(there.changed, size) == joined(delta["different"])
            assert (back.added, back.removed) == (there.removed, there.added)
            assert back.changed == there.changed


def test_there_are_differences_of_all_kinds() -> None:
    """What the tests above compare is not empty everywhere."""
    deltas = expected("thin-pool-6.1")["live"]["thin_delta"].values()
    for kind in ("left_only", "right_only", "different"):
        assert any(delta[kind] for delta in deltas)


@pytest.mark.parametrize("name", [name for name in POOLS if name.startswith("thin-deep")])
def test_internal_nodes_above_internal_nodes(name: str) -> None:
    """More leaves than one node has children (252 of eight bytes)."""
    with unpacked(name, "live") as thin:
        assert thin.device(1).mapped_blocks > 252 * 126
