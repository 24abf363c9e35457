"""Devices that are left suspended are seen to, once whoever is to do so has had the time."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Stranded:
    """``find`` gives the names of such devices, and ``begin`` has what left them concluded.

    That is done for one that is found at two looks: in between, its watchdog had its time.
    """

    find: Callable[[], frozenset[str]]
    begin: Callable[[], None]
    seen: frozenset[str] = frozenset()

    def look(self) -> None:
        found = self.find()
        left, self.seen = found & self.seen, found
        if left:
            names = ", ".join(sorted(left))
            log.warning("%s: left suspended by a command that was killed, it is concluded", names)
            self.begin()
