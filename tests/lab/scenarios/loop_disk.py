"""Loop devices and mounts of scenarios, by the kernel's own interfaces (linux/loop.h, mount(2)).

A program that starts costs a guest as much as a small test: every page of it is a fault, and every
fault several switches between processes of the host. None of it is dmsnap's code, which is tested.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from dmsnap.host import mountinfo

LOOP_CLR_FD = 0x4C01
LOOP_CONFIGURE = 0x4C0A
LOOP_CTL_GET_FREE = 0x4C82
LO_FLAGS_DIRECT_IO = 16
# struct loop_config: fd and block_size, then struct loop_info64, where the ninth number is lo_flags
# and the first text lo_file_name, then what is reserved.
LOOP_CONFIG = struct.Struct("=II 5Q 4I 64s 64s 32s 2Q 8Q")
FILE_NAME_BYTES = 63

LIBC = ctypes.CDLL(None, use_errno=True)


def attach(image: Path, sector_bytes: int) -> str:
    """A loop device over the whole of ``image``, which is read and written past the page cache."""
    name = os.fsencode(image)[:FILE_NAME_BYTES]
    with image.open("r+b") as backing:
        info = (*[0] * 8, LO_FLAGS_DIRECT_IO, name, b"", b"", *[0] * 2)
        config = LOOP_CONFIG.pack(backing.fileno(), sector_bytes, *info, *[0] * 8)
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
        LIBC.umount2(os.fsencode(path), 0)
