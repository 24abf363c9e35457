"""iSCSI sessions as the kernel has them (drivers/scsi/scsi_transport_iscsi.c)."""

from dataclasses import dataclass
from pathlib import Path

from dmsnap.host.portal import Portal
from dmsnap.host.sysfs import SYSFS, Sysfs
from dmsnap.host.system_call import system_call

LOGGED_IN = "LOGGED_IN"
# Open-iscsi's own, the kernel's network: it needs no configuration.
INTERFACE = "default"
_NAMELESS = ("", "(null)", "<NULL>")


@dataclass(frozen=True, slots=True)
class IscsiSession:
    """A session: ``number`` is iscsiadm's SID, ``directory`` what its host and targets are below.

    ``state`` is LOGGED_IN, FAILED while open-iscsi tries to get it back, FREE at its end.
    ``interface`` is that of open-iscsi by which it was made.
    """

    number: int
    directory: Path
    target: str
    portal: Portal | None
    state: str
    interface: str = INTERFACE

    @property
    def host(self) -> int:
        """The number of the SCSI host: each session has one of its own."""
        return int(self.directory.parent.name.removeprefix("host"))

    @property
    def is_up(self) -> bool:
        return self.state == LOGGED_IN


def sessions(*, sysfs: Sysfs = SYSFS) -> list[IscsiSession]:
    """Every session, in the order of their numbers."""
    found = []
    for link in sysfs.root.glob("class/iscsi_session/session*"):
        number = link.name.removeprefix("session")
        target = _text(link / "targetname")
        state = _text(link / "state")
        if number.isdigit() and target is not None and state is not None:  # else it has just ended
            directory = (link / "device").resolve()
            portal, interface = _portal_of(directory), _interface_of(link)
            found.append(IscsiSession(int(number), directory, target, portal, state, interface))
    return sorted(found, key=lambda session: session.number)


def find(portal: Portal, target: str, *, sysfs: Sysfs = SYSFS) -> list[IscsiSession]:
    """The sessions to a target by way of a portal: those that are up first, and of these those by
    the interface that dmsnap logs in by.
    """
    found = [
        session
        for session in sessions(sysfs=sysfs)
        if session.target == target and session.portal == portal
    ]
    return sorted(found, key=lambda session: (not session.is_up, session.interface != INTERFACE))


def _portal_of(directory: Path) -> Portal | None:
    """As it was configured: a target may have sent the initiator on to another address."""
    for connection in sorted(directory.glob("connection*/iscsi_connection/connection*")):
        address = _text(connection / "persistent_address")
        port = _text(connection / "persistent_port")
        if address and port and port.isdigit():
            return Portal(address, int(port))
    return None


def _interface_of(link: Path) -> str:
    """Without a name it is of an initiator that knows of no others."""
    name = _text(link / "ifacename") or ""
    return INTERFACE if name in _NAMELESS else name


def _text(path: Path) -> str | None:
    with system_call(f"read {path}"):
        try:
            return path.read_text(errors="surrogateescape").strip()
        except FileNotFoundError:
            return None
