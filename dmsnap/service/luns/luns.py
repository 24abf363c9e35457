"""The LUNs that volumes lie on or recover to: logging in, asking who answers, logging out again.

A node record that dmsnap made has a mark in the state directory, which is there before the record
and goes after it. The session by such a record is dmsnap's own, and nothing else is: records and
sessions of others are used as they are, and never ended, changed or removed.
"""

import logging
from enum import Enum
from pathlib import Path
from uuid import UUID

from dmsnap.catalogue.model import Volume
from dmsnap.errors import (
    DmsnapError,
    ForeignDeviceError,
    NotFoundError,
    UnreachableError,
)
from dmsnap.host import (
    blockdev,
    iscsi,
    iscsi_session,
    lun,
    lun_path,
    multipath,
    replacement,
    scsi,
    udev,
)
from dmsnap.host.iscsi_session import IscsiSession
from dmsnap.host.lun import LunName
from dmsnap.host.scsi import ScsiDisk
from dmsnap.host.sysfs import SYSFS
from dmsnap.service.luns import session_use
from dmsnap.service.session import Session, make_directory

log = logging.getLogger(__name__)

LOGIN_TIMEOUT_SECONDS = 15


def names_of(volume: Volume) -> list[LunName]:
    """The LUNs that a volume has to do with."""
    recorded = (volume.backing, volume.recovery, volume.previous_backing)
    return [LunName.parse(name) for name in recorded if name and lun.is_name(name)]


# attaching


class Wanted(Enum):
    """Which LUNs of a volume a command needs."""

    ALL = "all"
    SERVING = "serving"  # what the front lies on; others may be missing
    SERVING_ALONE = "serving alone"  # a boot must not wait for others
    PRIMARY = "primary"  # the volume's own device: a trial may have lost what it serves from
    RECOVERY = "recovery"  # alone: the primary may be just what was lost
    REPLICA = "replica"  # the recovery volume; others may be missing
    THERE = "there"  # those that can be had: what is gone for good must not keep anything
    NONE = "none"  # nothing is read or written of any


# Others are not even asked for: whoever is dead would be waited for.
ALONE = (Wanted.SERVING_ALONE, Wanted.RECOVERY, Wanted.NONE)


def attach_all(session: Session, volume: Volume, wanted: Wanted = Wanted.ALL) -> None:
    """Have the LUNs of a volume attached, and be what was recorded."""
    for name in names_of(volume):
        needed = wanted is Wanted.ALL or str(name) == _needed(volume, wanted)
        if not needed and wanted in ALONE:
            continue
        try:
            attach(session, name, volume.name)
        except DmsnapError as error:
            if needed:
                raise
            log.warning("%s", error)


def _needed(volume: Volume, wanted: Wanted) -> str | None:
    """The one device that a command needs, as it is recorded."""
    if wanted in (Wanted.NONE, Wanted.THERE):
        return None
    if wanted is Wanted.PRIMARY:
        return volume.backing
    return volume.recovery if wanted in (Wanted.RECOVERY, Wanted.REPLICA) else volume.serving


def attach(session: Session, name: LunName, owner: str) -> LunName:
    """Have a LUN attached, for the volume called ``owner``; returns its name with its identity.

    Logs in where there is no session. What the kernel knew of the disk is asked anew, or dropped.
    """
    found = iscsi_session.find(name.portal, name.target)
    is_new = not any(each.is_up for each in found)
    if is_new and is_reached_otherwise(name):
        log.warning("%s at %s is reached by other paths alone", name.target, name.portal)
        return name
    if is_new:
        log_in(session, name, owner, [each for each in found if may_be_ours(each)])
        found = iscsi_session.find(name.portal, name.target)
    if not found:
        raise UnreachableError(f"the session to {name.target} at {name.portal} ended at once")
    if is_new:
        scsi.await_opening(find_disk(found[0], name))
    disk = disk_on(session, found[0], name)
    if is_new or lun_path.is_partly_mapped(disk):
        udev.settle()
        lun_path.await_map(disk)
    lun.require_identity(name, disk)
    check_link(name, disk)
    if not disk.wwid():
        raise ForeignDeviceError(
            f"LUN {name.lun} of {name.target} does not say who it is: it could not be told from "
            f"another one",
            hint="give it a serial number on the target",
        )
    return name.identified(disk.wwid())


