"""How requests of this thread fare against others' on a disk that is busy (ioprio_set(2)).

Which is for the disk's I/O scheduler: BFQ and mq-deadline heed it, ``none`` does not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from dmsnap._native._core import ffi, lib
from dmsnap._native.core import check

LEVELS = lib.DMS_IO_LEVELS


class IoClass(IntEnum):
    """The kernel's classes. Realtime is read, and never asked for."""

    NONE = lib.DMS_IO_CLASS_NONE
    REALTIME = lib.DMS_IO_CLASS_REALTIME
    BEST_EFFORT = lib.DMS_IO_CLASS_BEST_EFFORT
    IDLE = lib.DMS_IO_CLASS_IDLE


@dataclass(frozen=True, slots=True)
class IoPriority:
    """``level``, of best effort alone: 0 is served first, 7 last. As a text ``best-effort:7``."""

    io_class: IoClass
    level: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """What ``str`` made of one; ``ValueError`` for anything else."""
        name, colon, level = text.partition(":")
        try:
            return cls(IoClass[name.replace("-", "_").upper()], int(level) if colon else 0)
        except (KeyError, ValueError):
            raise ValueError(f"{text!r} is no I/O priority") from None

    def __str__(self) -> str:
        name = self.io_class.name.lower().replace("_", "-")
        return f"{name}:{self.level}" if self.io_class is IoClass.BEST_EFFORT else name


def current() -> IoPriority:
    """That of the calling thread."""
    found = ffi.new("struct dms_io_priority *")
    check(lib.dms_io_priority_get(found), "")
    return IoPriority(IoClass(found.io_class), found.level)


def apply(priority: IoPriority) -> None:
    """Give it to the calling thread, and to what that begins from now on."""
    wanted = ffi.new("struct dms_io_priority *", (int(priority.io_class), priority.level))
    check(lib.dms_io_priority_set(wanted), "")


@contextmanager
def lowered(priority: IoPriority | None) -> Iterator[None]:
    """Have it for a while; None: stay as it is.

    Not for what others wait for, a window least of all: the freeze writes with the priority of who
    asks for it.
    """
    if priority is None:
        yield
        return
    before = current()
    apply(priority)
    try:
        yield
    finally:
        apply(before)
