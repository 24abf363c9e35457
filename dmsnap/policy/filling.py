"""When a store that is being filled will be full, and whether it is time to give it more room.

dm-snapshot says how full a store is when it is asked, and raises an event only when it is too late.
So it has to be looked at, the more often the less room there is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

# What any disk may begin to write at from one moment to the next, however still it was.
BURST_BYTES_PER_SECOND = 512 * 1024 * 1024
# As long as giving more room may take, on a disk that is busy.
LEAD_SECONDS = 20.0
FULL_ENOUGH_PERCENT = 70

SHORTEST_SECONDS = 0.25
LONGEST_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Reading:
    """How full a store was at a moment of a clock that nobody sets."""

    at_seconds: float
    used_bytes: int
    total_bytes: int

    @property
    def free_bytes(self) -> int:
        return max(0, self.total_bytes - self.used_bytes)


def bytes_per_second(readings: Sequence[Reading]) -> float:
    """The fastest that it was filled between any two of the readings, the oldest first."""
    rates = [
        (later.used_bytes - earlier.used_bytes) / (later.at_seconds - earlier.at_seconds)
        for earlier, later in pairwise(readings)
        if later.at_seconds > earlier.at_seconds
    ]
    return max(0.0, *rates) if rates else 0.0


def seconds_left(readings: Sequence[Reading]) -> float | None:
    """How long it takes at the fastest rate seen until it is full; None: it is not being filled."""
    rate = bytes_per_second(readings)
    if not readings[-1].free_bytes:
        return 0.0
    return readings[-1].free_bytes / rate if rate else None


def needs_room(readings: Sequence[Reading]) -> bool:
    """Whether more room must be made now: it is fairly full, or will be full soon."""
    latest = readings[-1]
    left = seconds_left(readings)
    fairly_full = latest.used_bytes * 100 >= latest.total_bytes * FULL_ENOUGH_PERCENT
    return fairly_full or (left is not None and left <= LEAD_SECONDS)


def next_look_seconds(readings: Sequence[Reading]) -> float:
    """How long nobody needs to look: at a burst it would be half full of what is left by then."""
    rate = max(bytes_per_second(readings), BURST_BYTES_PER_SECOND)
    return min(LONGEST_SECONDS, max(SHORTEST_SECONDS, readings[-1].free_bytes / rate / 2))
