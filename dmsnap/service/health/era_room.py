"""How full the metadata of fronts' dm-era are, read so that nobody waits for it.

dm-era itself is not asked: while it is suspended it does not answer, the question keeps the table
that it was put to, and a resume that puts another one in its place waits for that for ever. Who
suspends it may be LVM, or anybody.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from dmsnap._native.era import EraMetadata
from dmsnap.catalogue.model import Volume
from dmsnap.errors import DeadlineError, DmsnapError
from dmsnap.host import reach
from dmsnap.host.blockdev import open_shared
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.target import Era
from dmsnap.host.sysfs import SYSFS
from dmsnap.service.session import Session
from dmsnap.snapshot import stack

log = logging.getLogger(__name__)

WARNING_PERCENT = 80
ANSWER_SECONDS = 10.0
_PERCENT = 100


@dataclass(slots=True)
class EraRooms:
    """Those of all volumes; ``unanswered`` has what was said of the ones that did not answer."""

    unanswered: dict[str, list[str]] = field(default_factory=dict)

    def problems(self, session: Session, name: str) -> list[str]:
        """What is to be said of a volume's; nothing where a command works on it.

        As of dm-era's last commit, from the disk; a program reads there first, which is left behind
        where that hangs, and is not joined by others while something is on its way there. dm-era
        cannot be given more metadata: it gets new ones with the next generation.
        """
        try:
            volume = session.catalogue.find_volume(name)
            era = _era(volume) if volume else None
            if era is None:
                return []
            if SYSFS.in_flight(era.metadata):
                return self.unanswered.get(name, [])
            percent = _used_percent(SYSFS.device_path(era.metadata))
        except DeadlineError as error:
            log.debug("%s", error)
            sentence = f"the era metadata of {name} do not answer: their disk seems to hang"
            self.unanswered[name] = [sentence]
            return [sentence]
        except DmsnapError as error:
            # What is wrong with the stack is for dmsnap status to say.
            log.debug("the era metadata of %s: %s", name, error)
            return []
        self.unanswered.pop(name, None)
        if percent < WARNING_PERCENT:
            return []
        return [
            f"the era metadata of {name} are over {WARNING_PERCENT} % full: when they are full the "
            f"volume fails; a swap and its revert begin new ones"
        ]


def _era(volume: Volume) -> Era | None:
    """The front's target, if that is a dm-era."""
    front = stack.find(stack.front(volume))
    if front is None or not front.live_table:
        return None
    table = dm.table(front.name)
    target = table[0].target if len(table) == 1 else None
    return target if isinstance(target, Era) else None


def _used_percent(metadata: Path) -> int:
    if not reach.reads(metadata, ANSWER_SECONDS):
        raise DeadlineError(f"{metadata} did not answer within {ANSWER_SECONDS:g} s")
    with open_shared(metadata) as descriptor, EraMetadata.open(descriptor, str(metadata)) as opened:
        found = opened.superblock
        return found.metadata_nr_allocated * _PERCENT // max(1, found.metadata_nr_blocks)
