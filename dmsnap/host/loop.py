"""Loop devices and the files below them. Root."""

import errno
import fcntl
import os
import stat
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from dmsnap.errors import (
    BusyError,
    ForeignDeviceError,
    NoSpaceError,
    NotFoundError,
    OperatingSystemError,
)
from dmsnap.host import loop_ioctl
from dmsnap.host.blockdev import BlockDevice, describe_users
from dmsnap.host.descriptor import opened
from dmsnap.host.replacement import sync_directory
from dmsnap.host.run import run
from dmsnap.host.sysfs import SYSFS, Sysfs
from dmsnap.host.system_call import failure, system_call
from dmsnap.host.udev import wait_for_uevent

CONTROL = Path("/dev/loop-control")
ATTEMPTS = 16

# <linux/fs.h>. By these numbers the argument is a long; the kernel takes and gives an int.
FS_IOC_GETFLAGS = 0x80086601
FS_IOC_SETFLAGS = 0x40086602
FS_NOCOW_FL = 0x00800000


def attach(file: Path, *, direct_io: bool = True, read_only: bool = False) -> BlockDevice:
    """A loop device over the whole of ``file``; it stays until ``detach`` (no autoclear).

    ``direct_io`` is a wish: the driver falls back to the page cache where the file system cannot.
    Raises ``NotFoundError``, ``NotPermittedError``, ``OperatingSystemError``, and
    ``ForeignDeviceError`` for what is no regular file.
    """
    flags = loop_ioctl.LO_FLAGS_DIRECT_IO if direct_io else 0
    flags |= loop_ioctl.LO_FLAGS_READ_ONLY if read_only else 0
    mode = os.O_RDONLY if read_only else os.O_RDWR
    with _backing_file(file, mode) as backing:
        # Between GET_FREE and CONFIGURE another process can take the device: ask for the next
        # one then. This is no waiting, and ATTEMPTS losses in a row are a fault elsewhere.
        for _ in range(ATTEMPTS):
            path = _free_device()
            if _configured(path, backing, flags, file):
                return BlockDevice.probe(path)
    raise OperatingSystemError(f"cannot attach {file}: every free loop device was taken by others")


def _configured(path: Path, backing: int, flags: int, file: Path) -> bool:
    """False when somebody else was faster."""
    mode = os.O_RDONLY if flags & loop_ioctl.LO_FLAGS_READ_ONLY else os.O_RDWR
    with _descriptor(path, mode) as descriptor:
        try:
            loop_ioctl.configure(descriptor, backing, flags, str(file))
        except OSError as error:
            if error.errno == errno.EBUSY:
                return False
            raise failure(f"attach {file} to {path}", error.errno or errno.EIO) from error
    return True


def _free_device() -> Path:
    if not CONTROL.exists():
        run("modprobe", "loop")
    with _descriptor(CONTROL, os.O_RDWR) as control, system_call("find a free loop device"):
        number = fcntl.ioctl(control, loop_ioctl.LOOP_CTL_GET_FREE)
    path = Path(f"/dev/loop{number}")
    if not path.exists():  # neither devtmpfs nor udev
        with system_call(f"make the node {path}"):
            os.mknod(path, stat.S_IFBLK | 0o660, os.makedev(loop_ioctl.LOOP_MAJOR, number))
    return path


@contextmanager
def _backing_file(path: Path, flags: int) -> Iterator[int]:
    """A descriptor of a regular file, not of what a link leads to: stores may lie in directories
    that others can write to.
    """
    with _descriptor(path, flags | os.O_NOFOLLOW) as descriptor:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ForeignDeviceError(f"{path} is no regular file: dmsnap did not make it")
        yield descriptor


@contextmanager
def _descriptor(path: Path, flags: int) -> Iterator[int]:
    with ExitStack() as stack:
        with system_call(f"open {path}"):
            descriptor = stack.enter_context(opened(path, flags))
        yield descriptor


def detach(path: Path, *, deadline_seconds: float = 10, sysfs: Sysfs = SYSFS) -> None:
    """Detach the loop device and wait until the driver let go of the file.

    While somebody has it open, the driver only marks it to be cleared at the last close: waits for
    its uevent, then raises ``BusyError`` naming the users. A free device is no error.
    """
    device = BlockDevice.probe(path, sysfs=sysfs)
    if sysfs.loop_backing_file(device.devno) is None:
        return
    with _descriptor(path, os.O_RDONLY) as descriptor:
        try:
            fcntl.ioctl(descriptor, loop_ioctl.LOOP_CLR_FD)
        except OSError as error:
            if error.errno != errno.ENXIO:  # cleared by somebody else meanwhile
                raise failure(f"detach {path}", error.errno or errno.EIO) from error

    def gone() -> bool:
        return sysfs.loop_backing_file(device.devno) is None

    if not gone() and not wait_for_uevent(gone, deadline_seconds):
        users = describe_users(device, sysfs=sysfs) or "nobody to be seen from here"
        raise BusyError(
            f"{path} is still in use ({users}); the kernel will detach it at the last close",
            device=str(path),
        )


