"""The copy engine: compare, copy, keep the old content, and write it back.

Descriptors are opened by the caller, ``O_DIRECT`` where the medium takes it, ``O_EXCL`` where it
is written. Each call runs until it is done; SIGINT and SIGTERM are noticed within a second, since
Python's signal handlers run in the progress callback, and what they raise goes on from here.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from dmsnap._native._core import ffi, lib
from dmsnap._native.core import check
from dmsnap._native.extent_set import ExtentSet
from dmsnap.units import MIB

if TYPE_CHECKING:
    from dmsnap._native._core import CData

# Called about ten times a second, and at the end, with the bytes done so far.
Progress = Callable[[int], None]

KEEP_BYTES = 32 * MIB


@dataclass(frozen=True, slots=True)
class CopyStats:
    """What was done, in bytes. ``bytes_zero`` of ``bytes_written`` were given without data."""

    bytes_compared: int = 0
    bytes_different: int = 0
    bytes_written: int = 0
    bytes_zero: int = 0


@dataclass(frozen=True, slots=True)
class UndoStore:
    """A region of ``fd`` for an exception store; ``chunk_size`` in sectors."""

    fd: int
    offset_bytes: int
    length_bytes: int
    chunk_size: int = 8


@dataclass(frozen=True, slots=True)
class UndoResult:
    """A finished exception store: ``used_bytes`` of its region, the rest is free."""

    nr_exceptions: int
    used_bytes: int


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """How requests are cut; 0 leaves it to the engine, whose buffers stay below 64 MiB.

    With ``bytes_per_second``, neither the source is read nor anything written faster than that; 0
    is no limit. ``source_name`` is the device that errors of the source are errors of. What is
    found to differ is told in ``most_extents`` at most, coarser where it is more; 0: all of them.
    """

    queue_depth: int = 0
    request_bytes: int = 0
    without_io_uring: bool = False
    bytes_per_second: int = 0
    source_name: str = ""
    most_extents: int = 0


class Kept:
    """What a comparison found to differ, in memory, so that the apply need not read it again.

    Of more than ``limit_bytes``, the beginning is kept. For one comparison and one apply.
    """

    __slots__ = ("cdata",)

    def __init__(self, limit_bytes: int = KEEP_BYTES) -> None:
        place = ffi.new("struct dms_copy_kept **")
        check(lib.dms_copy_kept_create(limit_bytes, place), "")
        self.cdata = ffi.gc(place[0], lib.dms_copy_kept_destroy)

    @property
    def bytes(self) -> int:
        return lib.dms_copy_kept_bytes(self.cdata)


class ProgressCall:
    """What the C callback gets a handle of: the function, and what it raised."""

    __slots__ = ("function", "handle", "raised", "source_name")

    def __init__(self, function: Progress | None) -> None:
        self.function = function
        self.raised: BaseException | None = None
        self.handle = ffi.new_handle(self)
        self.source_name = ffi.NULL

    def options(self, options: CopyOptions, kept: Kept | None = None) -> "CData":
        """The C options; the callback is always there, so that signals are noticed."""
        if options.source_name:
            self.source_name = ffi.new("char []", os.fsencode(options.source_name))
        return ffi.new(
            "struct dms_copy_options *",
            {
                "progress": lib.dms_python_progress,
                "progress_context": self.handle,
                "queue_depth": options.queue_depth,
                "request_bytes": options.request_bytes,
                "without_io_uring": options.without_io_uring,
                "bytes_per_second": options.bytes_per_second,
                "kept": ffi.NULL if kept is None else kept.cdata,
                "source_name": self.source_name,
                "most_extents": options.most_extents,
            },
        )


def _raised_in_callback(
    _type: type[BaseException], raised: BaseException, traceback: TracebackType | None
) -> None:
    """A signal's exception can come before the callback's first line: keep that one too."""
    if traceback is not None:
        ffi.from_handle(traceback.tb_frame.f_locals["context"]).raised = raised


@ffi.def_extern(name="dms_python_progress", error=1, onerror=_raised_in_callback)
def _progress(context: "CData", bytes_done: int) -> int:
    call: ProgressCall = ffi.from_handle(context)
    if call.function is not None:
        call.function(bytes_done)
    return 0


def _stats(stats: "CData") -> CopyStats:
    return CopyStats(
        stats.bytes_compared, stats.bytes_different, stats.bytes_written, stats.bytes_zero
    )


def compare(
    source_fd: int,
    destination_fd: int,
    size_bytes: int,
    extents: ExtentSet,
    *,
    undo: UndoStore | None = None,
    kept: Kept | None = None,
    progress: Progress | None = None,
    options: CopyOptions = CopyOptions(),
    name: str,
) -> tuple[CopyStats, ExtentSet, UndoResult | None]:
    """Read both sides of ``extents`` and return what differs, in pages of 4 KiB.

    The destination is not written. With ``undo``, its content in every chunk that differs goes to
    the store, which is complete and on the disk when this returns, and worthless when it raises:
    :class:`~dmsnap.errors.NoSpaceError` when the region is too small. ``kept``, an empty one, takes
    the source's content of what differs.
    """
    call = ProgressCall(progress)
    stats = ffi.new("struct dms_copy_stats *")
    different = ffi.new("struct dms_extent_set **")
    store = ffi.NULL
    if undo is not None:
        store = ffi.new(
            "struct dms_undo_store *",
            {
                "fd": undo.fd,
                "offset_bytes": undo.offset_bytes,
                "length_bytes": undo.length_bytes,
                "chunk_size": undo.chunk_size,
            },
        )
    error = lib.dms_copy_compare(
        source_fd,
        destination_fd,
        size_bytes,
        extents.cdata,
        call.options(options, kept),
        store,
        stats,
        different,
    )
    check(error, name, raised=call.raised, source=options.source_name)
    result = None if undo is None else UndoResult(store.nr_exceptions, store.used_bytes)
    return _stats(stats), ExtentSet.adopt(different[0]), result


def apply(
    source_fd: int,
    destination_fd: int,
    size_bytes: int,
    extents: ExtentSet,
    *,
    zero_detection: bool = False,
    kept: Kept | None = None,
    progress: Progress | None = None,
    options: CopyOptions = CopyOptions(),
    name: str,
) -> CopyStats:
    """Copy ``extents``, grown to pages and cut at ``size_bytes``, and flush the destination.

    With ``zero_detection`` zeroes are deallocated where the destination can do that. What is
    ``kept`` of a comparison must be among ``extents``, and is not read again.
    """
    call = ProgressCall(progress)
    stats = ffi.new("struct dms_copy_stats *")
    error = lib.dms_copy_apply(
        source_fd,
        destination_fd,
        size_bytes,
        extents.cdata,
        zero_detection,
        call.options(options, kept),
        stats,
    )
    check(error, name, raised=call.raised, source=options.source_name)
    return _stats(stats)


def roll_back(
    store_fd: int,
    offset_bytes: int,
    length_bytes: int,
    destination_fd: int,
    size_bytes: int,
    *,
    progress: Progress | None = None,
    options: CopyOptions = CopyOptions(),
    name: str,
) -> CopyStats:
    """Write the chunks of an exception store back to the device they came from, and flush it.

    May be repeated.
    """
    call = ProgressCall(progress)
    stats = ffi.new("struct dms_copy_stats *")
    error = lib.dms_copy_roll_back(
        store_fd,
        offset_bytes,
        length_bytes,
        destination_fd,
        size_bytes,
        call.options(options),
        stats,
    )
    check(error, name, raised=call.raised)
    return _stats(stats)
