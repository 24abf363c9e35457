"""Looks at every volume after events, says what has gone wrong and what is right again."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from dmsnap.daemon.announcements import awaited
from dmsnap.daemon.thread import in_own_thread
from dmsnap.errors import DmsnapError

log = logging.getLogger(__name__)

# What has no event: a label that is damaged, a session that the kernel has given up, era metadata.
LONGEST_SECONDS = 60.0
# A survey reads labels: while devices come and go all the time it is not made more often.
SHORTEST_SECONDS = 5.0
# A survey that takes longer is told of.
LATE_SECONDS = 60.0

# By volume, what is wrong with it now. None: nobody can tell while a command works on it.
Problems = Mapping[str, Sequence[str] | None]


@dataclass(slots=True)
class Survey:
    """``look`` finds what is wrong. It may hang with a disk, for which no other duty waits."""

    look: Callable[[], Problems]
    known: dict[str, tuple[str, ...]] = field(default_factory=dict)
    event: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            self.event.clear()
            await self._look()
            await asyncio.sleep(SHORTEST_SECONDS)
            await awaited(self.event, LONGEST_SECONDS - SHORTEST_SECONDS)

    async def _look(self) -> None:
        """In a thread; one that hangs is told of, as nothing that goes wrong is seen meanwhile."""
        looking = in_own_thread(self.once)
        done, _ = await asyncio.wait([looking], timeout=LATE_SECONDS)
        if not done:
            log.warning(
                "a look at all volumes has taken %d s: a disk may hang, and what goes wrong now is "
                "not told", LATE_SECONDS,
            )  # fmt: skip
            await asyncio.wait([looking])
            log.info("volumes are looked at again")
        looking.result()

    def once(self) -> None:
        try:
            found = self.look()
        except DmsnapError as error:
            log.warning("volumes cannot be looked at: %s", error)
            return
        for volume, problems in found.items():
            if problems is not None:
                self._tell(volume, tuple(problems))
        for volume in self.known.keys() - found.keys():
            del self.known[volume]

    def _tell(self, volume: str, problems: tuple[str, ...]) -> None:
        """A sentence that says how full or how old something is changes, and is said again."""
        before = self.known.get(volume, ())
        for problem in problems:
            if problem not in before:
                log.warning("%s: %s", volume, problem, extra={"volume": volume})
        if before and not problems:
            log.info("%s: all is well again", volume, extra={"volume": volume})
        self.known[volume] = problems
