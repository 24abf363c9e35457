"""Loop devices and mounts of scenarios, by the kernel's own interfaces (linux/loop.h, mount(2)).

A program that starts costs a guest as much as a small test: every page of it is a fault, and every
fault several switches between processes of the host. What those programs do is not what is tested.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path

from dmsnap.host import mountinfo
from dmsnap.host.loop_ioctl import (
    LO_FLAGS_DIRECT_IO,
    LOOP_CLR_FD,
    LOOP_CONFIGURE,
    LOOP_CTL_GET_FREE,
    LoopConfig,
)
from dmsnap.host.mount import try_unmount

FILE_NAME_BYTES = 63

LIBC = ctypes.CDLL(None, use_errno=True)


def attach(image: Path, sector_bytes: int) -> str:
    """A loop device over the whole of ``image``, which is read and written past the page cache."""
    with image.open("r+b") as backing:
        config = LoopConfig(fd=backing.fileno(), block_size=sector_bytes)
        config.info.lo_flags = LO_FLAGS_DIRECT_IO
        config.info.lo_file_name = os.fsencode(image)[:FILE_NAME_BYTES]
        while True:
            with open("/dev/loop-control", "r+b", buffering=0) as control:
                loop = f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
            try:
                with open(loop, "r+b", buffering=0) as device:
                    fcntl.ioctl(device, LOOP_CONFIGURE, config)
            except OSError as error:
                if error.errno != errno.EBUSY:  # then another process was faster to it
                    raise
            else:
                return loop


def detach(names: Iterable[str]) -> None:
    """Let go of loop devices; of those that are open the kernel does when they are closed."""
    for name in names:
        with contextlib.suppress(OSError), open(f"/dev/{name}", "rb", buffering=0) as device:
            fcntl.ioctl(device, LOOP_CLR_FD)


def mount(device: str, place: Path, fs_type: str) -> None:
    """Mount as mount(8) does without options."""
    arguments = (os.fsencode(device), os.fsencode(place), fs_type.encode(), 0, None)
    if LIBC.mount(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(place))


def unmount(place: Path) -> None:
    """Unmount what is mounted there and below, what came last first; who cannot is left."""
    mounted = [mount.mount_point for mount in mountinfo.mounts()]
    for path in reversed([each for each in mounted if each.is_relative_to(place)]):
        try_unmount(path, 0)
