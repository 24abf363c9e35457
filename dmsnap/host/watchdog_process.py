"""Watchdogs that are at work: processes that resume a device again and again until it is.

Those that are armed are told from their command lines (native/src/window_watchdog.c and watchdog.py
have written them); a window's has all its devices in one.
"""

import os
from pathlib import Path

from dmsnap.host.mountinfo import PROC

PROGRAM = "dmsnap-watchdog"


def stands_by(uuid: str, *, proc: Path = PROC) -> bool:
    """Whether a watchdog is at work on the device with the DM ``uuid``.

    One that hangs with the device is, too: whoever resumed it beside that would hang as well. Root
    sees all of them, unless ``/proc`` is hidden from it, as from a hardened unit.
    """
    return any(uuid in _devices(entry) for entry in proc.iterdir() if entry.name.isdecimal())


def _devices(process: Path) -> set[str]:
    """The DM UUIDs behind what else a watchdog is told of each device; none of another program.

    Its name is asked first, which waits for nobody: the command line of a process in a page fault
    of a device that is suspended may come only when somebody has resumed that.
    """
    try:
        if process.stat().st_uid != os.geteuid():
            return set()
        if (process / "comm").read_text(errors="replace").strip() != PROGRAM:
            return set()
        words = (process / "cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
    except OSError:
        return set()
    if Path(words[0]).name != PROGRAM:
        return set()
    return {word.partition(":")[2] for word in words[3:]}
