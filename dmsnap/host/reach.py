"""Whether a device answers. Asked by a child: who waits for a device that hangs cannot be ended.

A device that fails answers, too; one that hangs does not: a path that is gone and queues, a
suspended dm device, a disk whose error handling takes minutes.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

from dmsnap.errors import DeadlineError
from dmsnap.host.run import run
from dmsnap.host.sysfs import SYSFS, Sysfs

LONGEST_SECONDS = 86400.0
_PROBE_BYTES = 4096


@dataclass(slots=True)
class Stillness:
    """Called again and again: True when the device completed nothing for ``patience_seconds``."""

    devno: int
    patience_seconds: float
    sysfs: Sysfs = SYSFS
    _completed: int = -1
    _since: float = field(default_factory=time.monotonic)

    def __call__(self) -> bool:
        now, completed = time.monotonic(), self.sysfs.requests_completed(self.devno)
        if completed != self._completed:
            self._completed, self._since = completed, now
        return now - self._since >= self.patience_seconds


def reads(device: Path, patience_seconds: float) -> bool:
    """Whether the first block can be read, or cannot, within the time; past the page cache."""
    words = (f"if={device}", "of=/dev/null", f"bs={_PROBE_BYTES}", "count=1", "iflag=direct")
    try:
        run("dd", *words, timeout_seconds=patience_seconds, expected=(0, 1), reap_seconds=0)
    except DeadlineError:
        return False
    return True


def flushes(mount_point: Path, devno: int, patience_seconds: float) -> bool:
    """Write out what is dirty of a file system, as long as that takes while ``devno`` gets on."""
    stalled = Stillness(devno, patience_seconds)
    words = ("--file-system", "--", str(mount_point))
    try:
        run(
            "sync",
            *words,
            timeout_seconds=LONGEST_SECONDS,
            expected=(0, 1),
            stalled=stalled,
            reap_seconds=0,
        )
    except DeadlineError:
        return False
    return True
