"""Block devices and image files: what they are, opening them, who uses them, what they stand on."""

import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dmsnap.errors import (
    BusyError,
    DeadlineError,
    DmsnapError,
    NotFoundError,
    OperatingSystemError,
    ProgramError,
    ReadOnlyError,
)
from dmsnap.host import loop_ioctl, process, udev
from dmsnap.host.descriptor import opened
from dmsnap.host.lio import state
from dmsnap.host.mountinfo import (
    PROC,
    file_system_devno,
    mounts_elsewhere,
    mounts_of,
    swaps,
)
from dmsnap.host.run import run
from dmsnap.host.sysfs import SYSFS, Sysfs
from dmsnap.host.system_call import failure, system_call
from dmsnap.units import MIB

# linux/fs.h: both _IO(0x12, n), the same number on every architecture but alpha, mips, sparc, ppc.
BLKFLSBUF = 0x1261
BLKZEROOUT = 0x127F

# An overlay keeps the file systems of its layers, whatever is unmounted of them.
UNSEEN = "by the kernel (an overlay with a layer on it, say), or in a mount namespace not seen here"

# A signal waits for one piece.
ZERO_PIECE_BYTES = 64 * MIB

LET_GO_ATTEMPTS = 20
LET_GO_SECONDS = 0.2
UDEV_SECONDS = 1.0
_FLUSH_SECONDS = 86400.0


@dataclass(frozen=True, slots=True)
class BlockDevice:
    """A block device as it was when probed.

    ``path`` is the node with all links resolved; ``devno`` is ``os.makedev(major, minor)``.
    """

    path: Path
    devno: int
    size_bytes: int
    logical_block_bytes: int
    read_only: bool

    @classmethod
    def probe(cls, path: Path, *, sysfs: Sysfs = SYSFS) -> "BlockDevice":
        """Look at ``path`` through sysfs: nothing is opened, no privileges are needed.

        Raises ``NotFoundError`` when it does not exist or is no block device.
        """
        resolved, devno = _block_device(path)
        return cls(
            path=resolved,
            devno=devno,
            size_bytes=sysfs.size_bytes(devno),
            logical_block_bytes=sysfs.logical_block_bytes(devno),
            read_only=sysfs.read_only(devno),
        )


def _block_device(path: Path) -> tuple[Path, int]:
    with system_call(f"look at {path}"):
        resolved = path.resolve(strict=True)
        status = resolved.stat()
    if not stat.S_ISBLK(status.st_mode):
        raise NotFoundError(f"{path} is no block device", path=str(path))
    return resolved, status.st_rdev


def device_or_file_size(path: Path, *, sysfs: Sysfs = SYSFS) -> int:
    """The size in bytes of a block device or a regular file."""
    with system_call(f"look at {path}"):
        status = path.stat()
    if stat.S_ISREG(status.st_mode):
        return status.st_size
    return BlockDevice.probe(path, sysfs=sysfs).size_bytes


@contextmanager
def open_exclusive(path: Path, *, write: bool, direct: bool = True) -> Iterator[int]:
    """A descriptor of the block device that nobody else holds or mounts (O_EXCL).

    Raises ``BusyError`` naming the users, ``ReadOnlyError`` when ``write`` is impossible. Root.
    """
    flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_EXCL
    with _opened(path, flags, direct) as descriptor:
        if write and _is_read_only(descriptor):
            raise ReadOnlyError(str(path), "dmsnap")
        yield descriptor


@contextmanager
def open_shared(path: Path, *, write: bool = False, direct: bool = True) -> Iterator[int]:
    """A descriptor of a device or an image file, whoever else uses it.

    ``write`` only where another check stands for O_EXCL: the device is held by our own dm devices.
    """
    with _opened(path, os.O_RDWR if write else os.O_RDONLY, direct) as descriptor:
        yield descriptor


@contextmanager
def _opened(path: Path, flags: int, direct: bool) -> Iterator[int]:
    flags |= os.O_DIRECT if direct else 0
    with ExitStack() as stack:
        try:
            descriptor = _open(stack, path, flags)
        except OSError as error:
            raise _open_failure(path, flags, error.errno or errno.EIO) from error
        yield descriptor


def _open(stack: ExitStack, path: Path, flags: int) -> int:
    for _ in range(LET_GO_ATTEMPTS):
        try:
            return stack.enter_context(opened(path, flags))
        except OSError as error:
            if error.errno != errno.EBUSY or not may_be_let_go(BlockDevice.probe(path).devno):
                raise
    return stack.enter_context(opened(path, flags))


