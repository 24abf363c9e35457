"""LUNs by name: ``iscsi://PORTAL/IQN/LUN``, and where a LUN is recorded, ``#WWID`` behind it.

A name says where to log in and which device has to answer there. The disk is looked for in sysfs,
from session to target to LUN, whenever it is needed: kernel names are given anew at every login.
"""

import ipaddress
import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, unquote

from dmsnap.errors import (
    BusyError,
    ForeignDeviceError,
    NotFoundError,
    UnreachableError,
    WrongWordError,
)
from dmsnap.host import iscsi_session, lun_path, multipath, scsi
from dmsnap.host.iscsi_session import IscsiSession
from dmsnap.host.portal import Portal
from dmsnap.host.scsi import ScsiDisk
from dmsnap.host.sysfs import SYSFS, Sysfs

SCHEME = "iscsi://"
DEFAULT_PORT = 3260
MAX_LUN = 16383

_PORTAL = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<four>[0-9.]+))(?::(?P<port>[0-9]{1,5}))?")
# RFC 3720, 3.2.6.3, in the small letters that initiators and targets compare.
_TARGET = re.compile(r"(?:iqn|eui|naa)\.[a-z0-9.:_-]{1,219}")
_LUN = re.compile(r"[0-9]{1,5}")

_SYNTAX = (
    "write iscsi://ADDRESS[:PORT]/IQN/LUN, as iscsi://192.0.2.7/iqn.2003-01.org.example:store/1"
)


@dataclass(frozen=True, slots=True)
class LunName:
    """A LUN of an iSCSI target; ``wwid`` as sysfs has it ("naa.6001…"), empty: not known yet."""

    portal: Portal
    target: str
    lun: int
    wwid: str = ""

    @classmethod
    def parse(cls, text: str) -> "LunName":
        """Read a name; raises :class:`WrongWordError`."""
        where, _, wwid = text.removeprefix(SCHEME).partition("#")
        parts = where.split("/")
        if not is_name(text) or len(parts) != 3:
            raise WrongWordError(f"{text!r} does not name a LUN", hint=_SYNTAX)
        portal, target, lun = parts
        if not _TARGET.fullmatch(target):
            raise WrongWordError(f"{target!r} is no iSCSI target's name", hint=_SYNTAX)
        if not _LUN.fullmatch(lun) or int(lun) > MAX_LUN:
            raise WrongWordError(f"{lun!r} is no LUN", hint=_SYNTAX)
        return cls(_portal(portal), target, int(lun), unquote(wwid))

    def __str__(self) -> str:
        identity = f"#{quote(self.wwid, safe='.:')}" if self.wwid else ""
        return f"{SCHEME}{self.portal}/{self.target}/{self.lun}{identity}"

    @property
    def link(self) -> Path:
        """The link that udev makes (path_id, handle_scsi_iscsi)."""
        where = f"ip-{self.portal}-iscsi-{self.target}-lun-{self.lun}"
        return Path("/dev/disk/by-path", where)

    def identified(self, wwid: str) -> "LunName":
        """The name with the device that answers."""
        return replace(self, wwid=wwid)


def _portal(text: str) -> Portal:
    found = _PORTAL.fullmatch(text)
    port = int(found["port"] or DEFAULT_PORT) if found else 0
    try:
        address = ipaddress.ip_address((found["six"] or found["four"]) if found else "")
    except ValueError as error:
        raise WrongWordError(f"{text!r} is no address of an iSCSI portal", hint=_SYNTAX) from error
    if not 0 < port < 65536:
        raise WrongWordError(f"{text!r} has no port between 1 and 65535", hint=_SYNTAX)
    return Portal(str(address), port)


def is_name(text: str) -> bool:
    """Whether a recorded device is a LUN and not a path."""
    return text.startswith(SCHEME)


