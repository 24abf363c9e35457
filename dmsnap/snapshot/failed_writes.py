"""Writes to a front that dm-era failed, found by the kernel's own counters.

What is written to the front is counted by it, and by the origin when dm-era hands it on: also when
it then fails. What the front counts beyond that, dm-era has failed itself, since it could not mark
the block. Its users know by the error that they got; that its marks are worth nothing any more
(snapshot.bypass) is to be seen nowhere else once its disk is well again.
"""

from collections.abc import Callable
from pathlib import Path

from dmsnap.catalogue.model import Volume
from dmsnap.errors import DmsnapError
from dmsnap.host import counting, kernel
from dmsnap.host.counting import UncountedError
from dmsnap.host.sysfs import SYSFS, Sysfs, format_devno
from dmsnap.snapshot import count_record, stack
from dmsnap.snapshot.window_count import OriginCounts

# As in write_count.
LOOKS = 200
# Until then a dm device counts a write when it begins ("block: count 'ios' and 'sectors' when io is
# done for bio-based device"): under writes the front is ahead of the origin, whatever fails.
COUNTS_AT_THE_END = (6, 3)


def excess(front: int, origin: int, sysfs: Sysfs = SYSFS) -> tuple[int, bool]:
    """Sectors that the front counts beyond the origin, and whether at rest.

    Under writes it is a lower bound: they complete on the front after they did on the origin.
    :class:`UncountedError` where one of the counters stands still, here and below.
    """
    counting.require([front, origin], sysfs)

    def look() -> tuple[int, bool]:
        before = sysfs.sectors_written(front)
        busy = sysfs.in_flight(front)
        now = before - sysfs.sectors_written(origin)
        still = not busy and before == sysfs.sectors_written(front)
        return now, still and not sysfs.in_flight(front)

    return _at_rest_or_highest(look)


def at_most(front: int, origin: int, sysfs: Sysfs = SYSFS) -> tuple[int, bool]:
    """As :func:`excess`, and under writes an upper bound.

    Where a write is counted when it begins, the front is ahead. Where it is when it is done, the
    front is behind only while one passes from the origin's end to its own, which no two hundred
    looks all meet; and each look has more of it than of the origin, as that is read first.
    """
    counting.require([front, origin], sysfs)

    def look() -> tuple[int, bool]:
        busy = sysfs.in_flight(front)
        below = sysfs.sectors_written(origin)
        now = sysfs.sectors_written(front)
        still = below == sysfs.sectors_written(origin) and now == sysfs.sectors_written(front)
        return now - below, not busy and still and not sysfs.in_flight(front)

    return _at_rest_or_highest(look)


def _at_rest_or_highest(look: Callable[[], tuple[int, bool]]) -> tuple[int, bool]:
    """What is seen at rest, if that can be had, else the most of all looks; and which it is."""
    found = []
    for _ in range(LOOKS):
        sectors, at_rest = look()
        if at_rest:
            return sectors, True
        found.append(sectors)
    return max(found), False


def remember(
    directory: Path, volume: Volume, counts: OriginCounts | None = None, beside: int = 0
) -> None:
    """Count from the window of ``counts`` on, or from now, when the volume is at rest; otherwise
    nothing is known of it.

    Called whenever the front was loaded with a dm-era that has metadata to be trusted. ``beside``:
    sectors that were written to the origin past it, and are still to be told of (origin_count).
    """
    try:
        sectors, at_rest = (counts.excess, True) if counts else excess(*devices(volume))
    except UncountedError:
        sectors, at_rest = 0, False
    if at_rest:
        write(directory, volume, sectors + beside)
    else:
        forget(directory, volume)


def forget(directory: Path, volume: Volume) -> None:
    """Know nothing any more."""
    count_record.remove(_path(directory, volume))


def read(directory: Path, volume: Volume) -> int | None:
    """What is remembered of the volume's front and origin; None where nothing is."""
    return count_record.read(_path(directory, volume), _identity(*devices(volume)))


def write(directory: Path, volume: Volume, sectors: int) -> None:
    """Count from where the front counted ``sectors`` beyond the origin."""
    count_record.write(_path(directory, volume), _identity(*devices(volume)), sectors)


def bytes_failed(directory: Path, volume: Volume, counts: OriginCounts | None = None) -> int:
    """Bytes of writes that dm-era failed since :func:`remember`; 0 where that is not known.

    As of the window of ``counts``, or of now: under writes a lower bound, and on old kernels
    nothing.
    """
    try:
        base = read(directory, volume)
        if base is None:
            return 0
        if counts is not None:
            return max(counts.excess - base, 0) * 512
        sectors, at_rest = excess(*devices(volume))
    except (OSError, ValueError, DmsnapError):  # a device went away, or its counters
        return 0
    if not at_rest and kernel.version() < COUNTS_AT_THE_END:
        return 0
    return max(sectors - base, 0) * 512


def devices(volume: Volume) -> tuple[int, int]:
    """The numbers of the front and of the origin."""
    front, below = stack.require(stack.front(volume)), stack.require(stack.origin(volume))
    return front.devno, below.devno


def _identity(front: int, below: int) -> str:
    """The counters of a device that was made anew began anew, too."""
    return f"{format_devno(front)} over {format_devno(below)}"


def _path(directory: Path, volume: Volume) -> Path:
    return directory / "writes" / f"{volume.id}-{volume.generation}.front"
