"""What becomes of the links and sessions to a volume's LUNs while something works on them."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING

from dmsnap.catalogue.model import Volume
from dmsnap.errors import DmsnapError
from dmsnap.host import iscsi_session
from dmsnap.host.lun import LunName
from dmsnap.host.portal import Portal
from dmsnap.service.luns import luns

if TYPE_CHECKING:
    from dmsnap.host.route import LinkWatch


@contextmanager
def explained(volume: Volume) -> Iterator[None]:
    """Say with an error of the block what became of the links and sessions to the volume's LUNs."""
    names = luns.names_of(volume)
    with ExitStack() as stack:
        watches = [stack.enter_context(_watched(portal)) for portal in portals(names)]
        try:
            yield
        except DmsnapError as error:
            for note in [*(e for watch in watches if watch for e in watch.events()), *lost(names)]:
                error.add_note(note)
            raise


def _watched(portal: Portal) -> "AbstractContextManager[LinkWatch | None]":
    # Imported where there is a portal, as sockets are that it takes.
    from dmsnap.host import route

    return route.watched(portal)


def portals(names: list[LunName]) -> list[Portal]:
    return list(dict.fromkeys(name.portal for name in names))


def lost(names: list[LunName]) -> Iterator[str]:
    """The sessions that are not there, or not up."""
    for name in names:
        found = iscsi_session.find(name.portal, name.target)
        if not found:
            yield f"the session to {name.target} at {name.portal} is gone"
        elif not found[0].is_up:
            yield f"the session to {name.target} at {name.portal} is lost ({found[0].state})"