def node(name: str, *, sysfs: Sysfs = SYSFS) -> Path:
    """The node of a device as it is recorded: by a path, or by the name of a LUN.

    A LUN's disk must be there, with the identity that the name says, and not be claimed beside us.
    Where dm-multipath has it, any path will do: the one that the name says may be lost.
    Raises ``NotFoundError``, ``ForeignDeviceError``, ``BusyError``. Reads sysfs alone.
    """
    if not is_name(name):
        return Path(name)
    lun = LunName.parse(name)
    over = multipath_of(lun, sysfs=sysfs)
    if over is not None:
        return sysfs.device_path(over)
    disk = disk_of(lun, sysfs=sysfs)
    if disk.state() in lun_path.LOST:  # reading it would wait until its session is back or given up
        raise UnreachableError(
            f"{lun} is {disk.state()}: the session to its target is lost",
            portal=str(lun.portal),
        )
    if not sysfs.size_bytes(disk.devno):
        raise NotFoundError(f"{lun} is not mapped any more: its target has no such LUN")
    require_identity(lun, disk)
    return sysfs.device_path(lun_path.usable(disk, sysfs=sysfs))


def name_of(devno: int, *, sysfs: Sysfs = SYSFS) -> LunName | None:
    """The name of the LUN that a disk, or dm-multipath over its paths, is; None for any other."""
    for session in iscsi_session.sessions(sysfs=sysfs):
        for disk in scsi.disks_below(session.directory) if session.portal else []:
            if devno in (disk.devno, multipath.map_over(disk.devno, sysfs=sysfs)):
                assert session.portal is not None  # noqa: S101 - asked for above
                return LunName(session.portal, session.target, disk.lun, disk.wwid())
    return None


def is_present(name: str, *, sysfs: Sysfs = SYSFS) -> bool:
    """Whether a recorded device is there and can be used; LUNs as in :func:`node`."""
    try:
        return node(name, sysfs=sysfs).exists()
    except (NotFoundError, ForeignDeviceError, UnreachableError, BusyError):
        return False


def disk_of(lun: LunName, *, sysfs: Sysfs = SYSFS) -> ScsiDisk:
    """The disk of a LUN, as it was attached last; else :class:`NotFoundError`."""
    found = iscsi_session.find(lun.portal, lun.target, sysfs=sysfs)
    if not found:
        raise NotFoundError(
            f"{lun} is not attached: there is no session to its target",
            hint="dmsnap assemble NAME logs in again",
        )
    disks = [disk for session in found for disk in disks_of(session, lun.lun)]
    if not disks:
        raise NotFoundError(f"the target {lun.target} at {lun.portal} has no LUN {lun.lun}")
    return disks[0]


def disks_of(session: IscsiSession, lun: int) -> list[ScsiDisk]:
    """The disk of a session's LUN: one, or none."""
    return [disk for disk in scsi.disks_below(session.directory) if disk.lun == lun]


def require_identity(lun: LunName, disk: ScsiDisk) -> None:
    """Raise :class:`ForeignDeviceError` when another device answers than is recorded."""
    wwid = disk.wwid()
    if lun.wwid and wwid != lun.wwid:
        raise ForeignDeviceError(
            f"LUN {lun.lun} of {lun.target} at {lun.portal} is {wwid or 'nameless'} now, expected "
            f"{lun.wwid}: another device answers there",
            hint="map the LUN as it was",
        )


def multipath_of(lun: LunName, *, sysfs: Sysfs = SYSFS) -> int | None:
    """The number of dm-multipath's device over all paths to a LUN that is known by its identity.

    None where there is none, and where every path is lost. Raises as ``lun_path.usable``.
    """
    return lun_path.map_to(lun.wwid, sysfs=sysfs)


def lasting_path(lun: LunName, *, sysfs: Sysfs = SYSFS) -> Path:
    """What a LUN can be mounted by at every boot: udev's link for it, or for the map over it."""
    try:
        over = multipath_of(lun, sysfs=sysfs)
    except (BusyError, ForeignDeviceError):
        over = None
    return lun.link if over is None else multipath.link(over, sysfs=sysfs)
