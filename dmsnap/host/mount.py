"""Mounting and unmounting. Root."""

import ctypes
import errno
import os
import re
import select
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dmsnap.errors import BusyError, CorruptError
from dmsnap.host.descriptor import opened
from dmsnap.host.mountinfo import (
    PROC,
    Mount,
    Swap,
    mount_at,
    mounts,
    mounts_elsewhere,
    swaps,
)
from dmsnap.host.process import ProcessUse, command_of, users_of
from dmsnap.host.run import run
from dmsnap.host.sysfs import SYSFS
from dmsnap.host.system_call import failure, system_call

__all__ = [
    "Mount",
    "ProcessUse",
    "Swap",
    "bind",
    "detach",
    "mount",
    "mount_options",
    "mounts_below",
    "submounts",
    "swaps",
    "try_unmount",
    "unmount",
    "users_of",
    "whole_root",
]

MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8
RETRY_SECONDS = 0.1

# What Linux calls file systems that lie on a device.
_FS_TYPE = re.compile(r"[A-Za-z0-9_-]+")

_LIBC = ctypes.CDLL(None, use_errno=True)

# Shown in mountinfo, but state and not options: mount(8) would be refused with them, or, like
# attr2, they are the only behaviour left and the option is going away (xfs, Linux 6.18).
_NOT_OPTIONS = frozenset({"seclabel", "idmapped", "emergency_ro", "shutdown", "attr2"})


def mount(source: Path, target: Path, fs_type: str, options: Sequence[str] = ()) -> None:
    """Mount with util-linux, so that what it records (utab) stays right.

    Raises ``ProgramError`` quoting mount(8), and ``CorruptError`` for a type that a label or a
    backup has and no file system: by ``fuse.NAME`` mount(8) would run the program of that name.
    """
    if not _FS_TYPE.fullmatch(fs_type):
        raise CorruptError(f"{fs_type!r} is no type of a file system")
    arguments = ["-o", ",".join(options)] if options else []
    run("mount", "-t", fs_type, *arguments, "--", str(source), str(target))


def bind(source: Path, target: Path, options: Sequence[str] = ()) -> None:
    """Mount what is seen at ``source`` at ``target`` as well, with the options of the mount there.

    ``options`` are those of a mount, not of a file system: ``ro``, ``nosuid``…
    """
    arguments = ["-o", ",".join(("bind", *options))] if options else ["--bind"]
    run("mount", *arguments, "--", str(source), str(target))


def detach(target: Path) -> None:
    """Take the mount seen at ``target`` out of the tree; who uses it goes on (umount -l).

    Only for what is mounted elsewhere, too, or not needed any more: the file system itself stays in
    use until the last of its users is gone, and nobody waits for that here.
    """
    if errnum := try_unmount(target, MNT_DETACH | UMOUNT_NOFOLLOW):
        raise failure(f"detach {target}", errnum, _reason(errnum))


@contextmanager
def opened_root(entry: Mount) -> Iterator[int]:
    """A descriptor of the directory where ``entry`` is seen, else ``BusyError``."""
    with ExitStack() as stack:
        with system_call(f"open {entry.mount_point}"):
            opening = opened(entry.mount_point, os.O_RDONLY | os.O_DIRECTORY)
            descriptor = stack.enter_context(opening)
        top = mount_at(entry.mount_point)
        if top is None or top.mount_id != entry.mount_id:
            raise BusyError(f"something else is mounted over {entry.mount_point}")
        yield descriptor


def try_unmount(target: Path, flags: int = UMOUNT_NOFOLLOW) -> int:
    """0 or the errno: umount(8) would tell EBUSY from other failures by text only."""
    result: int = _LIBC.umount2(os.fsencode(target), flags)
    return ctypes.get_errno() if result else 0


