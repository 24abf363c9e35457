"""Thin pools on a real kernel: inspected while they are written to, held against other judges."""

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from conftest import MIB, Lab, administrator, dmsnap, run
from patience import PATIENCE_SECONDS

BLOCK = 64 * 1024
NR_BLOCKS = 1024
PAGE = 4096

# Of the origin of a pool that is written to: what its snapshot shares, and what is given up of it.
SHARED = 300
DISCARDED = range(50, 70)


class Pool:
    """A pool on loop devices, and its thin devices; all gone when the scenario ends."""

    def __init__(self, lab: Lab) -> None:
        self.metadata, data = lab.disk(4 * MIB), lab.disk(3 * NR_BLOCKS * BLOCK)
        self._names: list[str] = []
        sectors = 3 * NR_BLOCKS * BLOCK // 512
        self.path = self.create(
            "pool", f"0 {sectors} thin-pool {self.metadata} {data} {BLOCK // 512} 0"
        )

    def create(self, name: str, table: str) -> Path:
        run("dmsetup", "create", f"t-{name}", "--table", table)
        run("dmsetup", "mknodes")
        self._names.append(f"t-{name}")
        return Path("/dev/mapper") / f"t-{name}"

    def message(self, text: str) -> None:
        run("dmsetup", "message", self.path.name, "0", text)

    def thin(self, dev_id: int) -> Path:
        sectors = NR_BLOCKS * BLOCK // 512
        return self.create(f"thin{dev_id}", f"0 {sectors} thin {self.path} {dev_id}")

    def snapshot(self, origin: Path, dev_id: int) -> None:
        run("dmsetup", "suspend", origin.name)
        self.message(f"create_snap {dev_id} {origin.name.removeprefix('t-thin')}")
        run("dmsetup", "resume", origin.name)

    def held_root(self) -> str:
        return run("dmsetup", "status", self.path.name).split()[6]

    def close(self) -> None:
        for name in reversed(self._names):
            run("dmsetup", "remove", "--retry", name)


@pytest.fixture
def pool(lab: Lab) -> Iterator[Pool]:
    run("modprobe", "dm-thin-pool")
    made = Pool(lab)
    try:
        yield made
    finally:
        made.close()


