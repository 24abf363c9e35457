"""Which moments to believe when clocks jump.

The order in which points were taken is certain: it is that of the records, and of the undo history.
Their times are what a clock said that may have been wrong for a while. To believe a wrong one may
cost a point that nothing brings back, so that nothing goes by an age that is in doubt.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

NANOSECONDS = 10**9

# What time synchronisation may move a clock by without anybody having set it.
TOLERANCE_NS = 300 * NANOSECONDS
# A host that was off for longer is first left alone as long as one whose clock jumped: a clock that
# was set ahead by so much before looks the same. Where it is kept right by others, as by NTP, that
# is over by now, and only what nobody expects is left.
DOWNTIME_NS = 86400 * NANOSECONDS
LONG_DOWNTIME_NS = 7 * 86400 * NANOSECONDS
# Readings that are closer to each other say no more than one does.
APART_NS = 600 * NANOSECONDS
# How long a clock runs steadily before ages are counted by it again: time to notice and set it.
SETTLING_NS = 86400 * NANOSECONDS
# A host without a clock of its own sets the wall clock so long after a boot, by what it finds on
# its disk, and then by the network.
BOOTING_NS = 900 * NANOSECONDS
# A clock that runs while the host is off, and is behind what was known before by more than this,
# has stood still or begun anew. More than time zones differ by: it may be in local time.
LOST_NS = 86400 * NANOSECONDS


@dataclass(frozen=True, slots=True)
class Reading:
    """The wall clock, and CLOCK_BOOTTIME, which nobody can set, of the boot ``boot_id``.

    ``lost``: the clock that should have run while the host was off has not (:func:`has_lost_time`).
    """

    wall_ns: int
    boottime_ns: int
    boot_id: str
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Moment:
    """When a point was taken, at the latest. ``believed``: that is what the clock said then."""

    latest_ns: int
    believed: bool


def trusted_now(
    earlier: Sequence[Reading], now: Reading, *, own_clock: bool, synchronised: bool = False
) -> int | None:
    """The wall clock of ``now``, nanoseconds since the epoch; None while it is in doubt.

    ``earlier``: former readings, oldest first; those of the last two days are enough. After a jump
    the clock is in doubt until it has run steadily for ``SETTLING_NS``. ``own_clock``: the host has
    one that runs while it is off, and so was right before anybody set the wall clock; but for
    readings that say that it was not. ``synchronised``: the kernel is told the time by others now.
    """
    if _is_steady(_counting(earlier, now, own_clock=own_clock, vouched=False), vouched=False):
        return now.wall_ns
    if not synchronised:
        return None
    counting = _counting(earlier, now, own_clock=own_clock, vouched=True)
    return now.wall_ns if _is_steady(counting, vouched=True) else None


def _is_steady(counting: Sequence[Reading], *, vouched: bool) -> bool:
    """Whether there was no jump for long enough, or none at all."""
    now = counting[0]
    for later, reading in pairwise(counting):
        if has_jumped(reading, later, vouched=vouched):
            return False
        if now.wall_ns - reading.wall_ns >= SETTLING_NS:
            break
    return True


def has_lost_time(earlier: Sequence[Reading], boot_id: str, own_ns: int) -> bool:
    """Whether the host's own clock, which says ``own_ns``, has not run since the boot before."""
    before = next((each for each in reversed(earlier) if each.boot_id != boot_id), None)
    return before is not None and own_ns < before.wall_ns - LOST_NS


def worth_keeping(earlier: Sequence[Reading], now: Reading, *, own_clock: bool) -> list[Reading]:
    """Of former readings and ``now`` those that :func:`trusted_now` goes by later, oldest first.

    Whether the clock is kept right by others is known only then.
    """
    if earlier and not _is_news(earlier[-1], now):
        return list(earlier)
    kept = [
        each
        for vouched in (False, True)
        for each in _kept(earlier, now, own_clock=own_clock, vouched=vouched)
    ]
    return [each for each in (*earlier, now) if each in kept]


