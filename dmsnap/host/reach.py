"""Whether a device answers. Asked by a child: who waits for a device that hangs cannot be ended.

A device that fails answers, too; one that hangs does not: a path that is gone and queues, a
suspended dm device, a disk whose error handling takes minutes.
"""

import mmap
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dmsnap.errors import DeadlineError
from dmsnap.host import asker
from dmsnap.host.children import ended
from dmsnap.host.run import run
from dmsnap.host.sysfs import SYSFS, Sysfs

LONGEST_SECONDS = 86400.0
_PROBE_BYTES = 4096
_DELAY_SECONDS = 1.0  # until a thread that was waited for has begun


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


def silent(devices: Sequence[Path], patience_seconds: float) -> list[Path]:
    """Those whose first or last block can neither be read nor fails to be; past the page cache.

    All are asked at once, and the time begins anew with each that answers: so a machine that is
    busy, or has many, takes none for one that hangs. Where somebody was left behind so, and waits
    still, nobody else is.
    """
    left = asker.waiting(patience_seconds - _DELAY_SECONDS) if devices else set()
    asked = [device for device in devices if _asker(device) not in left]
    calls = [partial(_read, device) for device in asked]
    answered = ended(calls, patience_seconds, asker.NAME)
    found = {asked[number] for number in answered}
    return [device for device in devices if device not in found]


def _asker(device: Path) -> str | None:
    """What a thread is called that asks it; None for what is no device."""
    try:
        status = device.stat()
    except OSError:
        return None
    return asker.name_for(status.st_rdev) if stat.S_ISBLK(status.st_mode) else None


def _read(device: Path) -> None:
    if name := _asker(device):
        asker.take_name(name)
    fd = os.open(device, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        size_bytes = os.lseek(fd, 0, os.SEEK_END)
        with mmap.mmap(-1, _PROBE_BYTES) as buffer:  # as aligned as O_DIRECT wants it
            for offset in {0, max(0, size_bytes // _PROBE_BYTES - 1) * _PROBE_BYTES}:
                os.preadv(fd, [buffer], offset)
    finally:
        os.close(fd)


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
