"""Digests (xxh3-128) of extents, and two devices compared by them.

Descriptors, options and what the progress callback raises are as for the copy engine.
"""

from dmsnap._native._core import ffi, lib
from dmsnap._native.copy import CopyOptions, Progress, ProgressCall
from dmsnap._native.core import check
from dmsnap._native.extent_set import ExtentSet

DEFAULTS = CopyOptions()


def of_extents(
    fd: int,
    size_bytes: int,
    extents: ExtentSet,
    *,
    progress: Progress | None = None,
    options: CopyOptions = DEFAULTS,
    name: str,
) -> bytes:
    """The 16 bytes that ``xxhsum -H2`` prints for the extents' bytes in ascending order.

    Extents are grown to pages of 4 KiB and cut at ``size_bytes``.
    """
    call = ProgressCall(progress)
    digest = ffi.new("uint8_t[]", lib.DMS_DIGEST_BYTES)
    error = lib.dms_digest_extents(fd, size_bytes, extents.cdata, call.options(options), digest)
    check(error, name, raised=call.raised)
    return bytes(ffi.buffer(digest))


def compare(
    source_fd: int,
    destination_fd: int,
    size_bytes: int,
    extents: ExtentSet,
    *,
    progress: Progress | None = None,
    options: CopyOptions = DEFAULTS,
    name: str,
) -> tuple[int, ExtentSet]:
    """Compare extents of two devices, each read and hashed by a thread of its own.

    Returns the bytes compared and the pieces that differ, of up to 1 MiB each: a difference is in
    them, where exactly is for ``copy.compare`` to say.
    """
    call = ProgressCall(progress)
    compared = ffi.new("uint64_t *")
    suspects = ffi.new("struct dms_extent_set **")
    error = lib.dms_digest_compare(
        source_fd,
        destination_fd,
        size_bytes,
        extents.cdata,
        call.options(options),
        compared,
        suspects,
    )
    check(error, name, raised=call.raised, source=options.source_name)
    return int(compared[0]), ExtentSet.adopt(suspects[0])
