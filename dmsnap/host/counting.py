"""Counters of what a device has written, and whether the kernel counts at all.

It counts where ``queue/iostats`` of the disk is 1, as it is unless somebody has switched it off: an
administrator, udev or a tuning daemon. Off, a counter stands still, and it goes on from there when
it is on again: no number says what it has missed. A dm device without requests of its own is an
exception: before "dm: support turning off block-core's io stats accounting" (Linux 6.5) it counts
whatever the switch says, and that is 0 from the beginning.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from dmsnap.errors import DmsnapError, WrongStateError
from dmsnap.host import kernel
from dmsnap.host.sysfs import SYSFS, Sysfs, attribute_text
from dmsnap.host.system_call import system_call

NOBODY = -1  # a descriptor of no file: what it would count is not known
SWITCH = "queue/iostats"
DM_HEEDS_IT = (6, 5)
KNOWN_SECONDS = 10.0  # a host has hundreds of dm devices, and asks of each


class UncountedError(WrongStateError):
    """A device whose counters stand still."""


def is_counted(devno: int, sysfs: Sysfs = SYSFS) -> bool:
    """Whether the kernel counts what the device does now."""
    if sysfs.attribute(devno, SWITCH) != "0":
        return True
    return _is_plain_dm(sysfs.directory(devno)) and not _dm_heeds_it(sysfs)


def _is_plain_dm(directory: Path) -> bool:
    """Those that multipath makes have requests of their own, and queues for them."""
    return (directory / "dm").is_dir() and not (directory / "mq").is_dir()


_not_heeded: dict[Path, float] = {}  # of a tree, when it was found out


def _dm_heeds_it(sysfs: Sysfs) -> bool:
    """Also an older kernel that took it over: it has a dm device's switch on from the beginning."""
    if kernel.version() >= DM_HEEDS_IT:
        return True
    now = time.monotonic()
    if now - _not_heeded.get(sysfs.root, -KNOWN_SECONDS) < KNOWN_SECONDS:
        return False
    paths = sysfs.root.glob("block/dm-*/queue/iostats")
    if any(attribute_text(str(path)) == "1" and _is_plain_dm(path.parents[1]) for path in paths):
        return True
    _not_heeded[sysfs.root] = now
    return False


def require(devnos: Sequence[int], sysfs: Sysfs = SYSFS) -> None:
    """Raise :class:`UncountedError` for those of the devices that are not counted."""
    still = [devno for devno in devnos if not is_counted(devno, sysfs)]
    if still:
        raise UncountedError(sentence(still, sysfs), hint=remedy(still, sysfs))


def sectors_written(devno: int) -> int:
    """As ``Sysfs.sectors_written``, of a device that is counted; else :class:`UncountedError`."""
    require([devno], SYSFS)
    return SYSFS.sectors_written(devno)


def requests_completed(devno: int, sysfs: Sysfs = SYSFS) -> int | None:
    """As ``Sysfs.requests_completed``; of a device that is not counted what those below it have
    completed, for others, too. None: these are not all counted, either, or there are none.
    """
    if is_counted(devno, sysfs):
        return sysfs.requests_completed(devno)
    below = [requests_completed(each, sysfs) for each in sysfs.slaves(devno)]
    known = [each for each in below if each is not None]
    return sum(known) if known and len(known) == len(below) else None


def switch(devno: int, sysfs: Sysfs = SYSFS) -> Path:
    """Where counting is switched on and off: for a partition together with its disk."""
    disk = sysfs.partition_parent(devno) or devno
    return sysfs.directory(disk) / SWITCH


def sentence(devnos: Sequence[int], sysfs: Sysfs = SYSFS) -> str:
    """What is said of devices that are not counted."""
    names = ", ".join(sysfs.display_name(devno) for devno in devnos)
    return f"the kernel does not count what is written to {names} (queue/iostats is 0)"


def remedy(devnos: Sequence[int], sysfs: Sysfs = SYSFS) -> str:
    """What there is to do about it. Never done by us: who switched it off had a reason."""
    disks = [sysfs.directory(sysfs.partition_parent(devno) or devno).name for devno in devnos]
    words = "; ".join(f"echo 1 > /sys/block/{disk}/{SWITCH}" for disk in disks)
    return f"{words}; and have nothing switch it off again"


def last_set(devno: int, sysfs: Sysfs = SYSFS) -> int:
    """When somebody last opened the switch to set it anew (``O_TRUNC``), as shells and tuning
    daemons do, in ns: another time than before says that it may have been off in between.

    The kernel keeps the time only of a file whose times were once set, and else makes it up
    whenever the file gets an inode (fs/kernfs/inode.c). So it is set to what it is: that changes
    nothing of the device. A service that may not write there reads what commands have kept.
    """
    path = switch(devno, sysfs)
    with system_call(f"read the time of {path}"):
        known = path.stat().st_mtime_ns
    with suppress(OSError):
        os.utime(path, ns=(known, known))
    return known


@contextmanager
def opened(devnos: Sequence[int]) -> Iterator[list[int]]:
    """Descriptors for ``window.run`` of the devices with these numbers. No window is kept from for
    want of a counter.
    """
    with ExitStack() as held:
        yield [_opened(held, devno) for devno in devnos]


def _opened(held: ExitStack, devno: int) -> int:
    try:
        require([devno], SYSFS)
        return held.enter_context(SYSFS.counter(devno))
    except DmsnapError:
        return NOBODY
