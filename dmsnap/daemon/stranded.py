"""Devices that are left suspended are seen to, once whoever is to do so has had the time."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from dmsnap.daemon.thread import in_own_thread
from dmsnap.errors import DmsnapError
from dmsnap.service.health.stranded import Left

log = logging.getLogger(__name__)

# Nothing announces a suspend. Two looks apart, its users have waited ten seconds at the most.
LOOK_SECONDS = 5.0


@dataclass(slots=True)
class Stranded:
    """``find`` gives such devices, and ``begin`` has what left those of one volume concluded.

    That is done for one that is found at two looks: in between, its watchdog had its time. Each
    volume for itself: what is concluded of another may hang with its disk. ``find`` reads the
    catalogue, and is asked only when ``is_any`` device is suspended at all.
    """

    is_any: Callable[[], bool]
    find: Callable[[], frozenset[Left]]
    begin: Callable[[str], None]
    seen: frozenset[Left] = frozenset()

    async def run(self) -> None:
        """Until it is cancelled: a duty of its own, as a survey may hang with a disk."""
        while True:
            await in_own_thread(self.look)
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        try:
            self._conclude(self.find() if self.is_any() else frozenset())
        except DmsnapError as error:
            log.warning("what is suspended may be left so: %s", error)

    def _conclude(self, found: frozenset[Left]) -> None:
        left, self.seen = found & self.seen, found
        for volume in sorted({each.volume for each in left}):
            names = ", ".join(sorted(each.device for each in left if each.volume == volume))
            log.warning(
                "%s: left suspended by a command that is gone, it is concluded",
                names,
                extra={"volume": volume},
            )
            try:
                self.begin(volume)
            except DmsnapError as error:  # it keeps no other from it, now or at the next look
                sentence = "what is suspended of %s may be left so: %s"
                log.warning(sentence, volume, error, extra={"volume": volume})