def unmount(
    target: Path, deadline_seconds: float = 10, attempt: Callable[[Path], int] = try_unmount
) -> None:
    """Unmount what is seen at ``target``; never lazily. ``attempt`` is how, once.

    EBUSY is tried again until the deadline: a file being closed or a process being reaped is
    nothing that the kernel announces. What it does announce, a change of the mount table, cuts the
    interval short. Then ``BusyError`` names the processes and the mounts below.
    """
    ends = time.monotonic() + deadline_seconds
    with _mount_table_changes() as changes:
        while (errnum := attempt(target)) == errno.EBUSY:
            remaining = ends - time.monotonic()
            if remaining <= 0:
                raise _busy(target)
            changes.poll(1000 * min(RETRY_SECONDS, remaining))
    if errnum:
        raise failure(f"unmount {target}", errnum, _reason(errnum))


def _reason(errnum: int) -> str | None:
    return "it is no mount point" if errnum == errno.EINVAL else None


@contextmanager
def _mount_table_changes() -> Iterator[select.poll]:
    """Poll mountinfo: POLLPRI when the namespace's mount table changed (proc(5))."""
    with system_call("watch the mount table"):
        descriptor = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
    try:
        changes = select.poll()
        changes.register(descriptor, select.POLLPRI)
        yield changes
    finally:
        os.close(descriptor)


def _busy(target: Path) -> BusyError:
    users: list[object] = [*users_of(target)]
    users += [f"the mount {below.mount_point}" for below in submounts(target)]
    users += [f"the swap file {swap.path}" for swap in swaps() if swap.path.is_relative_to(target)]
    users += [
        f"/dev/{name} over {file}"
        for name, file in SYSFS.loops().items()
        if Path(file).is_relative_to(target)
    ]
    named = ", ".join(str(user) for user in users or _users_elsewhere(target))
    named = named or "the kernel (an overlay, an NFS export) or another mount namespace"
    return BusyError(f"{target} is kept busy by {named}", mount_point=str(target), users=named)


def _users_elsewhere(target: Path) -> list[str]:
    """Who is in another mount namespace that has the same file system mounted."""
    top = mount_at(target)
    found = mounts_elsewhere(top.devno) if top is not None else []
    return [
        f"{command_of(pid)} (pid {pid}), in whose mount namespace it is {entry.mount_point}"
        for pid, entry in found
    ]


def submounts(mount_point: Path, *, proc: Path = PROC) -> list[Mount]:
    """The mounts below what is seen at ``mount_point``, in an order in which to unmount them."""
    top = mount_at(mount_point, proc=proc)
    return mounts_below(top, proc=proc) if top else []


def mounts_below(entry: Mount, *, proc: Path = PROC) -> list[Mount]:
    """As :func:`submounts`, and what covers ``entry`` at its own mount point."""
    return list(_below(mounts(proc=proc), entry.mount_id))


def _below(table: Sequence[Mount], mount_id: int) -> Iterator[Mount]:
    for child in reversed([entry for entry in table if entry.parent_id == mount_id]):
        if child.mount_id != mount_id:
            yield from _below(table, child.mount_id)
            yield child


def whole_root(entry: Mount) -> str:
    """The directory that a mount of the whole file system shows: of btrfs its subvolume."""
    options = (option.partition("=") for option in entry.super_options)
    found = next((value for name, _, value in options if name == "subvol"), "/")
    return found if entry.fs_type == "btrfs" else "/"


def mount_options(entry: Mount, *, asked: bool = False) -> list[str]:
    """An option list for ``mount -o`` that makes the same mount of the same file system again.

    The flags of the mount come first, then the file system's. ``ro`` of either makes it read-only;
    of the options kept in utab (``x-systemd…``, ``_netdev``) the kernel knows nothing.

    ``asked``: as it was mounted by somebody, for another device in its place. mount(8) has both
    read-only; after an error the kernel has the file system alone (ext4_handle_error).
    """
    access = "ro" if (("ro" in entry.options) if asked else entry.read_only) else "rw"
    # The kernel's default is relatime: a mount that shows neither was made with strictatime.
    atime = [] if {"noatime", "relatime"} & set(entry.options) else ["strictatime"]
    rest = [*entry.options, *entry.super_options]
    kept = [option for option in rest if _is_option(option)]
    return list(dict.fromkeys([access, *atime, *kept]))


def _is_option(option: str) -> bool:
    return option not in _NOT_OPTIONS and option not in ("ro", "rw")
