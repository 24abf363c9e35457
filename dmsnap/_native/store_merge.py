"""Several undo stores made into one, which leads back as far as all of them together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dmsnap._native._core import ffi, lib
from dmsnap._native.copy import CopyOptions, Progress, ProgressCall
from dmsnap._native.core import check
from dmsnap.extent import Extent

if TYPE_CHECKING:
    from dmsnap._native._core import CData

NO_OPTIONS = CopyOptions()


@dataclass(frozen=True, slots=True)
class MergedStore:
    """What a merged store is, or would be; ``chunk_size`` in sectors."""

    nr_exceptions: int
    used_bytes: int
    chunk_size: int


def measure(fd: int, size_bytes: int, stores: Sequence[Extent], *, name: str) -> MergedStore:
    """What the stores of a replica of ``size_bytes``, newest first, come to; writes nothing."""
    merged = ffi.new("struct dms_merged_store *")
    regions = _regions(stores)
    check(lib.dms_store_merge_measure(fd, size_bytes, regions, len(stores), merged), name)
    return _result(merged)


def merge(
    fd: int,
    size_bytes: int,
    stores: Sequence[Extent],
    room: Extent,
    *,
    progress: Progress | None = None,
    options: CopyOptions = NO_OPTIONS,
    name: str,
) -> MergedStore:
    """Write the one store that stands for ``stores``, newest first, to ``room``, and flush it.

    Of a chunk that several have, the last one's content is taken. The stores stay as they are.
    :class:`~dmsnap.errors.NoSpaceError` when there is too little room; then nothing was written.
    Whatever else it raises, what is in ``room`` is no store.
    """
    call = ProgressCall(progress)
    stats = ffi.new("struct dms_copy_stats *")
    place = {"offset_bytes": room.offset_bytes, "length_bytes": room.length_bytes}
    merged = ffi.new("struct dms_merged_store *", place)
    error = lib.dms_store_merge(
        fd, size_bytes, _regions(stores), len(stores), call.options(options), merged, stats
    )
    check(error, name, raised=call.raised)
    return _result(merged)


def _regions(stores: Sequence[Extent]) -> "CData":
    pairs = [(store.offset_bytes, store.length_bytes) for store in stores]
    return ffi.new("struct dms_store_region []", pairs)


def _result(merged: "CData") -> MergedStore:
    return MergedStore(merged.nr_exceptions, merged.used_bytes, merged.chunk_size)
