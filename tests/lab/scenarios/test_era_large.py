"""Era metadata of a large volume as the kernel makes it, and the log of what was written."""

import mmap
import os
import random
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from conftest import MIB, Lab, dmsnap, run
from test_tracking_judges import invalidated

from dmsnap.host.dm import device as dm

SECTOR, BLOCK = 512, 65536
TIB = 1 << 40
SIZE = TIB + 5 * SECTOR  # no multiple of the block size
NR_BLOCKS = SIZE // BLOCK + 1
ERAS = 5
WRITES = 600  # in each era


@contextmanager
def mapped(name: str, table: str) -> Iterator[str]:
    run("dmsetup", "create", name, "--table", table)
    try:
        yield f"/dev/mapper/{name}"
    finally:
        run("dmsetup", "remove", "--retry", name)


@contextmanager
def era_over_zero(metadata: str) -> Iterator[str]:
    """An era device over nothing but zeroes."""
    run("modprobe", "-a", "dm-zero", "dm-era")
    sectors = SIZE // SECTOR
    with (
        mapped("lab-zero", f"0 {sectors} zero") as zero,
        mapped("lab-era", f"0 {sectors} era {metadata} {zero} {BLOCK // SECTOR}"),
    ):
        yield "lab-era"


def write_blocks(name: str, blocks: Sequence[int]) -> None:
    """A sector of each, past the page cache; dm-zero forgets them."""
    buffer = mmap.mmap(-1, 4096)
    descriptor = os.open(f"/dev/mapper/{name}", os.O_WRONLY | os.O_DIRECT)
    try:
        for block in blocks:
            os.pwrite(descriptor, memoryview(buffer)[:SECTOR], block * BLOCK)
    finally:
        os.close(descriptor)


def current_era(name: str) -> int:
    return int(run("dmsetup", "status", name).split()[5])


def expected(log: dict[int, int], since: int) -> list[list[int]]:
    """The log as extents: a block each, neighbours joined, the last one cut off at the end."""
    extents: list[list[int]] = []
    for block in sorted(block for block, era in log.items() if era >= since):
        offset, length = block * BLOCK, min(BLOCK, SIZE - block * BLOCK)
        if extents and sum(extents[-1]) == offset:
            extents[-1][1] += length
        else:
            extents.append([offset, length])
    return extents


def whole_blocks(extents: list[list[int]]) -> list[list[int]]:
    """Metadata alone does not know how many bytes the last block has."""
    return [[offset, -(-length // BLOCK) * BLOCK] for offset, length in extents]


def test_a_tebibyte_against_the_log_of_writes(lab: Lab) -> None:
    """Through a metadata snapshot and, with the device gone, out of the live metadata."""
    chosen = random.Random(20261124)
    log: dict[int, int] = {}
    metadata = lab.disk(256 * MIB)
    with era_over_zero(metadata) as name:
        for _ in range(ERAS):
            era = current_era(name)
            blocks = [chosen.randrange(NR_BLOCKS) for _ in range(WRITES)]
            blocks += [0, NR_BLOCKS - 1, *range(5000 * era, 5000 * era + 40)]
            write_blocks(name, blocks)
            log.update(dict.fromkeys(blocks, era))
            run("dmsetup", "message", name, "0", "checkpoint")
        newest = current_era(name)
        for since in (1, newest - 2, newest):
            found = dmsnap("inspect", "era", f"/dev/mapper/{name}", "--since", since)
            assert found["extents"] == expected(log, since), since
        write_blocks(name, [77])
        log[77] = current_era(name)
    for since in (1, newest - 2, log[77]):
        found = dmsnap("inspect", "era", metadata, "--since", since)
        assert found["extents"] == whole_blocks(expected(log, since)), since
    # 0.9 leaves out the current writeset, which only the last write is in.
    judge = invalidated(metadata, newest - 2, []) | {77}
    assert judge == {block for block, era in log.items() if era >= newest - 2}


@contextmanager
def committing(name: str, block: int) -> Iterator[None]:
    """Another process that has dm-era write its superblock all the time."""
    child = os.fork()
    if child == 0:
        try:
            while True:
                write_blocks(name, [block])
                dm.message(name, "checkpoint")
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "nobody wrote"


def test_metadata_that_is_written_while_it_is_read(lab: Lab) -> None:
    """By a way on which nobody sees that it is in use, so that no metadata snapshot is taken: it
    is refused, or what is told is right.
    """
    written = 4711
    metadata = lab.disk(256 * MIB)
    beside = f"0 {256 * MIB // SECTOR} linear {metadata} 0"
    with era_over_zero(metadata) as name, mapped("lab-beside", beside) as path:
        write_blocks(name, [written])
        dm.message(name, "checkpoint")
        told: list[Any] = []
        with committing(name, written):
            while not told or "error" not in told[-1]:
                assert len(told) < 50, "it was never written while it was read"
                told.append(dmsnap("inspect", "era", path, "--since", 1, expected=None))
        *answers, refusal = told
        assert "era metadata was written while it was read" in refusal["error"]
        answers.append(dmsnap("inspect", "era", path, "--since", 1))
    for answer in answers:
        assert answer["extents"] == [[written * BLOCK, BLOCK]]
