"""Devices that are left suspended are seen to, once whoever is to do so has had the time."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from dmsnap.service.health.stranded import Left

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Stranded:
    """``find`` gives such devices, and ``begin`` has what left those of one volume concluded.

    That is done for one that is found at two looks: in between, its watchdog had its time. Each
    volume for itself: what is concluded of another may hang with its disk.
    """

    find: Callable[[], frozenset[Left]]
    begin: Callable[[str], None]
    seen: frozenset[Left] = frozenset()

    def look(self) -> None:
        found = self.find()
        left, self.seen = found & self.seen, found
        for volume in sorted({each.volume for each in left}):
            names = ", ".join(sorted(each.device for each in left if each.volume == volume))
            log.warning(
                "%s: left suspended by a command that is gone, it is concluded",
                names,
                extra={"volume": volume},
            )
            self.begin(volume)
