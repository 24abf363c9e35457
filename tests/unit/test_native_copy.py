"""The copy engine through its Python wrapper: content, results, what the callback raises."""

import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dmsnap._native import copy, exception_store
from dmsnap._native.copy import CopyOptions, CopyStats, Kept, UndoResult, UndoStore
from dmsnap._native.extent_set import ExtentSet
from dmsnap.errors import CorruptError, DmsnapError, NoSpaceError
from dmsnap.extent import Extent
from dmsnap.units import KIB, MIB

SIZE = 3 * MIB + 512 * 3
PAGE = 4096


class Sides:
    """A source and a larger destination that differ in three places, the last page included."""

    def __init__(self, directory: Path) -> None:
        self.old = os.urandom(SIZE)
        new = bytearray(self.old)
        for place in (0, MIB + 5000, SIZE - 1):
            new[place] ^= 0xFF
        self.new = bytes(new)
        self.source = self._open(directory / "source", self.new)
        self.destination = self._open(directory / "destination", self.old + b"Z" * MIB)
        self.store = self._open(directory / "store", b"Z" * 4 * MIB)

    @staticmethod
    def _open(path: Path, content: bytes) -> int:
        path.write_bytes(content)
        return os.open(path, os.O_RDWR)

    def content(self) -> bytes:
        tail = os.pread(self.destination, MIB + 1, SIZE)
        assert tail == b"Z" * MIB
        return os.pread(self.destination, SIZE, 0)


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[Sides]:
    opened = Sides(tmp_path)
    yield opened
    for fd in (opened.source, opened.destination, opened.store):
        os.close(fd)


def whole() -> ExtentSet:
    return ExtentSet.from_extents([Extent(0, SIZE)])


@pytest.mark.parametrize("options", [CopyOptions(), CopyOptions(without_io_uring=True)])
def test_compare_apply_and_back(sides: Sides, options: CopyOptions) -> None:
    undo = UndoStore(sides.store, 8 * KIB, 2 * MIB)
    stats, different, result = copy.compare(
        sides.source, sides.destination, SIZE, whole(), undo=undo, options=options, name="x"
    )
    last = SIZE // PAGE * PAGE
    assert list(different) == [
        Extent(0, PAGE), Extent(MIB + PAGE, PAGE), Extent(last, SIZE - last)
    ]  # fmt: skip
    assert stats == CopyStats(bytes_compared=SIZE, bytes_different=different.bytes)
    assert result == UndoResult(3, exception_store.size_bytes(3, PAGE))
    assert sides.content() == sides.old

    stats = copy.apply(sides.source, sides.destination, SIZE, different, options=options, name="x")
    assert stats == CopyStats(bytes_written=different.bytes)
    assert sides.content() == sides.new

    copy.roll_back(
        sides.store, 8 * KIB, 2 * MIB, sides.destination, SIZE, options=options, name="x"
    )
    assert sides.content() == sides.old


@pytest.mark.parametrize("without_io_uring", [False, True])
def test_what_differs_may_be_told_coarser(sides: Sides, without_io_uring: bool) -> None:
    """Of at most two extents: how much it is and what is kept of it are what they are."""
    undo = UndoStore(sides.store, 8 * KIB, 2 * MIB)
    options = CopyOptions(without_io_uring=without_io_uring, most_extents=2)
    kept = Kept()
    stats, different, result = copy.compare(
        sides.source, sides.destination, SIZE, whole(), undo=undo, options=options, kept=kept,
        name="x",
    )  # fmt: skip
    assert len(different) <= 2
    assert max(extent.end_bytes for extent in different) == SIZE
    assert stats.bytes_different == kept.bytes == 2 * PAGE + SIZE % PAGE
    assert stats.bytes_different < different.bytes
    assert result == UndoResult(3, exception_store.size_bytes(3, PAGE))
    copy.apply(
        sides.source, sides.destination, SIZE, different, kept=kept, options=options, name="x"
    )
    assert sides.content() == sides.new
    copy.roll_back(
        sides.store, 8 * KIB, 2 * MIB, sides.destination, SIZE, options=options, name="x"
    )
    assert sides.content() == sides.old


@pytest.mark.parametrize("limit", [0, 2 * PAGE, MIB])
def test_what_is_kept_is_not_read_again(sides: Sides, limit: int) -> None:
    kept = Kept(limit)
    _, different, _ = copy.compare(
        sides.source, sides.destination, SIZE, whole(), kept=kept, name="x"
    )
    assert kept.bytes == min(limit, different.bytes)
    if limit == MIB:
        os.ftruncate(sides.source, 0)  # nothing can be read of it any more
        os.ftruncate(sides.source, SIZE)
    copy.apply(sides.source, sides.destination, SIZE, different, kept=kept, name="x")
    assert sides.content() == sides.new
    if limit:
        with pytest.raises(DmsnapError, match="an earlier comparison"):
            copy.compare(sides.source, sides.destination, SIZE, whole(), kept=kept, name="x")
        with pytest.raises(DmsnapError, match="not all to be copied"):
            copy.apply(sides.source, sides.destination, SIZE, ExtentSet(), kept=kept, name="x")