def is_reached_otherwise(name: LunName) -> bool:
    """Whether dm-multipath has other paths to a LUN, which are asked anew who they lead to."""
    over = lun.multipath_of(name)
    if over is None:
        return False
    for path in lun_path.of_map(over):
        scsi.rescan(path)
    return lun.multipath_of(name) is not None


def log_in(session: Session, name: LunName, owner: str, lost: list[IscsiSession]) -> None:
    """Log in by a record of dmsnap's own, or by one that somebody else made."""
    # Imported where there is a portal, as sockets are that it takes.
    from dmsnap.host import route

    route.require(name.portal)
    for each in lost:
        end_lost(session, name, each)
    iscsi.load_modules()
    group = iscsi.require_offered(name.portal, name.target)
    if is_ours(session, name) or not iscsi.record_files(name.portal, name.target):
        make_record(session, name, owner, group)
    iscsi.login(name.portal, name.target)


def end_lost(session: Session, name: LunName, lost: IscsiSession) -> None:
    """A session that open-iscsi tries to get back: in nobody's use it is quicker to begin anew.

    A sync of another volume is a user, too: its requests wait for the session, and would fail.
    """
    if not is_ours(session, name) or not session_use.are_let_go([lost]):
        raise UnreachableError(
            f"the session to {name.target} at {name.portal} is lost ({lost.state})",
            hint="open-iscsi logs in again by itself: try again in a moment",
        )
    iscsi.logout(lost.number)


def may_be_ours(current: IscsiSession) -> bool:
    """Sessions by other interfaces are others', whoever has the record that is not for those."""
    return current.interface == iscsi_session.INTERFACE


def make_record(session: Session, name: LunName, owner: str, group: int | None) -> None:
    """The record that sessions of ours are made by. dmsnap logs in, not open-iscsi at boot."""
    # Imported where somebody logs in.
    from dmsnap.service.configuration import credentials

    chap = credentials.chap_of(session.configuration.iscsi_secrets, name.target)
    is_there = bool(iscsi.record_files(name.portal, name.target))
    if not is_there:
        iscsi.require_free(name.portal, name.target)
    make_directory(mark_of(session, name).parent)
    replacement.replace_file(mark_of(session, name), f"{owner}\n")
    if not is_there:
        iscsi.create_record(name.portal, name.target, group)
    seconds = session.configuration.session_wait_seconds
    iscsi.configure_record(
        name.portal,
        name.target,
        {
            "node.startup": "manual",
            "node.conn[0].startup": "manual",
            "node.session.timeo.replacement_timeout": str(seconds),
            "node.session.initial_login_retry_max": "1",
            "node.conn[0].timeo.login_timeout": str(LOGIN_TIMEOUT_SECONDS),
            **iscsi.chap_values(chap),
        },
    )


def disk_on(session: Session, current: IscsiSession, name: LunName) -> ScsiDisk:
    """The disk of a LUN, with nothing left of what the kernel knew of another one there."""
    disk = find_disk(current, name)
    for path in (disk, *lun_path.beside(disk)):
        scsi.rescan(path)
    ours = is_ours(session, name) and may_be_ours(current)
    free = ours and not any(map(blockdev.describe_users_of, session_use.devices_of(disk)))
    if free and is_stale(name, disk):
        scsi.delete(disk)
        disk = find_disk(current, name)
        lun_path.await_map(disk)
    if not SYSFS.size_bytes(disk.devno):
        raise no_lun(name)
    if not any(map(blockdev.lasting_users, session_use.devices_of(disk))):
        for devno in {disk.devno, session_use.devices_of(disk)[0]}:
            blockdev.flush_buffers(SYSFS.device_path(devno))
    return disk


def is_stale(name: LunName, disk: ScsiDisk) -> bool:
    """A LUN that is not mapped any more stays as a disk of no size, under its old name."""
    other = bool(name.wwid) and disk.wwid() != name.wwid
    return other or not SYSFS.size_bytes(disk.devno)


