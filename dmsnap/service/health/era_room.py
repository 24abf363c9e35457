"""How full the metadata of fronts' dm-era are, asked so that nobody waits for it."""

import logging
from dataclasses import dataclass, field

from dmsnap.catalogue.model import Volume
from dmsnap.errors import DeadlineError, DmsnapError, LockedError
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.target import Era
from dmsnap.host.sysfs import SYSFS
from dmsnap.service.session import Session
from dmsnap.snapshot import stack

log = logging.getLogger(__name__)

WARNING_PERCENT = 80
# dm-era commits before it answers.
ANSWER_SECONDS = 10.0
_PERCENT = 100


@dataclass(slots=True)
class EraRooms:
    """Those of all volumes; ``unanswered`` has what was said of the ones that did not answer."""

    unanswered: dict[str, list[str]] = field(default_factory=dict)

    def problems(self, session: Session, name: str) -> list[str]:
        """What is to be said of a volume's; nothing where a command works on it.

        Asked with the volume's lock held: in a window the question would hang (``dm.status``). The
        question is a program's, which has nothing of that lock: where the disk of the metadata
        hangs it is left behind, and is not joined by others while something is on its way there.
        dm-era cannot be given more metadata: it gets new ones with the next generation.
        """
        try:
            with session.locked_at_once(name):
                volume = session.catalogue.find_volume(name)
                era = _era(volume) if volume else None
                if volume is None or era is None:
                    return []
                if SYSFS.in_flight(era.metadata):
                    return self.unanswered.get(name, [])
                percent = _used_percent(volume)
        except LockedError:
            return []
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
    """The front's target, where it can be asked now."""
    front = stack.find(stack.front(volume))
    if front is None or not front.live_table or front.suspended:
        return None
    table = dm.table(front.name)
    target = table[0].target if len(table) == 1 else None
    return target if isinstance(target, Era) else None


def _used_percent(volume: Volume) -> int:
    status = dm.era_status_beside(stack.front(volume).name, ANSWER_SECONDS)
    return status.used * _PERCENT // max(1, status.total)
