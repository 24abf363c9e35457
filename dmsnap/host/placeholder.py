"""What is seen at a mount point while what was mounted there is not: nothing, and nobody can write.

Without it the directory below is seen, of another file system, and who does not wait writes there:
what is then mounted over it hides that. A placeholder is a tmpfs that is read-only, closed to who
is not root, and has room for no file. It is put beneath what is to be unmounted
(``MOVE_MOUNT_BENEATH``, Linux 6.5), and what is mounted next is put beneath the placeholder, which
then goes: the mount point shows the one, the placeholder, the other, and never what lies below.

Where the kernel refuses (an older one; the mount point is a file, or the root of a chroot), what
lies below is seen meanwhile. Root.
"""

import errno
import logging
import os
import re
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from uuid import UUID

from dmsnap.errors import BusyError, DmsnapError
from dmsnap.host import kernel, mount, mount_tree, mountinfo
from dmsnap.host.dm.state import UUID_PREFIX
from dmsnap.host.mountinfo import Mount
from dmsnap.host.signals import held_back
from dmsnap.host.system_call import system_call

log = logging.getLogger(__name__)

# The directory of a placeholder where what comes next is mounted, to be put beneath it from there.
STAGE = ".dmsnap-next"

_FS_TYPE = "tmpfs"
_PART = "-placeholder-"
_SOURCE = re.compile(rf"{UUID_PREFIX}[0-9a-f-]{{36}}{_PART}(.+)")
# Its root and the stage are all that it may ever hold.
_OPTIONS = {"mode": "0", "size": "4k", "nr_inodes": "2"}
_FULL = "nr_inodes=2"
_MNT_EXPIRE = 4
_STAGE_SECONDS = 2.0


def source(volume_id: UUID, name: str) -> str:
    """What a placeholder of a volume is known by; findmnt(8) shows it as its source."""
    return f"{UUID_PREFIX}{volume_id}{_PART}{name}"


def is_placeholder(entry: Mount) -> bool:
    """Whether a mount is a placeholder, of whatever volume.

    Its source alone could be anybody's; what has no room for a file either is nothing to lose.
    """
    return _holds_for(entry) is not None


def _holds_for(entry: Mount) -> str | None:
    """The name of the volume; None: it is no placeholder."""
    found = _SOURCE.fullmatch(entry.source)
    is_one = entry.fs_type == _FS_TYPE and _FULL in entry.super_options
    return found[1] if found and is_one else None


def parts(table: Sequence[Mount]) -> set[int]:
    """The mount ids of all placeholders and of what is mounted in their stages."""
    placeholders = {entry.mount_id for entry in table if is_placeholder(entry)}
    staged = [entry for entry in table if entry.mount_point.name == STAGE]
    return placeholders | {each.mount_id for each in staged if each.parent_id in placeholders}


def lies_on(place: Path) -> bool:
    """Whether a placeholder is what is seen at ``place``."""
    top = mountinfo.mount_at(place)
    return top is not None and is_placeholder(top)


def unmount(place: Path, held_as: str, deadline_seconds: float) -> None:
    """As :func:`mount.unmount`, and leave a placeholder where it was, known by ``held_as``.

    One that was put beneath what then cannot be unmounted stays there, where it is not seen, and is
    the one that is left next time: only who unmounts what covers it could take it away.
    """
    if is_possible():
        mount.unmount(place, deadline_seconds, partial(_attempt, held_as))
    else:
        mount.unmount(place, deadline_seconds)


def is_possible() -> bool:
    """Whether the kernel may know how to put a mount beneath another."""
    return kernel.version() >= (6, 5)


def _attempt(held_as: str, place: Path) -> int:
    """Unmount now, or say by which errno that fails. A signal waits until it is through."""
    with held_back():
        if (errnum := _use(place)) != errno.EAGAIN:
            return errnum
        _put_beneath(place, held_as)
        return mount.try_unmount(place)


def _use(place: Path) -> int:
    """EAGAIN: the mount seen there is idle; else why not, or 0: it is unmounted (umount2(2)).

    MNT_EXPIRE marks an idle mount, and unmounts one that is marked; to open it takes a mark away
    that somebody left. Of users in other name spaces it knows nothing.
    """
    try:
        os.close(os.open(place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError as error:
        return error.errno or errno.EIO
    return mount.try_unmount(place, _MNT_EXPIRE | mount.UMOUNT_NOFOLLOW)


def _put_beneath(place: Path, held_as: str) -> None:
    """A placeholder beneath the mount seen at ``place``, unless there is one, or none can be."""
    if _is_beneath(place):
        return
    options = {"source": held_as, **_OPTIONS}
    closed = mount_tree.MOUNT_ATTR_NOSUID | mount_tree.MOUNT_ATTR_NODEV
    closed |= mount_tree.MOUNT_ATTR_NOEXEC
    try:
        with mount_tree.made(_FS_TYPE, options, closed) as root, system_call(f"make {STAGE}"):
            os.mkdir(STAGE, 0, dir_fd=root)
            mount_tree.make_read_only(root)
            mount_tree.move_beneath(root, place)
    except DmsnapError as error:
        log.debug("what lies below %s is seen while nothing is mounted there: %s", place, error)


def _is_beneath(place: Path) -> bool:
    top = mountinfo.mount_at(place)
    below = top.parent_id if top else None
    return any(each.mount_id == below and is_placeholder(each) for each in mountinfo.mounts())


def mount_at(place: Path, mount_it: Callable[[Path], None]) -> None:
    """Have ``mount_it`` mount at ``place``; where a placeholder is seen there, in place of that.

    It is then called with another directory, from where what it mounted is put beneath. What it
    raises leaves the placeholder as it was.
    """
    if lies_on(place) and _is_staging(place):
        mount_it(place / STAGE)
        if _took_its_place(place):
            return
    lift(place)
    mount_it(place)


def _is_staging(place: Path) -> bool:
    """Whether the placeholder is ready for what is to come: of no other name space."""
    try:
        _clear_stage(place)
        mount_tree.make_private(place)
    except DmsnapError as error:
        log.debug("the placeholder at %s goes before it is replaced: %s", place, error)
        return False
    return True


def _took_its_place(place: Path) -> bool:
    """With the clone of a mount: one that is in the placeholder cannot be moved beneath that."""
    try:
        with mount_tree.cloned(place / STAGE) as root:
            mount_tree.move_beneath(root, place)
    except DmsnapError as error:
        log.debug("nothing can be put beneath the placeholder at %s: %s", place, error)
        return False
    lift(place)
    return True


def lift(place: Path) -> None:
    """Take away a placeholder that is seen at ``place``; who is in it does not keep it."""
    if lies_on(place):
        _clear_stage(place)
        mount.detach(place)


def _clear_stage(place: Path) -> None:
    """Nothing stays mounted inside: who has looked into it lets go in a moment."""
    stage = place / STAGE
    while mountinfo.mount_at(stage) is not None:
        try:
            mount.unmount(stage, _STAGE_SECONDS)
        except BusyError as error:
            log.warning("%s", error)
            mount.detach(stage)


def remove(names: Collection[str]) -> None:
    """Take away the placeholders of volumes that are seen; nothing of it fails who asks for it.

    For the end of a command: what it has not mounted by then, it leaves unmounted.
    """
    if not is_possible():
        return
    with held_back():
        for entry in mountinfo.mounts(_PART):
            if _holds_for(entry) not in names or mountinfo.mount_at(entry.mount_point) != entry:
                continue
            try:
                lift(entry.mount_point)
            except DmsnapError as error:
                log.warning("a placeholder is left at %s: %s", entry.mount_point, error)
