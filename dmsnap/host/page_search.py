"""Pages of a device that begin with certain bytes, looked for from its end backwards."""

import mmap
import os
from collections.abc import Iterator

from dmsnap.host.system_call import system_call
from dmsnap.units import MIB, PAGE_BYTES, align_down, align_up

PIECE_BYTES = 4 * MIB


def pages_with(fd: int, magic: bytes, start_bytes: int, end_bytes: int, name: str) -> Iterator[int]:
    """Where whole pages between the two begin with ``magic``, the last first.

    ``fd`` may be open with O_DIRECT. Reads no further back than its caller asks for.
    """
    start, position = align_up(start_bytes, PAGE_BYTES), align_down(end_bytes, PAGE_BYTES)
    with mmap.mmap(-1, PIECE_BYTES) as buffer:
        while position > start:
            begin = max(start, position - PIECE_BYTES)
            length = _read(fd, buffer, begin, position - begin, name)
            at = buffer.rfind(magic, 0, length)
            while at >= 0:
                if at % PAGE_BYTES == 0:
                    yield begin + at
                at = buffer.rfind(magic, 0, at)
            position = begin


def _read(fd: int, buffer: mmap.mmap, offset: int, length: int, name: str) -> int:
    """What is there is read; a device that ends earlier than it says has less."""
    with system_call(f"read {name}"), memoryview(buffer) as whole, whole[:length] as part:
        return os.preadv(fd, [part], offset)
