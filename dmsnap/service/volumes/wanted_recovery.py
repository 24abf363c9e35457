"""The recovery volume that a volume is to have: which device, and how it is copied to."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from dmsnap._native.io_priority import IoPriority


@dataclass(frozen=True, slots=True)
class WantedRecovery:
    """What is asked of a recovery volume, whoever asks for one.

    ``recovery``: a path, or the name of a LUN that is attached; empty: one that ``pool`` offers.
    With both it is to be one that the pool offers. ``overwrite``: whatever is on it.
    ``force``: take it over from another host that claims it.
    ``full``: copy what the file system does not use, too.
    ``cow_percent`` of the point that is copied; 0: what the configuration says.
    ``bandwidth`` in bytes a second, 0: no limit.
    ``io_priority``: that of the copy, as a text; empty: as who runs it.
    """

    recovery: str = ""
    pool: str = ""
    overwrite: bool = False
    force: bool = False
    full: bool = False
    cow_percent: int = 0
    bandwidth: int = 0
    io_priority: str = ""

    @property
    def priority(self) -> IoPriority | None:
        """The I/O priority of the copy; None: that of who runs it."""
        return IoPriority.parse(self.io_priority) if self.io_priority else None

    def as_arguments(self) -> dict[str, object]:
        """For the journal, which takes JSON."""
        return asdict(self)

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Self:
        """What the journal has of it, among other arguments."""
        names = {each.name for each in fields(cls)}
        return cls(**{name: arguments[name] for name in names & arguments.keys()})
