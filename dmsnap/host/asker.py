"""Threads that ask a device, known by their names (proc(5), comm): who was left is found again.

So one process waits for a device that hangs, and not one more each time that somebody looks at it.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dmsnap.host import process
from dmsnap.host.mountinfo import PROC

# What the processes are called.
NAME = "dmsnap-asks"

# Of the fields behind the name.
_STATE_FIELD = 0
_START_FIELD = 19  # starttime

_SLEEPING = "D"


def name_for(devno: int) -> str:
    """What a thread is called that asks a device; of a name the kernel keeps 15 letters."""
    return f"ask-{devno:x}"


def take_name(name: str, *, proc: Path = PROC) -> None:
    """Be called so, as a thread."""
    with suppress(OSError):
        (proc / "thread-self" / "comm").write_text(name)


def is_waiting(pid: int, devno: int, *, proc: Path = PROC) -> bool:
    """Whether a program sleeps that has a device as its input, and cannot be woken."""
    try:
        is_there = (proc / str(pid) / "fd" / "0").stat().st_rdev == devno
        return is_there and _stat_fields(proc / str(pid))[_STATE_FIELD] == _SLEEPING
    except OSError:
        return False


def sleeping(pid: int, *, proc: Path = PROC) -> set[str]:
    """The names of the threads of a process that sleep and cannot be woken."""
    threads = _threads(proc / str(pid))
    return {thread.name for thread in threads if thread.state == _SLEEPING}


def waiting(seconds: float, *, proc: Path = PROC) -> set[str]:
    """The names of the threads that have been asking for so long."""
    begun = time.clock_gettime(time.CLOCK_BOOTTIME) - seconds
    return {
        thread.name
        for asking in process.called(NAME, proc=proc)
        for thread in _threads(asking)
        if thread.started <= begun
    }


@dataclass(frozen=True, slots=True)
class _Thread:
    """``started``: in seconds since the boot."""

    name: str
    state: str
    started: float


def _threads(asking: Path) -> Iterator[_Thread]:
    threads: list[Path] = []
    with suppress(OSError):
        threads += (asking / "task").iterdir()
    for thread in threads:
        with suppress(OSError):  # it has ended meanwhile, and the others wait still
            fields = _stat_fields(thread)
            name = process.command_of(int(thread.name), proc=thread.parent)
            started = int(fields[_START_FIELD]) / os.sysconf("SC_CLK_TCK")
            yield _Thread(name, fields[_STATE_FIELD], started)


def _stat_fields(task: Path) -> list[str]:
    """Those of a process or a thread that are behind its name (proc(5))."""
    return (task / "stat").read_text(errors="replace").rpartition(")")[2].split()
