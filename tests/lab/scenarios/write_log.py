"""A disk that logs every write, and what may be on it when the power fails in between.

dm-log-writes has the writes in the order in which the disk completed them, and its flushes. What
was completed before a flush is there after it. Of the rest any part may be, down to a sector.
"""

import mmap
import os
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from uuid import uuid4

from conftest import MIB, Lab, run
from raw_volume import SECTOR

LOG_BYTES = 1024 * MIB  # of a sparse file

# struct log_write_super and log_write_entry of drivers/md/dm-log-writes.c
SUPER = struct.Struct("<QQQI")
ENTRY = struct.Struct("<QQQQ")
MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8


@dataclass(frozen=True)
class Write:
    """A write that the disk completed. Flushes have no data."""

    offset: int
    data: bytes
    flushed: bool
    fua: bool

    def torn(self, sectors: int) -> "Write":
        """No more of it than its first sectors."""
        return Write(self.offset, self.data[: sectors * SECTOR], self.flushed, fua=False)


def logged_writes(log: Path | str) -> list[Write]:
    """All that dm-log-writes recorded, in order."""
    found: list[Write] = []
    with open(log, "rb") as file:
        magic, _, count, sector_bytes = SUPER.unpack(file.read(SECTOR)[: SUPER.size])
        assert magic == MAGIC
        position = sector_bytes
        for _ in range(count):
            file.seek(position)
            sector, sectors, flags, _ = ENTRY.unpack(file.read(ENTRY.size))
            position += sector_bytes
            length = 0 if flags & (DISCARD | MARK) else sectors * sector_bytes
            file.seek(position)
            data = bytes(sectors * sector_bytes) if flags & DISCARD else file.read(length)
            position += length
            if not flags & MARK:
                found.append(
                    Write(sector * sector_bytes, data, bool(flags & FLUSH), bool(flags & FUA))
                )
    return found


class Recording:
    """What was written to a disk while something was done: ``start`` is what was on it before."""

    def __init__(self, start: bytes) -> None:
        self.start = start
        self.writes: list[Write] = []

    def end(self) -> bytes:
        """What is on it when all was written."""
        return bytes(applied(bytearray(self.start), self.writes))

    def durable(self) -> bytes:
        """What is on it for certain, should the power fail at the end."""
        flushes = [at for at, write in enumerate(self.writes) if write.flushed]
        last = flushes[-1] if flushes else 0
        forced = [write for write in self.writes[last:] if write.fua]
        return bytes(applied(bytearray(self.start), [*self.writes[:last], *forced]))

    def states(self, losses: int = 1, seed: int = 9) -> Iterator[bytearray]:
        """What may be on it: each prefix, and each ``losses`` times with unflushed writes lost, of
        which the last that is not is there in part.

        The bytes are the receiver's, to change as it likes, until it asks for the next: all are in
        the same memory. To be given new memory is a fault for every page, which costs a guest
        many times what copying it does.
        """
        choices = random.Random(seed)
        durable, pending = bytearray(self.start), list[Write]()
        shown = bytearray(durable)
        yield shown
        for write in self.writes:
            if write.flushed:
                applied(durable, pending)
                pending = []
            if not write.data:
                continue
            pending.append(write)
            yield laid_over(shown, durable, pending)
            for _ in range(losses):
                left = survivors(pending, choices)
                if left != pending:
                    yield laid_over(shown, durable, left)


def laid_over(shown: bytearray, base: bytearray, writes: list[Write]) -> bytearray:
    """In the memory of ``shown``: the image ``base`` with writes made to it."""
    shown[:] = base
    return applied(shown, writes)


def survivors(pending: list[Write], choices: random.Random) -> list[Write]:
    """Some of the writes that no flush came after; of one of them, only its first sectors."""
    likely = choices.choice((0.1, 0.5, 0.9))
    left = [write for write in pending if write.fua or choices.random() < likely]
    torn = [at for at, write in enumerate(left) if not write.fua and len(write.data) > SECTOR]
    if torn:
        at = choices.choice(torn)
        left[at] = left[at].torn(choices.randrange(1, len(left[at].data) // SECTOR))
    return left


def applied(image: bytearray, writes: list[Write]) -> bytearray:
    """The image with writes made to it."""
    for write in writes:
        image[write.offset : write.offset + len(write.data)] = write.data
    return image


@lru_cache(maxsize=4)
def _buffer(size_bytes: int) -> mmap.mmap:
    """The same for all that is read of so many bytes: see ``Recording.states``."""
    return mmap.mmap(-1, size_bytes)


def content(path: Path | str) -> bytes:
    """All of a device, read past the page cache."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        size_bytes = os.lseek(fd, 0, os.SEEK_END)
        buffer = _buffer(size_bytes)
        with memoryview(buffer) as view:
            position = 0
            while position < size_bytes:
                position += os.preadv(fd, [view[position : position + MIB]], position)
            return buffer[:]
    finally:
        os.close(fd)


class LoggedDisk:
    """A dm device over a loop device, which logs what is written to it when that is asked for."""

    def __init__(self, lab: Lab, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.name = f"logged-{uuid4().hex[:6]}"
        self._base, self._log = lab.disk(size_bytes), lab.disk(LOG_BYTES)
        run("dmsetup", "create", self.name, "--table", self._table(""))
        run("dmsetup", "mknodes")

    @property
    def path(self) -> str:
        return f"/dev/mapper/{self.name}"

    def _table(self, log: str) -> str:
        kind, rest = ("log-writes", log) if log else ("linear", "0")
        return f"0 {self.size_bytes // SECTOR} {kind} {self._base} {rest}"

    def _load(self, table: str) -> None:
        run("dmsetup", "load", self.name, "--table", table)
        run("dmsetup", "resume", self.name)

    def grow(self, size_bytes: int) -> None:
        """Have it end later; what is there is as it was on the disk, zeroes where nothing was."""
        image = run("losetup", "-n", "-O", "BACK-FILE", self._base).strip()
        os.truncate(image, size_bytes)
        run("losetup", "-c", self._base)
        self.size_bytes = size_bytes
        self._load(self._table(""))

    @contextmanager
    def recorded(self) -> Iterator[Recording]:
        """Log what is written to it in the block."""
        recording = Recording(content(self._base))
        self._load(self._table(self._log))
        try:
            yield recording
        finally:
            self._load(self._table(""))
        recording.writes = logged_writes(self._log)
        # Or else the log was too short, or something was written that it has not.
        assert recording.end() == content(self._base)

    def close(self) -> None:
        run("dmsetup", "remove", "--retry", self.name)


@contextmanager
def logged_disk(lab: Lab, size_bytes: int) -> Iterator[LoggedDisk]:
    """Such a disk, for as long as the block runs; what lies on it goes first."""
    disk = LoggedDisk(lab, size_bytes)
    try:
        yield disk
    finally:
        lab.take_down()
        disk.close()
