"""What every wrapper of the native core shares: error objects become exceptions, by one table."""

import errno
import os
import signal
from typing import TYPE_CHECKING

from dmsnap._native._core import ffi, lib
from dmsnap.errors import (
    CorruptError,
    DeadlineError,
    DmsnapError,
    InterruptedBySignal,
    NoSpaceError,
    NotThisFormatError,
    OperatingSystemError,
    PointInvalidError,
    WrongStateError,
)

if TYPE_CHECKING:
    from dmsnap._native._core import CData

__all__ = ["NotThisFormatError", "check", "text"]

_NO_OFFSET = 2**64 - 1

lib.dms_memory_give_back()

_CLASSES: dict[int, type[DmsnapError]] = {
    lib.DMS_ERR_NO_MEMORY: OperatingSystemError,
    lib.DMS_ERR_OS: OperatingSystemError,
    lib.DMS_ERR_INVALID_ARGUMENT: DmsnapError,
    lib.DMS_ERR_OUT_OF_BOUNDS: CorruptError,
    lib.DMS_ERR_BAD_MAGIC: NotThisFormatError,
    lib.DMS_ERR_CHECKSUM: CorruptError,
    lib.DMS_ERR_CORRUPT: CorruptError,
    lib.DMS_ERR_UNSUPPORTED: CorruptError,
    lib.DMS_ERR_NO_METADATA_SNAPSHOT: WrongStateError,
    lib.DMS_ERR_STORE_FULL: NoSpaceError,
    lib.DMS_ERR_STORE_INVALID: PointInvalidError,
    lib.DMS_ERR_DEADLINE: DeadlineError,
    lib.DMS_ERR_CHANGED: WrongStateError,
}


def text(characters: "CData") -> str:
    """A ``char`` array up to its NUL; bytes that are no UTF-8 are escaped."""
    raw: bytes = ffi.string(characters)
    return raw.decode(errors="backslashreplace")


def check(
    error: "CData", name: str, *, raised: BaseException | None = None, source: str = ""
) -> None:
    """Raise what ``error`` says of the device ``name``; NULL is success. Takes the object over.

    ``source`` is another device: what the core says of that is said of it, and not of ``name``.
    ``raised`` is what a progress callback raised: it goes on from here when the core was
    cancelled because of it. A cancellation without one is :class:`InterruptedBySignal`.
    """
    if error == ffi.NULL:
        return
    try:
        code, errnum, offset = int(error.code), int(error.errnum), int(error.offset_bytes)
        message = text(error.message)
    finally:
        lib.dms_error_destroy(error)
    if code == lib.DMS_ERR_CANCELLED:
        raise raised if raised is not None else InterruptedBySignal(signal.SIGINT)
    if source and message.endswith(f" of {source}"):
        name, message = source, message.removesuffix(f" of {source}")
    raise _exception(code, errnum, offset, f"{name}: {message}" if name else message, name)


def _exception(code: int, errnum: int, offset: int, sentence: str, name: str) -> DmsnapError:
    fields: dict[str, object] = {"device": name}
    if code == lib.DMS_ERR_NO_MEMORY:
        errnum = errno.ENOMEM
    elif code == lib.DMS_ERR_OS:
        sentence += f": {os.strerror(errnum)}"
    if errnum:
        fields["errnum"] = errnum
    if offset != _NO_OFFSET:
        sentence += f", at byte {offset}"
        fields["offset_bytes"] = offset
    return _CLASSES[code](sentence, hint=None, **fields)
