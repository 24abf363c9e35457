"""Whether a device answers. Asked by a child: who waits for a device that hangs cannot be ended.

A device that fails answers, too; one that hangs does not: a path that is gone and queues, a
suspended dm device, a disk whose error handling takes minutes.
"""

import logging
import mmap
import os
import stat
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dmsnap.errors import DeadlineError, DmsnapError
from dmsnap.host import asker, counting
from dmsnap.host.children import ended
from dmsnap.host.run import run
from dmsnap.host.sysfs import SYSFS, Sysfs

log = logging.getLogger(__name__)

LONGEST_SECONDS = 86400.0
# How a device is told of that does not answer.
HANGS = "does not answer: its disk seems to hang"
# What a device is given that somebody only looks at.
ANSWER_SECONDS = 10.0
# Who answered is not asked again for so long: a process more for each command is dear.
HEARD_SECONDS = 2.0
_PROBE_BYTES = 4096
# A device that gets on, or that nobody has come to ask yet, is given so many times the patience.
_PATIENCES = 6
_DELAY_SECONDS = 1.0  # until a thread that was waited for has begun


@dataclass(slots=True)
class Stillness:
    """Called again and again: True when the device completed nothing for ``patience_seconds``. One
    that nobody counts may get on all the while: it is never still.
    """

    devno: int
    patience_seconds: float
    sysfs: Sysfs = SYSFS
    _completed: int | None = -1
    _since: float = field(default_factory=time.monotonic)

    def __call__(self) -> bool:
        completed = counting.requests_completed(self.devno, self.sysfs)
        now = time.monotonic()
        if completed is None or completed != self._completed:
            self._completed, self._since = completed, now
        return now - self._since >= self.patience_seconds


@dataclass(slots=True)
class Hanging:
    """Called again and again: True when the device completed nothing for ``patience_seconds``,
    while it had something under way, was suspended, or was waited for by who ``asks``.

    On a machine that is busy nobody may have come to ask it yet: such a one is given more time, and
    not any, since who opens it may hang as well. So is one that nobody counts.
    """

    devno: int
    patience_seconds: float
    asks: Callable[[], bool]
    sysfs: Sysfs = SYSFS
    _completed: int | None = -1
    _still_since: float = field(default_factory=time.monotonic)
    _waited_since: float = field(default_factory=time.monotonic)

    def __call__(self) -> bool:
        now = time.monotonic()
        try:
            completed = counting.requests_completed(self.devno, self.sysfs)
            suspended = self.sysfs.dm_suspended(self.devno)
            waits = suspended or self.sysfs.in_flight(self.devno)
        except DmsnapError:  # it is gone, and who asks it fails
            return False
        if completed != self._completed:
            self._completed, self._still_since, self._waited_since = completed, now, now
        # Drivers that queue, as for a path that is gone, have nothing under way meanwhile.
        elif not (waits or self.asks()):
            self._waited_since = now
        longest_seconds = self.patience_seconds * _PATIENCES
        is_told = suspended or completed is not None
        return (
            is_told and now - self._waited_since >= self.patience_seconds
        ) or now - self._still_since >= longest_seconds


_heard: dict[int, float] = {}  # by number, when


def note_heard(devno: int) -> None:
    """A device has just done what was asked of it."""
    _heard[devno] = time.monotonic()


def was_heard(devno: int) -> bool:
    """Whether this process has just had an answer of it."""
    return time.monotonic() - _heard.get(devno, -HEARD_SECONDS) < HEARD_SECONDS


def reads(device: Path, patience_seconds: float, longest_seconds: float | None = None) -> bool:
    """Whether the first block can be read, or cannot, past the page cache.

    Not within the time, but as long as the device gets on with what others ask of it, or nobody has
    come to ask it yet: for ``longest_seconds``, six times the patience unless told.
    """
    words = (f"if={device}", "of=/dev/null", f"bs={_PROBE_BYTES}", "count=1", "iflag=direct")
    devno = _devno(device)
    asking: list[int] = []
    stalled = None
    if devno is not None:
        stalled = Hanging(
            devno,
            patience_seconds,
            lambda: any(asker.is_waiting(pid, devno) for pid in asking),
            SYSFS,
        )
        patience_seconds = longest_seconds or patience_seconds * _PATIENCES
    try:
        run(
            "dd",
            *words,
            timeout_seconds=patience_seconds,
            expected=(0, 1),
            stalled=stalled,
            begun=asking.append,
            reap_seconds=0,
        )
    except DeadlineError:
        return False
    return True


def silent(devices: Sequence[Path], patience_seconds: float) -> list[Path]:
    """Those whose first or last block can neither be read nor fails to be; past the page cache.

    All are asked at once, and the time begins anew with each that answers: so a machine that is
    busy, or has many, takes none for one that hangs. Nor is one that completes what others ask, or
    that nobody has come to ask yet: up to six times as long. Where somebody was left behind so, and
    waits still, nobody else is.
    """
    left = asker.waiting(patience_seconds - _DELAY_SECONDS) if devices else set()
    asked = [device for device in devices if _asker(device) not in left]
    calls = [partial(_read, device) for device in asked]
    answered = ended(calls, patience_seconds, asker.NAME, _Left(asked))
    found = {asked[number] for number in answered}
    return [device for device in devices if device not in found]


@dataclass(slots=True)
class _Left:
    """Asked each time that for the whole patience nobody had an answer: whether all of them wait
    for devices that have completed nothing since.
    """

    devices: Sequence[Path]
    asked: int = 0
    completed: dict[Path, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for device in self.devices:
            self._gets_on(device)

    def __call__(self, pid: int, left: Collection[int]) -> bool:
        self.asked += 1
        sleeping = asker.sleeping(pid)
        devices = [self.devices[number] for number in left]
        getting_on = [device for device in devices if self._gets_on(device)]
        waited_for = all(_asker(device) in sleeping for device in devices)
        return self.asked >= _PATIENCES or (waited_for and not getting_on)

    def _gets_on(self, device: Path) -> bool:
        """Whether it has completed anything since that was asked last, or may have."""
        devno, before = _devno(device), self.completed.get(device)
        with suppress(DmsnapError):  # it is gone, and who asks it fails
            if devno is not None:
                completed = counting.requests_completed(devno, SYSFS)
                if completed is None:
                    return True
                self.completed[device] = completed
        return self.completed.get(device) != before


def _asker(device: Path) -> str | None:
    """What a thread is called that asks it; None for what is no device."""
    devno = _devno(device)
    return asker.name_for(devno) if devno is not None else None


def _devno(device: Path) -> int | None:
    """None for what is no device."""
    try:
        status = device.stat()
    except OSError:
        return None
    return status.st_rdev if stat.S_ISBLK(status.st_mode) else None


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
    """Write out what is dirty of a file system, as long as that takes while ``devno`` gets on, or
    may: what was not written by then would be lost.
    """
    if counting.requests_completed(devno, SYSFS) is None:
        log.warning(
            "%s: whether it gets on is not to be seen, and %s is written out however long that "
            "takes: %s",
            counting.sentence([devno], SYSFS),
            mount_point,
            counting.remedy([devno], SYSFS),
        )
    stalled = Stillness(devno, patience_seconds, SYSFS)
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
