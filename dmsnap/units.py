"""Sizes and durations: bytes and seconds inside Python.

Sectors live only in dm tables, status lines and kernel structures.
"""

import re
from typing import NewType

Bytes = NewType("Bytes", int)
Sectors = NewType("Sectors", int)

SECTOR_BYTES = 512
PAGE_BYTES = 4096
KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB

_FACTORS = {"": 1, "B": 1, "KIB": KIB, "MIB": MIB, "GIB": GIB, "TIB": TIB}
_FACTORS |= {unit[0]: factor for unit, factor in _FACTORS.items() if unit.endswith("IB")}
_SIZE = re.compile(r"(\d+)\s*([A-Za-z]*)")

# No months or years: they are no lengths. Nor m: minutes to systemd, months to others.
_SECONDS = {"w": 7 * 86400, "d": 86400, "h": 3600, "min": 60, "s": 1}
_DURATION = re.compile(r"(\d+)\s*([a-z]+)")


def to_sectors(size_bytes: int) -> Sectors:
    """``size_bytes`` in sectors; a size that is no whole number of them is a ``ValueError``."""
    sectors, rest = divmod(size_bytes, SECTOR_BYTES)
    if rest:
        raise ValueError(f"{size_bytes} bytes is not a whole number of sectors")
    return Sectors(sectors)


def to_bytes(size_sectors: int) -> Bytes:
    """``size_sectors`` in bytes."""
    return Bytes(size_sectors * SECTOR_BYTES)


def align_up(value: int, granularity: int) -> int:
    """The smallest multiple of ``granularity`` that is not below ``value``."""
    return -(-value // granularity) * granularity


def align_down(value: int, granularity: int) -> int:
    """The largest multiple of ``granularity`` that is not above ``value``."""
    return value // granularity * granularity


def parse_size(text: str) -> Bytes:
    """Read ``64KiB``, ``1G`` or ``4096``: binary units, whole numbers, else ``ValueError``."""
    match = _SIZE.fullmatch(text.strip())
    factor = _FACTORS.get(match[2].upper()) if match else None
    if match is None or factor is None:
        raise ValueError(f"{text!r} is not a size; write it as 4096, 64KiB, 1GiB")
    return Bytes(int(match[1]) * factor)


def format_size(size_bytes: int) -> str:
    """``size_bytes`` for people, in the largest binary unit that keeps it at 1 or above."""
    for unit, factor in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size_bytes >= factor:
            value = size_bytes / factor
            return f"{value:.0f} {unit}" if value == int(value) else f"{value:.1f} {unit}"
    return f"{size_bytes} B"


def exact_size(size_bytes: int) -> str:
    """``size_bytes`` in the largest unit that leaves no rest, as :func:`parse_size` reads it."""
    for unit, factor in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size_bytes >= factor and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return str(size_bytes)


def parse_duration(text: str) -> int:
    """Read ``7d``, ``36h``, ``90s``: whole numbers of one unit, in seconds, else ``ValueError``."""
    match = _DURATION.fullmatch(text.strip())
    factor = _SECONDS.get(match[2]) if match else None
    if match is None or factor is None:
        raise ValueError(f"{text!r} is not a duration; write it as 90s, 15min, 6h, 7d, 4w")
    return int(match[1]) * factor


def format_duration(seconds: int) -> str:
    """``seconds`` in the largest unit that leaves no rest, as :func:`parse_duration` reads it."""
    for unit, factor in _SECONDS.items():
        if seconds >= factor and seconds % factor == 0:
            return f"{seconds // factor}{unit}"
    return "0s"


def format_age(seconds: float) -> str:
    """``42 s``, ``17 min``, ``5 h``, ``3 d``: for people, who want to know about how long."""
    for unit in ("d", "h", "min"):
        if seconds >= 2 * _SECONDS[unit]:
            return f"{seconds // _SECONDS[unit]:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def format_measured(seconds: float) -> str:
    """``3.2 s``, and from two minutes on as :func:`format_age`."""
    return f"{seconds:.1f} s" if seconds < 2 * _SECONDS["min"] else format_age(seconds)
