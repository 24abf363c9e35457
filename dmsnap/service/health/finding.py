"""A finding about the host or a volume, and what to do about it."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """What a finding means for dmsnap."""

    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. ``action`` is what to do about it, where there is something."""

    name: str
    level: Level
    sentence: str
    action: str | None = None
