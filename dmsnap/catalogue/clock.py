"""The wall clock, in the catalogue's unit."""

import time
from datetime import UTC, datetime


def now_ns() -> int:
    """Nanoseconds since the epoch."""
    return time.time_ns()


def format_time(time_ns: int) -> str:
    """``2026-11-22T09:54:58Z``: UTC, whole seconds."""
    return datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