@pytest.mark.parametrize("without_io_uring", [False, True])
def test_what_was_closed_is_closed(tmp_path: Path, without_io_uring: bool) -> None:
    """An io_uring lives on for a moment when it is given up, and with it what was registered.

    A device that was opened O_EXCL would be busy for whoever comes next; a lock shows the same.
    """
    paths = [tmp_path / "source", tmp_path / "destination"]
    options = CopyOptions(without_io_uring=without_io_uring)
    for path in paths:
        path.write_bytes(os.urandom(SIZE))
    for _ in range(20):
        for work in (copy.compare, copy.apply):
            fds = [os.open(path, os.O_RDWR) for path in paths]
            for fd in fds:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            work(fds[0], fds[1], SIZE, whole(), options=options, name="x")
            for fd in fds:
                os.close(fd)


# Of a limit of bytes a second: what a tenth of a second may take at once, and the last piece of
# 50 ms, behind which nothing waits.
SLACK_SECONDS = 0.16


@pytest.mark.parametrize("options", [CopyOptions(), CopyOptions(without_io_uring=True)])
def test_a_limit_of_bytes_a_second(sides: Sides, options: CopyOptions) -> None:
    """A busy machine only makes it longer."""
    begun = time.monotonic()
    limited = replace(options, bytes_per_second=2 * MIB)
    copy.apply(sides.source, sides.destination, SIZE, whole(), options=limited, name="x")
    assert time.monotonic() - begun >= SIZE / (2 * MIB) - SLACK_SECONDS
    assert sides.content() == sides.new


def test_the_source_is_named(sides: Sides) -> None:
    with pytest.raises(CorruptError, match="x: /dev/named has"):
        copy.apply(
            sides.source,
            sides.destination,
            SIZE + 512,
            whole(),
            options=CopyOptions(source_name="/dev/named"),
            name="x",
        )


def test_zeroes_are_given_without_data(sides: Sides) -> None:
    os.ftruncate(sides.source, 0)
    os.ftruncate(sides.source, SIZE)
    stats = copy.apply(
        sides.source, sides.destination, SIZE, whole(), zero_detection=True, name="x"
    )
    assert stats == CopyStats(bytes_written=SIZE, bytes_zero=SIZE)
    assert sides.content() == bytes(SIZE)


def test_errors_are_named(sides: Sides) -> None:
    with pytest.raises(NoSpaceError, match="the recovery volume: the exception store is full"):
        copy.compare(
            sides.source,
            sides.destination,
            SIZE,
            whole(),
            undo=UndoStore(sides.store, 0, 4 * PAGE),
            name="the recovery volume",
        )
    with pytest.raises(CorruptError, match="the source has"):
        copy.apply(sides.source, sides.destination, SIZE + 512, whole(), name="x")
    with pytest.raises(DmsnapError, match="no whole number of sectors"):
        copy.apply(sides.source, sides.destination, SIZE - 1, whole(), name="x")
    assert sides.content() == sides.old


class StopError(Exception):
    pass


@pytest.mark.parametrize("raised", [StopError, KeyboardInterrupt])
def test_what_the_callback_raises_goes_on(sides: Sides, raised: type[BaseException]) -> None:
    def stop(_bytes_done: int) -> None:
        raise raised

    with pytest.raises(raised):
        copy.apply(sides.source, sides.destination, SIZE, whole(), progress=stop, name="x")


def test_progress_ends_with_all_bytes(sides: Sides) -> None:
    calls: list[int] = []
    copy.apply(sides.source, sides.destination, SIZE, whole(), progress=calls.append, name="x")
    assert calls == sorted(calls)
    assert calls[-1] == SIZE


def test_a_signal_ends_a_copy(tmp_path: Path) -> None:
    """Sparse files of 1 TiB: the copy would take minutes, the handler's exception ends it.

    That this takes no longer than a second where the disk is slow is for ``test_copy_pace.c`` and
    the lab's ``test_copy_media.py`` to say: here only the machine can be.
    """
    script = textwrap.dedent("""
        import os, sys, time
        from dmsnap._native import copy
        from dmsnap._native.extent_set import ExtentSet
        from dmsnap.errors import InterruptedBySignal
        from dmsnap.extent import Extent
        from dmsnap.host.signals import interruptible
        fds = [os.open(path, os.O_RDWR | os.O_CREAT) for path in sys.argv[1:]]
        for fd in fds:
            os.ftruncate(fd, 2**40)
        extents = ExtentSet.from_extents([Extent(0, 2**40)])
        with interruptible():
            try:
                print("begins", flush=True)
                copy.compare(*fds, 2**40, extents, name="x")
            except InterruptedBySignal as error:
                sys.exit(40 + error.signal_number)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "a"), str(tmp_path / "b")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"begins\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 40 + signal.SIGTERM
        assert process.stderr.read() == b""
