"""Writes to a backing device past its stack, found by the kernel's own counters.

What is written through the stack is counted by the origin's dm device and by the backing device,
sector for sector. What the backing device counts beyond that was written by somebody who opened it
directly: dm-era did not see it, and no tracker but ``compare`` finds it. Nor did it see what was
written to the origin past the front (``origin_count``), which is told with it.

What is decided by them is read in a window (``window_count``): under writes they are bounds.

The counters begin anew at every boot, so what is remembered of them lies in the run directory.

A counter that somebody switches off (``host.counting``) stands still, and goes on later as if
nothing had been. So what is remembered is worth nothing once one was seen to stand still, or its
switch was set, or the device counts less than went through the stack: that cannot be. What nobody
can know is what was written past a stack in between, where the switch was set without opening it
anew, nobody looked, and as much went through the stack as past it, or nothing past two that stood
still together.
"""

from dataclasses import dataclass
from pathlib import Path

from dmsnap.catalogue.model import Volume
from dmsnap.errors import DmsnapError
from dmsnap.host import counting
from dmsnap.host.counting import UncountedError
from dmsnap.host.sysfs import SYSFS, Sysfs, format_devno
from dmsnap.snapshot import count_record, origin_count, window_count
from dmsnap.snapshot.window_count import WriteCounts

# A volume that is written to without pause is never seen at rest. Each look takes some 50 us.
LOOKS = 200


@dataclass(frozen=True, slots=True)
class Surplus:
    """Sectors that the backing device counts beyond the origin, since both exist.

    At rest the number is exact. Under writes it is a lower bound, as a write completes on the
    backing device before it does on the origin, and is counted then.
    """

    sectors: int
    at_rest: bool


def surplus(backing: int, origin: int, sysfs: Sysfs = SYSFS) -> Surplus:
    """Compare the counters of two devices, given by their numbers; at rest, if that can be had.

    :class:`UncountedError` where one of them stands still.
    """
    counting.require([backing, origin], sysfs)
    lowest = None
    for _ in range(LOOKS):
        before = sysfs.sectors_written(origin)
        busy = sysfs.in_flight(origin)
        sectors = sysfs.sectors_written(backing)
        after = sysfs.sectors_written(origin)
        if not busy and before == after and not sysfs.in_flight(origin):
            return Surplus(sectors - after, True)
        lowest = min(sectors - after, lowest if lowest is not None else sectors - after)
    assert lowest is not None  # noqa: S101 - looked at least once
    return Surplus(lowest, False)


def remember(directory: Path, volume: Volume) -> None:
    """Count from now on what is written to the device directly.

    Under writes it may begin too low: some of them then look like somebody else's, and the next
    sync compares. Nothing is missed by that, and it is right from then on. Of a counter that stands
    still nothing is known.
    """
    try:
        sectors = _surplus_of(volume).sectors
    except UncountedError:
        count_record.remove(_path(directory, volume))
    else:
        _begin(directory, volume, sectors)


def _begin(
    directory: Path, volume: Volume, sectors: int, counts: WriteCounts | None = None
) -> None:
    """Count from where the surplus was ``sectors``, now or in the window of ``counts``."""
    count_record.write(_path(directory, volume), _identity(volume, counts), sectors)


def bytes_beside(directory: Path, volume: Volume, counts: WriteCounts | None = None) -> int | None:
    """Bytes written to the backing device past the front since it was built; None: not known.

    As of the window of ``counts``, and exact. Else as of now: exact at rest, and while the front is
    written to a lower bound, which may hide as much as is under way.
    """
    if _is_uncounted(directory, volume):
        return None
    base = _read(directory, volume, counts)
    beside = origin_count.sectors_beside(directory, volume, counts)
    if base is None or beside is None:
        return None
    found = Surplus(counts.surplus, at_rest=True) if counts else _surplus_of(volume)
    if found.at_rest and found.sectors < base:
        return None
    return (max(found.sectors - base, 0) + beside) * 512


def bytes_before(directory: Path, volume: Volume, counts: WriteCounts | None) -> int | None:
    """Those that were written before a window; what it did not count is not known."""
    if counts is None:
        _is_uncounted(directory, volume)
        return None
    return bytes_beside(directory, volume, counts)


def _is_uncounted(directory: Path, volume: Volume) -> bool:
    """Whether a counter stands still now. What was remembered is then worth nothing any more, also
    when it goes on: whoever looks sees to that.
    """
    try:
        found = window_count.uncounted(volume) is not None
    except DmsnapError:  # a device is not there
        return False
    if found:
        count_record.remove(_path(directory, volume))
    return found


def doubt(directory: Path, volume: Volume, counts: WriteCounts | None = None) -> str:
    """Why :func:`bytes_beside` does not know, to end a sentence; empty: no more is known."""
    try:
        uncounted = window_count.uncounted(volume)
    except DmsnapError:
        uncounted = None
    if uncounted is not None:
        return f": {uncounted}"
    base = _read(directory, volume, counts)
    if base is not None and counts is not None and counts.surplus < base:
        return (
            ": its counter has missed what was written through the stack, as one does that is "
            "switched off for a time (queue/iostats), or that of a disk which refuses writes"
        )
    return ""


def is_untouched(directory: Path, volume: Volume) -> bool:
    """Whether for certain nobody wrote past the stack: known from its beginning, and at rest."""
    base = _read(directory, volume)
    try:
        now = _surplus_of(volume)
    except UncountedError:
        return False
    untouched = now.at_rest and now.sectors == base
    return untouched and origin_count.sectors_beside(directory, volume) == 0


def acknowledge(directory: Path, volume: Volume, length_bytes: int) -> None:
    """Count ``length_bytes`` as seen, which we have written to the device ourselves."""
    base = _read(directory, volume)
    if base is not None:
        _begin(directory, volume, base + length_bytes // 512)


def settle(directory: Path, volume: Volume, counts: WriteCounts | None) -> None:
    """Count what was written until the window of ``counts`` as seen: both sides were compared.

    What is not from a window is never counted as seen: what it has too much would hide as much of
    what comes later. Where that has counted nothing, nothing is known.
    """
    if counts is None:
        count_record.remove(_path(directory, volume))
        return
    base = _read(directory, volume, counts)
    is_less = base is None or counts.surplus < base
    if is_less or (counts.surplus != base and not counts.in_flight):
        _begin(directory, volume, counts.surplus, counts)
    origin_count.settle(directory, volume, counts)


def forget(directory: Path, volume: Volume) -> None:
    """Know nothing any more."""
    origin_count.forget(directory, volume)
    count_record.remove(_path(directory, volume))


def _surplus_of(volume: Volume) -> Surplus:
    return surplus(*window_count.below_front(volume))


def _path(directory: Path, volume: Volume) -> Path:
    return directory / "writes" / f"{volume.id}-{volume.generation}"


def _identity(volume: Volume, counts: WriteCounts | None = None) -> str:
    """The counters of a device that was attached anew began anew, too; those of one whose switch
    was set may have stood still.
    """
    backing, origin = (format_devno(each) for each in window_count.below_front(volume))
    switched = counts.switched if counts else window_count.switched(volume)
    return f"{backing} under {origin}, {switched}"


def _read(directory: Path, volume: Volume, counts: WriteCounts | None = None) -> int | None:
    try:
        return count_record.read(_path(directory, volume), _identity(volume, counts))
    except DmsnapError:  # a device is not there
        return None
