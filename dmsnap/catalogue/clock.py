"""The wall clock, in the catalogue's unit."""

import time
from datetime import UTC, datetime, timedelta

LATEST_NS = 2**63 - 1

# By how much less a clock may be set, by time synchronisation, without anything being wrong.
SET_NS = 300 * 10**9


def now_ns() -> int:
    """Nanoseconds since the epoch."""
    return time.time_ns()


def is_to_come(time_ns: int) -> bool:
    """Whether a time that something was taken at lies in the future: a clock was wrong, or is."""
    return time_ns > now_ns() + SET_NS


def parse_time(text: str) -> int:
    """Nanoseconds since the epoch of ``2026-11-22T09:54:58Z`` or any other form of ISO 8601.

    Without an offset it is UTC, as all times are that are shown. Raises ``ValueError``.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since_epoch = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return storable(since_epoch // timedelta(microseconds=1) * 1000)


def storable(time_ns: int) -> int:
    """A time that 63 bits hold, which are enough until 2262, else ``ValueError``."""
    if time_ns > LATEST_NS:
        raise ValueError("it is later than a clock of nanoseconds can say")
    return time_ns


def format_time(time_ns: int) -> str:
    """``2026-11-22T09:54:58Z``: UTC, whole seconds."""
    return datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
