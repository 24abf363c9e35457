"""Threads that ask a device, known by their names (proc(5), comm): who was left is found again.

So one process waits for a device that hangs, and not one more each time that somebody looks at it.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dmsnap.host import process
from dmsnap.host.mountinfo import PROC

# What the processes are called.
NAME = "dmsnap-asks"

_START_FIELD = 19  # starttime, of those behind the name


def name_for(devno: int) -> str:
    """What a thread is called that asks a device; of a name the kernel keeps 15 letters."""
    return f"ask-{devno:x}"


def take_name(name: str, *, proc: Path = PROC) -> None:
    """Be called so, as a thread."""
    with suppress(OSError):
        (proc / "thread-self" / "comm").write_text(name)


def waiting(seconds: float, *, proc: Path = PROC) -> set[str]:
    """The names of the threads that have been asking for so long."""
    begun = time.clock_gettime(time.CLOCK_BOOTTIME) - seconds
    return {
        name
        for asking in process.called(NAME, proc=proc)
        for name, started in _threads(asking)
        if started <= begun
    }


def _threads(asking: Path) -> Iterator[tuple[str, float]]:
    """The name of each, and when it began, in seconds since the boot."""
    with suppress(OSError):
        for thread in (asking / "task").iterdir():
            fields = (thread / "stat").read_text(errors="replace").rpartition(")")[2].split()
            name = process.command_of(int(thread.name), proc=thread.parent)
            yield name, int(fields[_START_FIELD]) / os.sysconf("SC_CLK_TCK")