def write(path: Path, block: int, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(descriptor, data, block * BLOCK)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def discard(path: Path, block: int, count: int) -> None:
    run("blkdiscard", "-o", block * BLOCK, "-l", count * BLOCK, path)


def blocks(extents: list[Any], *kinds: str) -> set[int]:
    """The blocks of extents, or of those of some kinds."""
    return {
        block
        for offset, length, *kind in extents
        if not kinds or kind[0] in kinds
        for block in range(offset // BLOCK, (offset + length) // BLOCK)
    }


@contextmanager
def being_written_to(path: Path) -> Iterator[None]:
    """A page here and there, as fast as it goes; from the start some in every part of it.

    What was discarded before stays so, however long that takes: but for the half of it.
    """
    begun, over = threading.Event(), threading.Event()
    descriptor = os.open(path, os.O_WRONLY)

    def go_on() -> None:
        dice = random.Random(5)
        written: set[int] = set()
        while not over.is_set():
            block = dice.randrange(NR_BLOCKS)
            if block in DISCARDED[::2]:
                continue
            os.pwrite(descriptor, os.urandom(PAGE), block * BLOCK)
            os.fsync(descriptor)
            written.add(block)
            if min(written) < SHARED <= max(written):
                begun.set()

    writer = threading.Thread(target=go_on)
    writer.start()
    try:
        assert begun.wait(PATIENCE_SECONDS)
        yield
    finally:
        over.set()
        writer.join()
        os.close(descriptor)


def in_delta(text: str, tag: str) -> set[int]:
    return {
        block
        for element in ET.fromstring(text).iter(tag)
        for first in [int(element.attrib["begin"])]
        for block in range(first, first + int(element.attrib["length"]))
    }


def snapshot_option(pool: Pool) -> str:
    """0.9 takes the block, 1.x finds it."""
    old = run("thin_delta", "-V").startswith("0.")
    return f"--metadata-snap={pool.held_root()}" if old else "--metadata-snap"


@pytest.mark.selection
def test_a_pool_that_is_written_to(pool: Pool) -> None:
    """What thin_delta says of the same metadata snapshot, and every byte that differs is in it."""
    pool.message("create_thin 1")
    origin = pool.thin(1)
    write(origin, 0, os.urandom(SHARED * BLOCK))
    pool.snapshot(origin, 2)
    discard(origin, DISCARDED.start, len(DISCARDED))
    with being_written_to(origin):
        for device in (pool.path, pool.metadata):
            found = dmsnap("inspect", "thin", device, "--device", 1, "--since", 2)
            assert found["metadata_snapshot"] > 0
            assert pool.held_root() == "-"
            assert blocks(found["extents"], "added", "changed")
        pool.message("reserve_metadata_snap")
        found = dmsnap("inspect", "thin", pool.path, "--device", 1, "--since", 2)
    options = (snapshot_option(pool), "--snap1", 2, "--snap2", 1)
    delta = run("thin_delta", *options, pool.metadata)
    for kind, tag in (("added", "right_only"), ("removed", "left_only"), ("changed", "different")):
        assert blocks(found["extents"], kind) == in_delta(delta, tag)
        assert blocks(found["extents"], kind)
    pool.message("release_metadata_snap")

    found = dmsnap("inspect", "thin", pool.path, "--device", 1, "--since", 2)
    differing = blocks(found["extents"])
    now, before = origin.read_bytes(), pool.thin(2).read_bytes()
    assert {
        block
        for block in range(NR_BLOCKS)
        if now[block * BLOCK : (block + 1) * BLOCK] != before[block * BLOCK : (block + 1) * BLOCK]
    } == differing


def test_a_snapshot_that_is_held_stays(pool: Pool) -> None:
    pool.message("create_thin 1")
    origin = pool.thin(1)
    write(origin, 3, b"x")
    pool.message("reserve_metadata_snap")
    held = pool.held_root()
    write(origin, 9, b"x")
    found = dmsnap("inspect", "thin", pool.metadata, "--device", 1)
    assert blocks([extent[:2] for extent in found["extents"]]) == {3}
    assert str(found["metadata_snapshot"]) == held == pool.held_root()
    pool.message("release_metadata_snap")
    assert blocks(
        [e[:2] for e in dmsnap("inspect", "thin", pool.path, "--device", 1)["extents"]]
    ) == {
        3,
        9,
    }


def test_data_lies_where_it_says(pool: Pool, lab: Lab) -> None:
    """The third number of an extent is the place on the data device."""
    pool.message("create_thin 1")
    origin = pool.thin(1)
    for block in (7, 5, 1000, 6):
        write(origin, block, os.urandom(BLOCK))
    found = dmsnap("inspect", "thin", pool.path, "--device", 1)
    devno = run("dmsetup", "table", pool.path.name).split()[4]
    data = Path(f"/dev/{Path(f'/sys/dev/block/{devno}').resolve().name}").read_bytes()
    content = origin.read_bytes()
    assert blocks([extent[:2] for extent in found["extents"]]) == {5, 6, 7, 1000}
    for offset, length, place in found["extents"]:
        assert data[place : place + length] == content[offset : offset + length]


def test_a_suspended_pool_answers(pool: Pool) -> None:
    """Unlike dm-era: nobody waits for whoever resumes it."""
    pool.message("create_thin 1")
    write(pool.thin(1), 3, b"x")
    run("dmsetup", "suspend", "t-thin1")
    run("dmsetup", "suspend", pool.path.name)
    try:
        found = dmsnap("inspect", "thin", pool.path)
    finally:
        run("dmsetup", "resume", pool.path.name)
        run("dmsetup", "resume", "t-thin1")
    assert found["devices"][0]["mapped_blocks"] == 1


def test_a_pool_of_lvm(lab: Lab) -> None:
    """By each of the three devices that LVM makes of it."""
    run("modprobe", "dm-thin-pool")
    group = lab.group(lab.disk(128 * MIB))
    administrator("lvcreate", "-qq", "-y", "-L", "64M", "-T", f"{group}/pool")
    administrator("lvcreate", "-qq", "-y", "-V", "64M", "-n", "thin", "-T", f"{group}/pool")
    thin = Path(f"/dev/{group}/thin")
    write(thin, 0, os.urandom(2 * BLOCK))
    administrator("lvcreate", "-qq", "-y", "-s", "-n", "snap", f"{group}/thin")
    write(thin, 1, b"changed")
    write(thin, 4, b"added")
    fields = ("lvs", "--noheadings", "-o", "thin_id")
    ids = [int(run(*fields, f"{group}/{name}")) for name in ("thin", "snap")]
    for suffix in ("pool-tpool", "pool_tmeta", "pool"):
        device = Path(f"/dev/mapper/{group}-{suffix}")
        if suffix == "pool" and not device.exists():
            continue  # LVM makes it only where the pool itself is activated
        words = ("inspect", "thin", device, "--device", ids[0], "--since", ids[1])
        found = dmsnap(*words)
        assert blocks(found["extents"], "changed") == {1}
        assert blocks(found["extents"], "added") == {4}
        assert not blocks(found["extents"], "removed")
