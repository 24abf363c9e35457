"""Watchdogs that are at work: processes that resume a device again and again until it is.

Those that are armed are told from their command lines (native/src/window_watchdog.c and watchdog.py
have written them); a window's has all its devices in one.
"""

from pathlib import Path

from dmsnap.host import process
from dmsnap.host.mountinfo import PROC

PROGRAM = "dmsnap-watchdog"


def stands_by(uuid: str, *, proc: Path = PROC) -> bool:
    """Whether a watchdog is at work on the device with the DM ``uuid``.

    One that hangs with the device is, too: whoever resumed it beside that would hang as well. Root
    sees all of them, unless ``/proc`` is hidden from it, as from a hardened unit.
    """
    return any(uuid in _devices(entry) for entry in process.called(PROGRAM, proc=proc))


def _devices(watchdog: Path) -> set[str]:
    """The DM UUIDs behind what else a watchdog is told of each device; none of another program."""
    try:
        words = (watchdog / "cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
    except OSError:
        return set()
    if Path(words[0]).name != PROGRAM:
        return set()
    return {word.partition(":")[2] for word in words[3:]}
