"""When which point is copied to the recovery volume: at once, later, or in certain hours."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time, tzinfo
from typing import Self
from uuid import UUID

from dmsnap.policy.chronology import NANOSECONDS

MINUTE_SECONDS = 60
# Two days and what a clock may be set by on one of them.
SEARCHED_MINUTES = 50 * 60
# How long a point that could have been copied stays for that; hours come again within a day.
GRACE_SECONDS = 2 * 86400

_HOURS = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)")


@dataclass(frozen=True, slots=True)
class Hours:
    """A part of every day, by the clock on the wall; ``22:00-06:00`` goes past midnight."""

    begin: time
    end: time

    @classmethod
    def parse(cls, text: str) -> Self:
        """``22:00-06:00``; anything else is a ``ValueError``."""
        match = _HOURS.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} are no hours of a day; write them as 22:00-06:00")
        hours, minutes, end_hours, end_minutes = map(int, match.groups())
        try:
            begin, end = time(hours, minutes), time(end_hours, end_minutes)
        except ValueError as error:
            raise ValueError(f"{text!r} are no hours of a day: {error}") from None
        if begin == end:
            raise ValueError(f"{text!r} begins when it ends: for the whole day leave it out")
        return cls(begin, end)

    def holds(self, moment: time) -> bool:
        """Whether a time of day is among these hours; the end is not."""
        if self.begin < self.end:
            return self.begin <= moment < self.end
        return moment >= self.begin or moment < self.end

    def opening_ns(self, from_ns: int, zone: tzinfo) -> int:
        """The first moment not before ``from_ns`` that lies in these hours.

        Looked for minute by minute, which takes milliseconds: clocks change by whole minutes, and
        hours that a change to summer time leaves out in part or in full are then no case at all.
        """
        if self._hold(from_ns // NANOSECONDS, zone):
            return from_ns
        first = from_ns // (MINUTE_SECONDS * NANOSECONDS) + 1
        minutes = (minute * MINUTE_SECONDS for minute in range(first, first + SEARCHED_MINUTES))
        return next(each for each in minutes if self._hold(each, zone)) * NANOSECONDS

    def _hold(self, seconds: int, zone: tzinfo) -> bool:
        return self.holds(datetime.fromtimestamp(seconds, zone).time())


@dataclass(frozen=True, slots=True)
class Copying:
    """``delay_seconds`` after it was taken, in ``hours``, and once ``passed`` newer ones exist."""

    delay_seconds: int = 0
    hours: Hours | None = None
    passed: int = 0


@dataclass(frozen=True, slots=True)
class WaitingPoint:
    """A point that is newer than what the recovery volume holds."""

    id: UUID
    created_ns: int


@dataclass(frozen=True, slots=True)
class NextCopy:
    """The point to copy next, and from when on: nanoseconds since the epoch, not in the past."""

    point: UUID
    due_ns: int


def next_copy(
    waiting: Sequence[WaitingPoint], copying: Copying, now_ns: int, zone: tzinfo
) -> NextCopy | None:
    """What is to be copied next; at ``now_ns`` when it is due. None: more points must be taken.

    ``waiting`` is in the order in which the points were taken. The oldest is copied, so that each
    becomes a point of the history.
    """
    if len(waiting) <= copying.passed:
        return None
    oldest = waiting[0]
    due_ns = max(now_ns, _delayed_ns(oldest, copying, now_ns))
    if copying.hours is not None:
        due_ns = copying.hours.opening_ns(due_ns, zone)
    return NextCopy(oldest.id, due_ns)


def still_to_copy(
    waiting: Sequence[WaitingPoint], copying: Copying, now_ns: int
) -> frozenset[UUID]:
    """The points that must not go before they are copied, of ``waiting`` as above.

    Only those without which nothing would ever be: the newest, by which the others are counted, and
    the oldest while it is to wait. That one not for ever, since it takes room: what has not been
    copied two days after its time goes as all others do.
    """
    held = {point.id for point in waiting[-(copying.passed + 1) :]}
    if copying.delay_seconds and waiting:
        oldest = waiting[0]
        ends_ns = _delayed_ns(oldest, copying, now_ns) + GRACE_SECONDS * NANOSECONDS
        held |= {oldest.id} if now_ns < ends_ns else set()
    return frozenset(held)


def _delayed_ns(point: WaitingPoint, copying: Copying, now_ns: int) -> int:
    # A point from the future waits for nothing: the clock was set back since.
    return min(point.created_ns, now_ns) + copying.delay_seconds * NANOSECONDS
