"""Exception stores that dmsnap wrote, held against the digests that they were sealed with.

Descriptors, options and what the progress callback raises are as for the copy engine.
"""

from dmsnap._native._core import ffi, lib
from dmsnap._native.copy import CopyOptions, Progress, ProgressCall
from dmsnap._native.core import check

DEFAULTS = CopyOptions()


def require_sealed(
    fd: int,
    offset_bytes: int,
    length_bytes: int,
    *,
    data: bool,
    progress: Progress | None = None,
    options: CopyOptions = DEFAULTS,
    name: str,
) -> bool:
    """Whether the store has a seal; :class:`CorruptError` where it holds what was not written.

    Its pairs are always compared, what they keep with ``data``. Stores of the kernel and of earlier
    versions have no seal. The kernel must not have merged any of it.
    """
    call = ProgressCall(progress)
    sealed = ffi.new("bool *")
    error = lib.dms_exception_store_check(
        fd, offset_bytes, length_bytes, data, call.options(options), sealed
    )
    check(error, name, raised=call.raised)
    return bool(sealed[0])
