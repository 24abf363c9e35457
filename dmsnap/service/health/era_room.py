"""How full the metadata of a front's dm-era are."""

from dmsnap.catalogue.model import Volume
from dmsnap.errors import LockedError
from dmsnap.host.dm import device as dm
from dmsnap.service.session import Session
from dmsnap.snapshot import stack

WARNING_PERCENT = 80
_PERCENT = 100


def problems(session: Session, name: str) -> list[str]:
    """What is to be said of it; nothing where a command works on the volume.

    Asked with the volume's lock held: in a window the question would hang (``dm.status``). dm-era
    cannot be given more metadata: it gets new ones with the next generation.
    """
    try:
        with session.locked_at_once(name):
            volume = session.catalogue.find_volume(name)
            percent = _used_percent(volume) if volume else 0
    except LockedError:
        return []
    if percent < WARNING_PERCENT:
        return []
    return [
        f"the era metadata of {name} are over {WARNING_PERCENT} % full: when they are full the "
        f"volume fails; a swap and its revert begin new ones"
    ]


def _used_percent(volume: Volume) -> int:
    front = stack.find(stack.front(volume))
    if front is None or not front.live_table or front.suspended:
        return 0
    if [line.target.type_name for line in dm.table(front.name)] != ["era"]:
        return 0
    status = dm.era_status(front.name)
    return status.used * _PERCENT // max(1, status.total)
