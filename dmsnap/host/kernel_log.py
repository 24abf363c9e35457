"""The kernel's log (/dev/kmsg): what it said since a line of ours, as long as it has that still."""

import logging
import os
from pathlib import Path

from dmsnap.host.system_call import system_call

log = logging.getLogger(__name__)

KMSG = Path("/dev/kmsg")
RECORD_BYTES = 8192  # CONSOLE_EXT_LOG_MAX: no record is longer


def mark(text: str, path: Path = KMSG) -> None:
    """Write a line, to be found by :func:`since`."""
    with system_call(f"write {path}"):
        fd = os.open(path, os.O_WRONLY)
        try:
            os.write(fd, f"<6>{text}\n".encode())
        finally:
            os.close(fd)


def since(text: str, path: Path = KMSG) -> list[str] | None:
    """The messages after the last line that is ``text``; None where there is none any more.

    The log is a ring: what is younger than a line that it has, it has, too. The kernel can leave
    out lines of ours that come too fast (``printk_devkmsg``): then that is not found either.
    """
    found: list[str] | None = None
    with system_call(f"read {path}"):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            while (message := _next(fd)) is not None:
                if message == text:
                    found = []
                elif found is not None:
                    found.append(message)
        finally:
            os.close(fd)
    return found


def _next(fd: int) -> str | None:
    """The next message; None behind the last.

    "PREFIX,…;MESSAGE", and lines of key=value pairs that begin with a space.
    """
    while True:
        try:
            record = os.read(fd, RECORD_BYTES)
        except BlockingIOError:
            return None
        except BrokenPipeError:  # overwritten before it was read: what follows is there
            continue
        if not record:
            return None
        line = record.split(b"\n", 1)[0].decode(errors="replace")
        return line.partition(";")[2]