def may_be_let_go(devno: int, *, sysfs: Sysfs = SYSFS) -> bool:
    """Wait a little for a device that is busy; False where somebody is seen who stays.

    udev probes what was closed, and has the partition table of a whole disk read again (BLKRRPART,
    udevd's synthesize_change), for which the kernel claims the disk. What a command had under way
    with io_uring, the kernel lets go of some time after that command was killed.
    """
    if lasting_users(devno, sysfs=sysfs):
        return False
    if udev.is_running():
        # It may be busy with another disk that hangs: that is not waited for.
        with suppress(DeadlineError, ProgramError):
            udev.settle(UDEV_SECONDS)
    elif describe_users_of(devno, sysfs=sysfs):
        return False
    time.sleep(LET_GO_SECONDS)
    return True


def _is_read_only(descriptor: int) -> bool:
    """A read-only device can be opened for writing: only the writes fail (bdev_read_only)."""
    status = os.fstat(descriptor)
    return stat.S_ISBLK(status.st_mode) and SYSFS.read_only(status.st_rdev)


def _open_failure(path: Path, flags: int, errnum: int) -> DmsnapError:
    writing = flags & os.O_ACCMODE != os.O_RDONLY
    if errnum == errno.EBUSY:
        users = describe_users(BlockDevice.probe(path)) or UNSEEN
        return BusyError(f"{path} is in use: {users}", device=str(path), users=users)
    if writing and (errnum == errno.EROFS or (errnum == errno.EACCES and os.geteuid() == 0)):
        return ReadOnlyError(str(path), "dmsnap")
    return failure(f"open {path}", errnum)


def flush_buffers(path: Path) -> None:
    """Write back and drop the device's page cache (BLKFLSBUF). Root."""
    with open_shared(path, direct=False) as descriptor, system_call(f"flush {path}"):
        fcntl.ioctl(descriptor, BLKFLSBUF, 0)


def flush_cache(path: Path) -> None:
    """Have a device keep for good what was written to it: a FLUSH, after what is dirty. Root."""
    with open_shared(path, direct=False) as descriptor, system_call(f"flush {path}"):
        os.fdatasync(descriptor)


def flush_cache_apart(path: Path) -> None:
    """As :func:`flush_cache`, by a program: who waits for the flush of a disk that hangs cannot be
    ended, and whoever began this can.
    """
    with open_shared(path, direct=False):  # what fails of that is told as ever
        try:
            run("sync", "--data", "--", str(path), timeout_seconds=_FLUSH_SECONDS, reap_seconds=0)
        except ProgramError as error:
            raise OperatingSystemError(f"cannot flush {path}: {error}") from error


def holders(devno: int, sysfs: Sysfs = SYSFS) -> list[str]:
    """The kernel names of what lies directly on the device: dm and md devices."""
    return _named(sysfs.kernel_name, sysfs.holders(devno))


def slaves(devno: int, sysfs: Sysfs = SYSFS) -> list[str]:
    """The kernel names of what the device lies directly on."""
    return _named(sysfs.kernel_name, sysfs.slaves(devno))


def _named(name: Callable[[int], str], devnos: Iterable[int]) -> list[str]:
    """Names of devices; one that went away since it was listed has none."""
    names = []
    for devno in devnos:
        with suppress(NotFoundError):
            names.append(name(devno))
    return names


def depends_on(devno: int, other_devno: int, *, sysfs: Sysfs = SYSFS, proc: Path = PROC) -> bool:
    """Whether ``devno`` is, or at any depth lies on, ``other_devno``."""
    return any(other_devno in found for found in _layers([devno], sysfs, proc))


def all_below(devnos: Iterable[int], *, sysfs: Sysfs = SYSFS, proc: Path = PROC) -> set[int]:
    """Some devices, and at any depth what they lie on."""
    return set[int]().union(*_layers(devnos, sysfs, proc))


def _layers(devnos: Iterable[int], sysfs: Sysfs, proc: Path) -> Iterator[set[int]]:
    """Devices, and then those directly below one of them, until there is nothing new.

    Goes down through dm and md tables, from partitions to their disk, from loop devices to the
    file system of their backing file, and to all devices of a btrfs that has several.
    """
    layer = set(devnos)
    seen = set(layer)
    while layer:
        yield layer
        layer = set[int]().union(*(_below(each, sysfs, proc) for each in layer)) - seen
        seen |= layer


def file_depends_on(path: Path, devno: int, *, sysfs: Sysfs = SYSFS, proc: Path = PROC) -> bool:
    """Whether the file system that holds ``path`` lies on ``devno``."""
    below = file_system_devno(path, proc=proc)
    return below is not None and depends_on(below, devno, sysfs=sysfs, proc=proc)


def disks_below(devno: int, *, sysfs: Sysfs = SYSFS, proc: Path = PROC) -> set[int]:
    """What a device lies on in the end: disks, itself where it is one; not what is between."""
    pending, seen, disks = [devno], {devno}, set()
    while pending:
        each = pending.pop()
        below = {under for under in _below(each, sysfs, proc) if sysfs.exists(under)}
        if not below:
            disks.add(each)
        pending += below - seen
        seen |= below
    return disks