def find(file: Path, *, sysfs: Sysfs = SYSFS) -> Path | None:
    """The loop device that ``file`` is attached to, known by file system and inode; or None.

    The path that sysfs has may be that of another name, or of another mount namespace: the devices
    with this one are only asked first.
    """
    with system_call(f"look at {file}"):
        wanted = file.stat()
    files = sysfs.loops()
    for name in sorted(files, key=lambda each: files[each] != str(file)):
        path = Path("/dev", name)
        try:
            status = loop_ioctl.status(path)
        except NotFoundError:  # detached by somebody since it was listed
            continue
        if (status.device, status.inode) == (wanted.st_dev, wanted.st_ino):
            return path
    return None


def is_same_file(devno: int, other_devno: int, *, sysfs: Sysfs = SYSFS) -> bool:
    """Whether two loop devices stand on one file; False for what is none. Root."""
    if not (sysfs.loop_backing_file(devno) and sysfs.loop_backing_file(other_devno)):
        return False
    try:
        first, second = (
            loop_ioctl.status(sysfs.device_path(each)) for each in (devno, other_devno)
        )
    except NotFoundError:  # detached just now
        return False
    return (first.device, first.inode) == (second.device, second.inode)


def grow(file: Path, size_bytes: int) -> None:
    """Allocate more behind a file's end, and have its loop device show it, whoever uses it.

    Raises as ``create_backing_file`` does; the file keeps its size then. One at a time, since the
    service does so beside commands: to put a size back that another has changed would cut off what
    a device is used for by then.
    """
    with _backing_file(file, os.O_RDWR) as descriptor:
        with system_call(f"lock {file}"):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        before_bytes = os.fstat(descriptor).st_size
        try:
            _allocate(descriptor, file, before_bytes, size_bytes)
        except BaseException:
            os.ftruncate(descriptor, before_bytes)
            raise
        _follow(file)


def _follow(file: Path) -> None:
    """Have a file's loop device, where it has one, be as large as the file."""
    device = find(file)
    if device is not None:
        with _descriptor(device, os.O_RDWR) as descriptor, system_call(f"resize {device}"):
            fcntl.ioctl(descriptor, loop_ioctl.LOOP_SET_CAPACITY)


def create_backing_file(path: Path, size_bytes: int) -> None:
    """A new file (0600) whose every block is allocated, durable when this returns.

    Allocated, because a sparse file on a full file system would lose writes that the block device
    has promised. Raises ``NoSpaceError``, ``OperatingSystemError``; no file is left then.
    """
    with system_call(f"create {path}"):
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
    try:
        _overwrite_in_place(descriptor)
        _allocate(descriptor, path, 0, size_bytes)
        sync_directory(path.parent)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _overwrite_in_place(descriptor: int) -> None:
    """Where a file system copies on write (btrfs), what is allocated must be what is written to."""
    flags = array("i", [0, 0])
    with suppress(OSError):  # others have no such flag, and no need of it
        fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, flags)
        flags[0] |= FS_NOCOW_FL
        fcntl.ioctl(descriptor, FS_IOC_SETFLAGS, flags)


def _allocate(descriptor: int, path: Path, begin_bytes: int, size_bytes: int) -> None:
    """Every block from ``begin_bytes`` to the new size; what is before may be in use.

    Where the file system knows no fallocate(2), glibc reads a byte of each block and writes it back
    instead: a loop device that wrote there in between would lose that.
    """
    try:
        if begin_bytes < size_bytes:
            os.posix_fallocate(descriptor, begin_bytes, size_bytes - begin_bytes)
        os.fsync(descriptor)
    except OSError as error:
        errnum = error.errno or errno.EIO
        if errnum in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise NoSpaceError(
                f"{path.parent} has no room for a file of {size_bytes} bytes",
                path=str(path),
                size_bytes=size_bytes,
            ) from error
        raise failure(f"allocate {size_bytes} bytes for {path}", errnum) from error
