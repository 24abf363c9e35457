"""Telling the kernel the time as an NTP daemon does, whatever it is."""

import ctypes
import struct
from collections.abc import Iterator
from contextlib import contextmanager

ADJ_MAXERROR, ADJ_ESTERROR, ADJ_STATUS = 0x4, 0x8, 0x10  # linux/timex.h
STA_UNSYNC = 0x40
TIMEX = struct.Struct("=Iiqqqqi")  # modes, offset, freq, maxerror, esterror, status


def set_status(status: int) -> None:
    """Have the kernel believe that its clock is right by some microseconds, or that it is not."""
    modes = ADJ_STATUS | ADJ_MAXERROR | ADJ_ESTERROR
    room = ctypes.create_string_buffer(512)
    TIMEX.pack_into(room, 0, modes, 0, 0, 0, 0, 0, status)
    assert ctypes.CDLL(None).adjtimex(room) >= 0


@contextmanager
def synchronised() -> Iterator[None]:
    set_status(0)
    try:
        yield
    finally:
        set_status(STA_UNSYNC)
