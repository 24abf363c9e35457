"""Waiting for what others do in their own time: threads, processes, the kernel.

A machine that is busy may let any of them wait for many seconds: what a test needs of them it waits
for, and how long that may take says nothing but that they hang.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_SECONDS = 120.0
_LOOK_SECONDS = 0.01


def until(is_so: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Return as soon as ``is_so()``; fail with ``what`` when it never becomes so."""
    ends = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < ends, f"not within {seconds:g} s: {what}"
        time.sleep(_LOOK_SECONDS)


def requests_under_way(name: str) -> int:
    """How many requests a dm device has been given and has not completed; it is not asked."""
    minor = os.minor(Path("/dev/mapper", name).stat().st_rdev)
    return sum(map(int, Path(f"/sys/block/dm-{minor}/inflight").read_text().split()))


def sectors_written(name: str) -> int:
    """How many sectors were written to a dm device since it was made."""
    minor = os.minor(Path("/dev/mapper", name).stat().st_rdev)
    return int(Path(f"/sys/block/dm-{minor}/stat").read_text().split()[6])


def waiting_for_lock(path: Path) -> int:
    """How many wait for a lock on a file (proc(5), /proc/locks)."""
    inode = str(path.stat().st_ino)
    rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return sum(row[1] == "->" and row[6].rpartition(":")[2] == inode for row in rows)
