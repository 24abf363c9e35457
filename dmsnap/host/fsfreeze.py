"""Getting a file system's dirty data out before it is frozen."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dmsnap.host.system_call import failure, system_call

_LIBC = ctypes.CDLL(None, use_errno=True)


@contextmanager
def flushed(path: Path) -> Iterator[int]:
    """Write out all dirty data of the file system that holds ``path``, and wait for it.

    Yields a descriptor by which the window flushes what was written meanwhile. The freeze itself
    is dm's, in the window: the less is dirty then, the shorter the window.
    Raises ``OperatingSystemError`` also for writeback errors (Linux 5.8).
    """
    with system_call(f"open {path}"):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _LIBC.syncfs(descriptor):
            raise failure(f"sync the file system of {path}", ctypes.get_errno())
        yield descriptor
    finally:
        os.close(descriptor)
