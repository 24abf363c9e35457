"""Writes to the hidden origin past the front's dm-era, found by the kernel's own counters.

Root may open it, and what is written to it reaches the device below as what the front writes does:
the device counts no more than the origin (snapshot.write_count). But the front counts less. That is
the record of ``failed_writes`` read the other way.

While a trial, or another device after a commit, is under the front, the origin that it left is
written to by nobody: there any write is one past the front, and is known when the front comes back.
"""

from pathlib import Path

from dmsnap.catalogue.model import Volume
from dmsnap.errors import DmsnapError
from dmsnap.host.dm import device as dm
from dmsnap.host.sysfs import SYSFS, format_devno
from dmsnap.snapshot import count_record, failed_writes, stack


def sectors_beside(directory: Path, volume: Volume) -> int:
    """Sectors written to the volume's origin past the front; 0 where that is not known.

    At rest exact, under writes a lower bound.
    """
    try:
        # What was noted for a swap that did not come to be says nothing: the front writes on.
        left = None if _is_under_front(volume) else _left(directory, volume)
        if left is not None:
            return max(SYSFS.sectors_written(_origin(volume)) - left, 0)
        base = failed_writes.read(directory, volume)
        if base is None:
            return 0
        sectors, _ = failed_writes.excess(*failed_writes.devices(volume))
    except (OSError, ValueError, DmsnapError):  # a device went away, or its counters
        return 0
    return max(base - sectors, 0)


def leave(directory: Path, volume: Volume) -> None:
    """The front is about to lie over another origin; nobody uses it. What was seen is kept."""
    beside = sectors_beside(directory, volume)
    count_record.write(
        _path(directory, volume),
        _identity(volume),
        SYSFS.sectors_written(_origin(volume)) - beside,
    )


def arrive(directory: Path, volume: Volume) -> None:
    """The front lies over the volume's origin, by a dm-era that is to be trusted."""
    left = _left(directory, volume)
    beside = 0 if left is None else max(SYSFS.sectors_written(_origin(volume)) - left, 0)
    failed_writes.remember(directory, volume, beside)
    count_record.remove(_path(directory, volume))


def acknowledge(directory: Path, volume: Volume, sectors: int) -> None:
    """Count ``sectors`` as seen: both sides were compared since they were written."""
    base = failed_writes.read(directory, volume)
    if sectors and base is not None:
        failed_writes.write(directory, volume, base - sectors)


def forget(directory: Path, volume: Volume) -> None:
    """Know nothing any more: the origin is gone, or the front did not leave it, or came back by
    what tracks nothing.
    """
    count_record.remove(_path(directory, volume))


def _is_under_front(volume: Volume) -> bool:
    front = stack.require(stack.front(volume))
    return front.live_table and _origin(volume) in dm.deps(front.name)


def _origin(volume: Volume) -> int:
    return stack.require(stack.origin(volume)).devno


def _left(directory: Path, volume: Volume) -> int | None:
    return count_record.read(_path(directory, volume), _identity(volume))


def _identity(volume: Volume) -> str:
    """The counter of a device that was made anew began anew, too."""
    return format_devno(_origin(volume))


def _path(directory: Path, volume: Volume) -> Path:
    return directory / "writes" / f"{volume.id}-{volume.generation}.left"
