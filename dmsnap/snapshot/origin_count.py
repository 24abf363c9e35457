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
from dmsnap.host import counting
from dmsnap.host.counting import UncountedError
from dmsnap.host.dm import device as dm
from dmsnap.host.sysfs import format_devno
from dmsnap.snapshot import count_record, failed_writes, stack
from dmsnap.snapshot.window_count import OriginCounts

UNKNOWN = -1  # no count: of an origin that the front left when nobody knew


def sectors_beside(
    directory: Path, volume: Volume, counts: OriginCounts | None = None
) -> int | None:
    """Sectors written to the volume's origin past the front; None where that is not known.

    As of the window of ``counts``, and exact. Else as of now: exact at rest, under writes a lower
    bound, and that may be nothing of what was written.
    """
    try:
        # What was noted for a swap that did not come to be says nothing: the front writes on.
        if not _is_under_front(volume):
            return _since_left(directory, volume)
        base = failed_writes.read(directory, volume)
        if base is None:
            # The front is the LV's own dm device, which has counted since before there were layers.
            return 0 if stack.live_front(volume) else None
        if counts is not None:
            return max(base - counts.excess, 0)
        sectors, _ = failed_writes.at_most(*failed_writes.devices(volume))
    except (OSError, ValueError, DmsnapError):  # a device went away, or its counters
        return None
    return max(base - sectors, 0)


def leave(directory: Path, volume: Volume) -> None:
    """The front is about to lie over another origin. What was seen is kept.

    What an initiator still writes through the front counts as one past it, until :func:`left`.
    """
    beside = sectors_beside(directory, volume)
    count = UNKNOWN if beside is None else counting.sectors_written(_origin(volume)) - beside
    count_record.write(_path(directory, volume), _identity(volume), count)


def left(directory: Path, volume: Volume, counts: OriginCounts) -> None:
    """The front lies over another origin since the window of ``counts``, which was of this one."""
    base = failed_writes.read(directory, volume)
    if base is not None:
        count = counts.origin - max(base - counts.excess, 0)
        count_record.write(_path(directory, volume), _identity(volume), count)


def arrive(directory: Path, volume: Volume, counts: OriginCounts | None = None) -> None:
    """The front lies over the volume's origin, by a dm-era that is to be trusted.

    Since the window of ``counts``, or for so short that it is at rest; else nothing is known of it.
    """
    beside = _since_left(directory, volume, counts)
    if beside is None:
        failed_writes.forget(directory, volume)
    else:
        failed_writes.remember(directory, volume, counts, beside)
    count_record.remove(_path(directory, volume))


def settle(directory: Path, volume: Volume, counts: OriginCounts) -> None:
    """Count what was written until the window of ``counts`` as seen: both sides were compared."""
    if stack.live_front(volume):
        return
    base = failed_writes.read(directory, volume)
    # More than was known is what dm-era failed: that is told of until its metadata are new.
    if base is None or counts.excess < base:
        failed_writes.write(directory, volume, counts.excess)


def forget(directory: Path, volume: Volume) -> None:
    """Know nothing any more: the origin is gone, or the front did not leave it, or came back by
    what tracks nothing.
    """
    count_record.remove(_path(directory, volume))


def _since_left(directory: Path, volume: Volume, counts: OriginCounts | None = None) -> int | None:
    """An origin that the front never lay over has nothing to tell."""
    before = _left(directory, volume)
    if before is None or before == UNKNOWN:
        return 0 if before is None else None
    try:
        now = counts.origin if counts else counting.sectors_written(_origin(volume))
    except UncountedError:
        return None
    return max(now - before, 0)


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