def find_disk(current: IscsiSession, name: LunName) -> ScsiDisk:
    """The disk of a session's LUN; looked for on the target when it is not known yet."""
    found = lun.disks_of(current, name.lun)
    if not found:
        scsi.scan(current.host, name.lun)
        if not scsi.is_known(current.directory, name.lun):
            raise no_lun(name)
        scsi.await_uevent(
            lambda: bool(lun.disks_of(current, name.lun)),
            f"no disk appeared for LUN {name.lun} of {name.target} within {scsi.WAIT_SECONDS:g} s",
        )
        found = lun.disks_of(current, name.lun)
        udev.settle()
        scsi.await_opening(found[0])
    return found[0]


def no_lun(name: LunName) -> NotFoundError:
    return NotFoundError(f"the target {name.target} at {name.portal} has no LUN {name.lun}")


def check_link(name: LunName, disk: ScsiDisk) -> None:
    """udev's link for the LUN must not lead to another device: people will use it."""
    if not udev.is_running() or not name.link.exists():
        return
    devno = blockdev.BlockDevice.probe(name.link).devno
    same = [other for other in scsi.disks() if other.devno == devno]
    if devno != disk.devno and not (same and same[0].wwid() == disk.wwid()):
        raise ForeignDeviceError(
            f"{name.link} leads to {SYSFS.display_name(devno)}, not to the disk of that LUN "
            f"({SYSFS.display_name(disk.devno)})",
            hint="udevadm trigger --settle has udev make its links again",
        )


# letting go


def release(session: Session, name: LunName, but: UUID | None = None) -> None:
    """Log out and remove the record, when both are dmsnap's own and no other volume needs them.

    ``but`` is the volume that needs them no longer. A session that somebody uses stays, as his own;
    who only looks at a disk of it, is waited for.
    """
    if not is_ours(session, name) or is_needed(session, name, but):
        return
    found = list(filter(may_be_ours, iscsi_session.find(name.portal, name.target)))
    if not session_use.are_let_go(found):
        give_away(session, name)
        return
    maps = session_use.maps_over(found)
    for each in found:
        iscsi.logout(each.number)
    for left in filter(None, map(multipath.left_without_paths, maps)):
        log.warning("the multipath device %s has no path any more, and stays", left)
    iscsi.delete_record(name.portal, name.target)
    replacement.remove_file(mark_of(session, name))


def give_away(session: Session, name: LunName) -> None:
    """The record is the administrator's from now on: open-iscsi logs in by it at boot."""
    if not is_ours(session, name):
        return
    automatic = {"node.startup": "automatic", "node.conn[0].startup": "automatic"}
    iscsi.configure_record(name.portal, name.target, automatic)
    replacement.remove_file(mark_of(session, name))
    log.warning(
        "the session to %s at %s is in use and stays: open-iscsi makes it at boot from now on",
        name.target,
        name.portal,
    )


def is_needed(session: Session, name: LunName, but: UUID | None) -> bool:
    """Whether a volume uses a LUN of the same target by the same portal."""
    return any(
        (other.portal, other.target) == (name.portal, name.target)
        for volume in session.catalogue.volumes()
        if volume.id != but
        for other in names_of(volume)
    )


def release_strays(session: Session, held: str) -> None:
    """Let go of what a ``protect`` that was killed had logged in to, before it recorded that.

    ``held`` is the volume whose lock the caller has: of others, somebody may be at work.
    """
    for mark in sorted(marks(session).glob("[!.]*,*")):  # not what a killed writer left
        target, _, portal = mark.name.rpartition(",")
        name = LunName.parse(f"{lun.SCHEME}{portal}/{target}/0")
        try:
            owner = mark.read_text().strip()
        except FileNotFoundError:  # another command's, which is done with it
            continue
        at_work = owner != held and session.running(owner) is not None
        if at_work or is_needed(session, name, None):
            continue
        try:
            release(session, name)
        except DmsnapError as error:
            log.warning("what %s was logged in to for is not let go: %s", owner, error)


# marks


def marks(session: Session) -> Path:
    return session.configuration.state_directory / "sessions"


def mark_of(session: Session, name: LunName) -> Path:
    """What says that the record is dmsnap's own, and for which volume it was made."""
    return marks(session) / f"{name.target},{name.portal}"


def is_ours(session: Session, name: LunName) -> bool:
    return mark_of(session, name).exists()