def _below(devno: int, sysfs: Sysfs, proc: Path) -> set[int]:
    # The number of a file system without a device (tmpfs) is in sysfs for none.
    if not sysfs.exists(devno):
        return set()
    below = {*sysfs.slaves(devno), *sysfs.btrfs_siblings(devno)}
    parent = sysfs.partition_parent(devno)
    if parent is not None:
        below.add(parent)
    backing_file = sysfs.loop_backing_file(devno)
    if backing_file is not None:
        below |= _below_loop(devno, Path(backing_file), sysfs, proc)
    return below


def _below_loop(devno: int, backing_file: Path, sysfs: Sysfs, proc: Path) -> set[int]:
    try:
        status = backing_file.stat()
    except OSError:
        # Deleted, or a path of another mount namespace: the loop driver knows the file system.
        return {loop_ioctl.status(sysfs.device_path(devno)).device}
    if stat.S_ISBLK(status.st_mode):
        return {status.st_rdev}
    below = file_system_devno(backing_file, proc=proc)
    # The number of a file system without a device (tmpfs) is in sysfs for none.
    return set() if below is None else {below}


def describe_users(device: BlockDevice, *, sysfs: Sysfs = SYSFS, proc: Path = PROC) -> str:
    """Who uses it: ``mounted on /srv, held by dm-3 (vg-lv)``; empty when nobody is found."""
    return describe_users_of(device.devno, sysfs=sysfs, proc=proc)


def describe_users_of(devno: int, *, sysfs: Sysfs = SYSFS, proc: Path = PROC) -> str:
    """``describe_users`` for a device that may have no node."""
    users = lasting_users(devno, sysfs=sysfs, proc=proc)
    if not users:
        openers = process.openers_of(devno, proc=proc)
        users = [f"open in {use.command} (pid {use.pid})" for use in openers]
        users += [f"published by LIO as {found.name}" for found in state.backstores_on(devno)]
    return ", ".join(users)


def lasting_users(devno: int, *, sysfs: Sysfs = SYSFS, proc: Path = PROC) -> list[str]:
    """The users that will not go away by themselves: mounts, devices above, swap space.

    The kernel gives nobody a disk whose partition is in use, nor a partition of a disk that is
    (bd_may_claim): their users count, and each is told of with where it is.
    """
    parent = sysfs.partition_parent(devno)
    related = sysfs.partitions(devno) if parent is None else [parent]
    users = _lasting_users_itself(devno, sysfs, proc)
    for other in related:
        with suppress(NotFoundError):  # a partition that is taken away meanwhile
            named = sysfs.display_name(other)
            users += [f"{user} ({named})" for user in _lasting_users_itself(other, sysfs, proc)]
    return users


def _lasting_users_itself(devno: int, sysfs: Sysfs, proc: Path) -> list[str]:
    users = [f"mounted on {mount.mount_point}" for mount in mounts_of(devno, proc=proc)]
    users += [f"held by {name}" for name in _named(sysfs.display_name, sysfs.holders(devno))]
    users += ["used as swap space"] * is_swap_space(devno, proc=proc)
    for pid, mount in mounts_elsewhere(devno, proc=proc):
        owner = f"{process.command_of(pid, proc=proc)} (pid {pid})"
        users.append(f"mounted on {mount.mount_point} in the mount namespace of {owner}")
    return users


def is_swap_space(devno: int, *, proc: Path = PROC) -> bool:
    """Whether the kernel swaps to the device now."""
    return any(_is_device(swap.path, devno) for swap in swaps(proc=proc))


def _is_device(path: Path, devno: int) -> bool:
    try:
        return path.stat().st_rdev == devno
    except OSError:
        return False


def clear_start(path: Path, length_bytes: int) -> None:
    """Write zeroes over the start of a device that nobody else uses, durably. Needs root."""
    opened = open_exclusive(path, write=True, direct=False)
    with opened as descriptor, system_call(f"clear the start of {path}"):
        os.pwrite(descriptor, bytes(length_bytes), 0)
        os.fsync(descriptor)


def write_zeroes(
    descriptor: int,
    offset_bytes: int,
    length_bytes: int,
    name: str,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Have a part of a device read as zeroes, durably (BLKZEROOUT): whole sectors of it.

    The device does that itself where it can; else the kernel writes them. ``progress`` is given
    the bytes that are done.
    """
    done = 0
    with system_call(f"write zeroes to {name}"):
        while done < length_bytes:
            piece = min(ZERO_PIECE_BYTES, length_bytes - done)
            fcntl.ioctl(descriptor, BLKZEROOUT, struct.pack("QQ", offset_bytes + done, piece))
            done += piece
            if progress is not None:
                progress(done)
        os.fdatasync(descriptor)
