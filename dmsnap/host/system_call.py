"""Failed system calls as sentences: the one place where an errno becomes an error class."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from dmsnap.errors import (
    BusyError,
    DmsnapError,
    NoSpaceError,
    NotFoundError,
    NotPermittedError,
    OperatingSystemError,
)

_CLASSES: dict[int, type[DmsnapError]] = {
    errno.EACCES: NotPermittedError,
    errno.EPERM: NotPermittedError,
    errno.ENOENT: NotFoundError,
    errno.ENXIO: NotFoundError,
    errno.ENODEV: NotFoundError,
    errno.EBUSY: BusyError,
    errno.ENOSPC: NoSpaceError,
    errno.EDQUOT: NoSpaceError,
}


def failure(action: str, errnum: int, detail: str | None = None) -> DmsnapError:
    """The error for ``action`` ("open /dev/sda") that failed with ``errnum``.

    ``detail`` replaces the text of the errno where something better is known.
    """
    reason = detail or os.strerror(errnum)
    hint = "run it as root" if errnum in (errno.EACCES, errno.EPERM) else None
    kind = _CLASSES.get(errnum, OperatingSystemError)
    return kind(f"cannot {action}: {reason}", hint=hint, errnum=errnum)


@contextmanager
def system_call(action: str) -> Iterator[None]:
    """Turn an ``OSError`` of the block into the ``DmsnapError`` of ``failure``."""
    try:
        yield
    except OSError as error:
        raise failure(action, error.errno or errno.EIO) from error
