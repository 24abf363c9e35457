"""The copy engine on block devices that fail, shrink, vanish or dawdle while it works.

With io_uring and with threads. Every failure is named by device and offset, nothing is taken for
done that is not, and what was asked for besides stays as it was.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from conftest import MIB, Lab, run, sha256
from faulty_disk import FaultyDisk, faulty_disk
from initiator import disks
from raw_volume import SECTOR, fill

from dmsnap._native import copy, digest
from dmsnap._native.copy import CopyOptions, Kept, UndoStore
from dmsnap._native.exception_store import ExceptionStore
from dmsnap._native.extent_set import ExtentSet
from dmsnap.errors import CorruptError, DmsnapError, NotThisFormatError, OperatingSystemError
from dmsnap.extent import Extent
from dmsnap.host.blockdev import open_exclusive
from dmsnap.units import KIB

SIZE = 24 * MIB
STORE = 32 * MIB
BAD = 16 * MIB
# So that the progress callback comes when some is done and some is not.
SLOWLY = CopyOptions(bytes_per_second=16 * MIB)

both_ways = pytest.mark.parametrize("without_io_uring", [False, True], ids=["ring", "threads"])


@contextmanager
def direct(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        yield fd
    finally:
        os.close(fd)


def whole(size_bytes: int = SIZE) -> ExtentSet:
    return ExtentSet.from_extents([Extent(0, size_bytes)])


@dataclass
class Media:
    """A source and a destination that can be made to fail, and a store for what is overwritten."""

    source: FaultyDisk
    destination: FaultyDisk
    source_fd: int
    destination_fd: int
    store_fd: int
    options: CopyOptions

    def apply(self, progress: Callable[[int], None] | None = None) -> None:
        copy.apply(
            self.source_fd,
            self.destination_fd,
            SIZE,
            whole(),
            progress=progress,
            options=self.options,
            name=self.destination.path,
        )

    def compare(self, progress: Callable[[int], None] | None = None) -> None:
        copy.compare(
            self.source_fd,
            self.destination_fd,
            SIZE,
            whole(),
            undo=UndoStore(self.store_fd, 0, STORE),
            kept=Kept(),
            progress=progress,
            options=self.options,
            name=self.destination.path,
        )

    def has_store(self) -> bool:
        try:
            with ExceptionStore.open(self.store_fd, 0, STORE, "store"):
                return True
        except NotThisFormatError:
            return False


@pytest.fixture
def media(lab: Lab, without_io_uring: bool) -> Iterator[Media]:
    with ExitStack() as stack:
        source = stack.enter_context(faulty_disk(lab, SIZE))
        destination = stack.enter_context(faulty_disk(lab, SIZE))
        fill(source.device, SIZE)
        fill(destination.device, SIZE)
        source_fd, destination_fd, store_fd = (
            stack.enter_context(direct(path))
            for path in (source.path, destination.path, lab.disk(STORE))
        )
        options = replace(SLOWLY, without_io_uring=without_io_uring, source_name=source.path)
        yield Media(source, destination, source_fd, destination_fd, store_fd, options)


def once(action: Callable[[], object]) -> Callable[[int], None]:
    """A progress callback that acts when something is done, and never again."""
    actions = [action]

    def progress(done_bytes: int) -> None:
        if done_bytes and actions:
            assert done_bytes < BAD
            actions.pop()()

    return progress


def in_the_bad_part(error: DmsnapError) -> bool:
    offset = error.fields["offset_bytes"]
    return isinstance(offset, int) and BAD <= offset < SIZE


# bad places


@both_ways
def test_a_source_that_cannot_be_read_in_one_place(media: Media) -> None:
    before = sha256(media.destination.path)
    media.source.load(((BAD, 4096), "error"))
    for work in (media.compare, media.apply):
        with pytest.raises(
            OperatingSystemError, match=f"{media.source.path}: reading .*: Input"
        ) as caught:
            work()
        assert caught.value.fields["errnum"] == errno.EIO
        assert not media.has_store()
        if work == media.compare:
            assert sha256(media.destination.path) == before
    media.source.load()
    media.apply()
    assert sha256(media.destination.path) == sha256(media.source.path)


@both_ways
def test_a_bad_place_between_what_is_wanted(media: Media) -> None:
    """It is read through, and is no error."""
    media.source.load(((MIB + 4096, 4096), "error"))
    wanted = ExtentSet.from_extents([Extent(MIB, 4096), Extent(MIB + 8192, 4096)])
    stats = copy.apply(media.source_fd, media.destination_fd, SIZE, wanted, name="x")
    assert stats.bytes_written == 8192
    media.source.load()
    equal = [
        read(media.source.path, offset, 4096) == read(media.destination.path, offset, 4096)
        for offset in (MIB, MIB + 4096, MIB + 8192)
    ]
    assert equal == [True, False, True]


def read(path: str, offset: int, length: int) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return os.pread(fd, length, offset)
    finally:
        os.close(fd)


@both_ways
def test_a_dusty_source(lab: Lab, without_io_uring: bool) -> None:
    """dm-dust: single bad blocks, as a worn disk has them."""
    loop, target = lab.disk(SIZE), lab.disk(SIZE)
    fill(Path(loop), SIZE)
    name = f"dusty-{Path(loop).name}"
    run("dmsetup", "create", name, "--table", f"0 {SIZE // SECTOR} dust {loop} 0 4096")
    run("dmsetup", "mknodes")
    options = CopyOptions(without_io_uring=without_io_uring)
    try:
        path = f"/dev/mapper/{name}"
        run("dmsetup", "message", name, "0", "addbadblock", BAD // 4096 + 3)
        run("dmsetup", "message", name, "0", "enable")
        with direct(path) as source, direct(target) as destination:
            with pytest.raises(OperatingSystemError, match="Input/output error"):
                copy.apply(source, destination, SIZE, whole(), options=options, name=target)
            run("dmsetup", "message", name, "0", "disable")
            copy.apply(source, destination, SIZE, whole(), options=options, name=target)
        assert sha256(target) == sha256(loop)
    finally:
        run("dmsetup", "remove", "--retry", name)


# what changes while it is copied


@both_ways
def test_a_source_that_fails_meanwhile(media: Media) -> None:
    with pytest.raises(OperatingSystemError, match=f"{media.source.path}: reading ") as caught:
        media.apply(once(lambda: media.source.load(((BAD, SIZE - BAD), "error"))))
    assert in_the_bad_part(caught.value)


@both_ways
def test_a_destination_that_fails_meanwhile(media: Media) -> None:
    failing = ((BAD, SIZE - BAD), "error_writes")
    with pytest.raises(OperatingSystemError, match=r"writing .* of the destination") as caught:
        media.apply(once(lambda: media.destination.load(failing)))
    assert in_the_bad_part(caught.value)
    assert media.destination.path in str(caught.value)


@both_ways
def test_sides_that_shrink_meanwhile(media: Media) -> None:
    """No byte is made up for what is not there any more; the store is worthless."""
    for disk in (media.source, media.destination):
        for work in (media.compare, media.apply):
            with pytest.raises((OperatingSystemError, CorruptError)) as caught:
                work(once(partial(disk.shrink, BAD)))
            assert in_the_bad_part(caught.value)
            assert not media.has_store()
            disk.load()
            media.apply()
            assert sha256(media.destination.path) == sha256(media.source.path)
            fill(media.source.device, SIZE)


@both_ways
def test_sides_that_vanish_meanwhile(media: Media) -> None:
    """As ``dmsetup remove --force`` does it, and a disk that is pulled out."""
    for disk in (media.source, media.destination):
        for work in (media.compare, media.apply):
            with pytest.raises(OperatingSystemError) as caught:
                work(once(partial(disk.load, ((0, SIZE), "error"))))
            assert caught.value.fields["errnum"] == errno.EIO
            assert not media.has_store()
            disk.load()
    media.apply()
    assert sha256(media.destination.path) == sha256(media.source.path)


@both_ways
def test_a_store_that_fails_meanwhile(media: Media, lab: Lab) -> None:
    before = sha256(media.destination.path)
    with faulty_disk(lab, STORE) as store, direct(store.path) as fd:
        media.store_fd = fd
        with pytest.raises(OperatingSystemError, match="of the exception store"):
            media.compare(once(lambda: store.load(((0, STORE), "error_writes"))))
        store.load()
        assert not media.has_store()
        assert sha256(media.destination.path) == before
        media.compare()
        assert media.has_store()


# One command after the other, each of 64 KiB and 8 ms or more: 8 MiB a second at the best.
SLOW_COMMAND_BYTES = 64 * KIB
SLOW_COMMAND_NS = 8_000_000
SLOW_SECOND = 8 * MIB


@dataclass(frozen=True)
class SlowDisk:
    """scsi_debug with room for one command at a time, as a disk of spinning rust has."""

    name: str

    @property
    def path(self) -> str:
        return f"/dev/{self.name}"

    @property
    def queue(self) -> Path:
        return Path("/sys/block", self.name, "queue")

    def _stat(self) -> list[int]:
        """Documentation/block/stat.rst."""
        return [int(word) for word in Path("/sys/block", self.name, "stat").read_text().split()]

    def transferred(self) -> int:
        """The bytes of all commands that it has completed."""
        stat = self._stat()
        return (stat[2] + stat[6]) * SECTOR

    def in_flight(self) -> int:
        return self._stat()[8]


@contextmanager
def slow_disk() -> Iterator[SlowDisk]:
    before = len(list(Path("/sys/block").glob("sd*")))
    run("modprobe", "sd_mod")
    run("modprobe", "scsi_debug", f"dev_size_mb={SIZE // MIB}", "max_queue=1",
        f"ndelay={SLOW_COMMAND_NS}")  # fmt: skip
    try:
        disk = SlowDisk(disks(before + 1)[-1])
        (disk.queue / "max_sectors_kb").write_text(str(SLOW_COMMAND_BYTES // KIB))
        yield disk
    finally:
        run("modprobe", "-r", "scsi_debug")


class StopError(Exception):
    pass


@both_ways
def test_a_slow_disk_is_let_go_within_a_second(lab: Lab, without_io_uring: bool) -> None:
    """Read from and written to, with as much in flight as the engine sees fit.

    What the disk does behind the cancel says how long it takes; a busy machine changes nothing in
    it. And when the call returns, nothing is under way any more: a late write would hit a replica
    that was rolled back.
    """
    options = CopyOptions(without_io_uring=without_io_uring)
    done_at_stop: list[int] = []
    with slow_disk() as disk:

        def stop(_done_bytes: int) -> None:
            if disk.transferred() >= 4 * MIB + begun:
                done_at_stop.append(disk.transferred())
                raise StopError

        with direct(disk.path) as slow, direct(lab.disk(SIZE)) as fast:
            for work, source, destination in (
                (copy.compare, slow, fast),
                (copy.compare, fast, slow),
                (copy.apply, slow, fast),
                (copy.apply, fast, slow),
                (digest.compare, slow, fast),
            ):
                begun = disk.transferred()
                with pytest.raises(StopError):
                    work(
                        source,
                        destination,
                        SIZE,
                        whole(),
                        progress=stop,
                        options=options,
                        name=disk.path,
                    )
                assert disk.in_flight() == 0
                assert disk.transferred() - done_at_stop[-1] <= SLOW_SECOND, work


# sizes


@both_ways
def test_a_destination_that_is_one_sector_short(lab: Lab, without_io_uring: bool) -> None:
    source, short = lab.disk(SIZE), lab.disk(SIZE - SECTOR)
    options = CopyOptions(without_io_uring=without_io_uring)
    with direct(source) as source_fd, direct(short) as fd:
        for work in (copy.compare, copy.apply):
            with pytest.raises(CorruptError, match=f"the destination has {SIZE - SECTOR} bytes"):
                work(source_fd, fd, SIZE, whole(), options=options, name=short)
    assert not any(read(short, 0, MIB))


@both_ways
def test_blocks_of_4096(lab: Lab, without_io_uring: bool) -> None:
    """From a disk of 512 onto one of 4096, with undo, and back; odd sectors are refused."""
    source, target = lab.disk(SIZE), lab.disk(SIZE + STORE, sector_bytes=4096)
    fill(Path(source), SIZE)
    before = sha256(target, SIZE)
    options = CopyOptions(without_io_uring=without_io_uring)
    with direct(source) as source_fd, direct(target) as fd:
        _, different, undo = copy.compare(
            source_fd, fd, SIZE, whole(), undo=UndoStore(fd, SIZE, STORE), options=options, name="x"
        )
        assert undo is not None
        copy.apply(source_fd, fd, SIZE, different, options=options, name="x")
        assert sha256(target, SIZE) == sha256(source)
        copy.roll_back(fd, SIZE, STORE, fd, SIZE, options=options, name="x")
        assert sha256(target, SIZE) == before
        odd = SIZE - SECTOR
        with pytest.raises(DmsnapError, match="the destination has blocks of 4096 bytes"):
            copy.apply(source_fd, fd, odd, whole(odd), options=options, name="x")
        assert sha256(target, SIZE) == before


def test_devices_are_free_when_the_copy_is_done(lab: Lab) -> None:
    """The next command opens them O_EXCL, or mounts them."""
    source, destination = lab.disk(MIB), lab.disk(MIB)
    for _ in range(100):
        with (
            open_exclusive(Path(source), write=False) as source_fd,
            open_exclusive(Path(destination), write=True) as destination_fd,
        ):
            copy.compare(source_fd, destination_fd, MIB, whole(MIB), name="x")
            copy.apply(source_fd, destination_fd, MIB, whole(MIB), name="x")