def _kept(
    earlier: Sequence[Reading], now: Reading, *, own_clock: bool, vouched: bool
) -> list[Reading]:
    """That is a day of a clock that runs steadily, with the reading before it, against which a jump
    is seen; what lies before a jump counts for nothing any more. While the host boots that is told
    by the readings before: those of this boot may be worth nothing.
    """
    counting = _counting(earlier, now, own_clock=own_clock, vouched=vouched)
    booting = sum(_is_booting(now) and each.boot_id == now.boot_id for each in counting)
    kept = counting[:booting] or [now]
    for reading in counting[len(kept) :]:
        kept.append(reading)
        if len(kept) - 1 == booting:
            continue
        since = kept[booting]
        if (
            has_jumped(reading, kept[-2], vouched=vouched)
            or since.wall_ns - reading.wall_ns >= SETTLING_NS
        ):
            break
    return kept


def _counting(
    earlier: Sequence[Reading], now: Reading, *, own_clock: bool, vouched: bool
) -> list[Reading]:
    """``now`` and the former readings, newest first, without those that a boot takes back.

    When the clock of a host that has none of its own is set within the first minutes of a boot, it
    was not set before. Nor was it, ``vouched`` for, where the host's own had lost the time, until
    it is set: that sets the host's own as well. What it is set to is held against the boot before,
    by which only a jump of many days is seen: elsewhere it is the jump itself that counts.
    """
    counting, later, taken_back = [now], now, None
    for reading in reversed(earlier):
        unset = _is_booting(later) if not own_clock else vouched and reading.lost
        is_same = reading.boot_id == later.boot_id
        if unset and is_same and has_jumped(reading, later):
            taken_back = reading.boot_id
        if reading.boot_id != taken_back:
            counting.append(reading)
        later = reading
    return counting


def _is_booting(reading: Reading) -> bool:
    return reading.boottime_ns < BOOTING_NS


def _is_news(before: Reading, now: Reading) -> bool:
    is_apart = now.boottime_ns - before.boottime_ns >= APART_NS
    return is_apart or before.boot_id != now.boot_id or has_jumped(before, now)


def has_jumped(before: Reading, after: Reading, *, vouched: bool = False) -> bool:
    """Whether the wall clock was set between two readings, as far as can be known.

    Over a reboot nothing says how long the host was off: it is a jump when the clock went back, or
    on by more than ``DOWNTIME_NS``, ``vouched`` for by more than ``LONG_DOWNTIME_NS``.
    """
    passed_ns = after.wall_ns - before.wall_ns
    if before.boot_id == after.boot_id:
        return abs(passed_ns - (after.boottime_ns - before.boottime_ns)) > TOLERANCE_NS
    return not -TOLERANCE_NS <= passed_ns <= (LONG_DOWNTIME_NS if vouched else DOWNTIME_NS)


def moments(created_ns: Sequence[int], now_ns: int) -> list[Moment] | None:
    """When points were taken at the latest, in the order in which they were taken.

    Believed is the longest series of times that rise with that order, up to now. Any other point
    was taken before the next one that is believed; it counts as that young, or as young as it says,
    short of the future. None: it is the present that does not fit, and the clock was set back.
    """
    if len(created_ns) not in _longest_rising([*created_ns, now_ns]):
        return None
    rising = _latest_rising(created_ns, now_ns)
    found: list[Moment] = []
    next_ns = now_ns
    for index, time_ns in reversed(list(enumerate(created_ns))):
        believed = index in rising
        next_ns = time_ns if believed else next_ns
        own_ns = time_ns if time_ns <= now_ns else next_ns
        found.append(Moment(max(own_ns, next_ns), believed))
    return found[::-1]


def _latest_rising(times: Sequence[int], now: int) -> set[int]:
    """The indexes of a longest non-decreasing series up to now; of several the one with the latest
    times.

    There is one that is nowhere earlier than any other, and found from behind: of two that are as
    long, their later times are a series, too. By that each point is as young as it can be.
    """
    past = [index for index, time in enumerate(times) if time <= now]
    past.reverse()
    return {past[place] for place in _longest_rising([-times[index] for index in past])}


def _longest_rising(times: Sequence[int]) -> set[int]:
    """The indexes of a longest non-decreasing series; of several the one with the earliest times.

    Patience sorting: ``ends[n]`` is the smallest time with which a series of n + 1 can end.
    """
    ends: list[int] = []
    last: list[int] = []
    before: list[int | None] = []
    for index, time in enumerate(times):
        place = bisect_right(ends, time)
        before.append(last[place - 1] if place else None)
        ends[place : place + 1] = [time]
        last[place : place + 1] = [index]
    chosen: set[int] = set()
    at = last[-1] if last else None
    while at is not None:
        chosen.add(at)
        at = before[at]
    return chosen
