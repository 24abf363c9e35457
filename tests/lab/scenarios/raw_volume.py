"""Raw volumes of the scenarios: protected without a file system, written to in every way."""

import ctypes
import mmap
import os
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conftest import MIB, Lab, dm_devices, dmsnap, label_on, run, sha256

SECTOR = 512
KIB = 1024
Range = tuple[int, int]


@dataclass
class Protected:
    """A protected volume, by its name, and both of its devices."""

    name: str
    primary: str
    recovery: str
    size_bytes: int
    block_bytes: int = 64 * KIB

    @property
    def front(self) -> Path:
        return Path("/dev/mapper") / self.name

    def sync(self, *options: object, expected: int = 0) -> Any:
        return dmsnap("sync", self.name, *options, expected=expected)

    def replica_sha256(self) -> str:
        return sha256(self.recovery, self.size_bytes)

    def check_equal(self) -> str:
        """The replica holds what the front holds; nobody may write meanwhile."""
        front = sha256(self.front)
        assert self.replica_sha256() == front
        return front

    def label(self) -> Any:
        return label_on(self.recovery)

    def blocks_of(self, ranges: Iterable[Range]) -> int:
        """The bytes of the era blocks that ``ranges`` touch, cut at the volume's end."""
        blocks: set[int] = set()
        for offset, length in ranges:
            blocks.update(
                range(offset // self.block_bytes, (offset + length - 1) // self.block_bytes + 1)
            )
        return sum(
            min(self.block_bytes, self.size_bytes - block * self.block_bytes) for block in blocks
        )


def protected(
    lab: Lab,
    size_bytes: int,
    *options: object,
    history_bytes: int = 32 * MIB,
    block_bytes: int = 64 * KIB,
    filled: bool = True,
) -> Protected:
    """A raw volume full of random bytes, and its replica."""
    primary = lab.disk(size_bytes)
    recovery = lab.disk((size_bytes // MIB + 2) * MIB + history_bytes)
    if filled:
        fill(Path(primary), size_bytes)
    name = lab.protect(primary, recovery, "--block-size", block_bytes, *options)
    return Protected(name, primary, recovery, size_bytes, block_bytes)


def fill(device: Path, size_bytes: int) -> None:
    """Random bytes all over."""
    piece = os.urandom(MIB)
    with device.open("r+b", buffering=0) as file:
        for offset in range(0, size_bytes, MIB):
            os.pwrite(file.fileno(), piece[offset // MIB % SECTOR :], offset)
        os.pwrite(file.fileno(), piece[:SECTOR], size_bytes - SECTOR)
        os.fsync(file.fileno())


def write_direct(device: Path | str, data: bytes, offset: int) -> None:
    """One direct write of whole sectors."""
    with mmap.mmap(-1, len(data)) as buffer:
        buffer[:] = data
        fd = os.open(device, os.O_WRONLY | os.O_DIRECT)
        try:
            assert os.pwritev(fd, [buffer], offset) == len(data)
        finally:
            os.close(fd)


def ranges_of(size_bytes: int) -> list[Range]:
    """One sector, a block's border, an unaligned run over many blocks, the last sector."""
    return [
        (0, SECTOR),
        (MIB - 4096, 8192),
        (3 * MIB + SECTOR, 300 * KIB),
        (6 * MIB + 3 * SECTOR, MIB + SECTOR),
        (size_bytes - SECTOR, SECTOR),
    ]


def by_direct_io(front: Path, size_bytes: int) -> list[Range]:
    ranges = ranges_of(size_bytes)
    for offset, length in ranges:
        write_direct(front, os.urandom(length), offset)
    return ranges


def by_buffered_io(front: Path, size_bytes: int) -> list[Range]:
    """Not flushed by the writer: the window does that."""
    ranges = [(offset + 5, length - 9) for offset, length in ranges_of(size_bytes)]
    fd = os.open(front, os.O_RDWR)
    try:
        for offset, length in ranges:
            assert os.pwrite(fd, os.urandom(length), offset) == length
    finally:
        os.close(fd)
    return ranges


def by_mmap(front: Path, size_bytes: int) -> list[Range]:
    """Dirty pages of a mapping, which stays until the data is flushed by closing."""
    ranges = [(offset + 3, length - 7) for offset, length in ranges_of(size_bytes)]
    fd = os.open(front, os.O_RDWR)
    try:
        with mmap.mmap(fd, size_bytes) as mapping:
            for offset, length in ranges:
                mapping[offset : offset + length] = os.urandom(length)
            mapping.flush()
    finally:
        os.close(fd)
    return ranges


def by_zeroes(front: Path, size_bytes: int) -> list[Range]:
    """Zeroes, written as data."""
    ranges = ranges_of(size_bytes)
    for offset, length in ranges:
        write_direct(front, bytes(length), offset)
    return ranges


def by_blkdiscard_zero(front: Path, size_bytes: int) -> list[Range]:
    """BLKZEROOUT, over many blocks and unaligned."""
    ranges = [(2 * MIB + SECTOR, 5 * MIB + 3 * SECTOR), (size_bytes - 5 * SECTOR, 5 * SECTOR)]
    for offset, length in ranges:
        run("blkdiscard", "-z", "-o", offset, "-l", length, front)
    return ranges


def by_fallocate_zero(front: Path, size_bytes: int) -> list[Range]:
    """fallocate(2) of the device with FALLOC_FL_ZERO_RANGE."""
    libc = ctypes.CDLL(None, use_errno=True)
    ranges = [(4 * MIB + 4096, 3 * MIB + 8192)]
    fd = os.open(front, os.O_RDWR)
    zero_range = 0x10
    try:
        for offset, length in ranges:
            code = libc.fallocate64(fd, zero_range, ctypes.c_int64(offset), ctypes.c_int64(length))
            assert code == 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(fd)
    return ranges


def by_discard(front: Path, size_bytes: int) -> list[Range]:
    """Discards, of all kinds and sizes: each must be refused, since it would not be tracked."""
    attempts = [
        ("blkdiscard", front),
        ("blkdiscard", "-o", MIB + 4096, "-l", 9 * MIB + 4096, front),
        ("blkdiscard", "-o", 4096, "-l", 4096, front),
        ("blkdiscard", "-s", front),
        ("fallocate", "--punch-hole", "-o", MIB, "-l", MIB, front),
    ]
    for argv in attempts:
        refused = subprocess.run(
            [str(word) for word in argv], capture_output=True, text=True, check=False
        )
        assert refused.returncode != 0, f"{argv} was not refused"
        assert "supported" in refused.stderr, f"{argv}: {refused.stderr}"
    return []


Way = Callable[[Path, int], list[Range]]
WAYS: dict[str, Way] = {
    "direct": by_direct_io,
    "buffered": by_buffered_io,
    "mmap": by_mmap,
    "discard": by_discard,
    "zeroes": by_zeroes,
    "blkdiscard-zero": by_blkdiscard_zero,
    "fallocate-zero": by_fallocate_zero,
}


def check_tidy(volume: Protected, lab: Lab) -> None:
    """Nothing is there but the front, its origin and its era metadata."""
    origins = [name for name in dm_devices() if name.startswith(f"dmsnap-{volume.name}-")]
    assert [name for name in origins if "-origin-" not in name] == []
    assert len(origins) == 1
    assert len(list(Path(lab.store()).iterdir())) == 1
    assert run("dmsetup", "status", volume.name).split()[-1] == "-"
    assert run("dmsetup", "info", "-c", "--noheadings", "-o", "suspended", volume.name).strip() in (
        "Active",
        "0",
    )
