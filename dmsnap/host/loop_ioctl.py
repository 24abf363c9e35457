"""The loop driver's ioctls and their structures (linux/loop.h)."""

import ctypes
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from dmsnap.host.descriptor import opened
from dmsnap.host.system_call import system_call

LOOP_CLR_FD = 0x4C01
LOOP_GET_STATUS64 = 0x4C05
LOOP_SET_CAPACITY = 0x4C07
LOOP_CONFIGURE = 0x4C0A
LOOP_CTL_GET_FREE = 0x4C82

LO_FLAGS_READ_ONLY = 1
LO_FLAGS_DIRECT_IO = 16

LOOP_MAJOR = 7


class LoopInfo64(ctypes.Structure):
    """``struct loop_info64``."""

    _fields_ = (
        ("lo_device", ctypes.c_uint64),
        ("lo_inode", ctypes.c_uint64),
        ("lo_rdevice", ctypes.c_uint64),
        ("lo_offset", ctypes.c_uint64),
        ("lo_sizelimit", ctypes.c_uint64),
        ("lo_number", ctypes.c_uint32),
        ("lo_encrypt_type", ctypes.c_uint32),
        ("lo_encrypt_key_size", ctypes.c_uint32),
        ("lo_flags", ctypes.c_uint32),
        ("lo_file_name", ctypes.c_char * 64),
        ("lo_crypt_name", ctypes.c_char * 64),
        ("lo_encrypt_key", ctypes.c_ubyte * 32),
        ("lo_init", ctypes.c_uint64 * 2),
    )


class LoopConfig(ctypes.Structure):
    """``struct loop_config``."""

    _fields_ = (
        ("fd", ctypes.c_uint32),
        ("block_size", ctypes.c_uint32),
        ("info", LoopInfo64),
        ("reserved", ctypes.c_uint64 * 8),
    )


@dataclass(frozen=True, slots=True)
class LoopStatus:
    """The backing file: its ``st_dev`` and ``st_ino``; and the ``LO_FLAGS``."""

    device: int
    inode: int
    flags: int


def status(path: Path) -> LoopStatus:
    """What an attached loop device stands on; ``NotFoundError`` (ENXIO) when it is free. Root."""
    info = LoopInfo64()
    asking = f"ask {path} for its backing file"
    with system_call(asking), opened(path, os.O_RDONLY) as descriptor:
        fcntl.ioctl(descriptor, LOOP_GET_STATUS64, info)
    # huge_encode_dev() of the kernel is how glibc's dev_t looks for majors under 4096.
    return LoopStatus(int(info.lo_device), int(info.lo_inode), int(info.lo_flags))


def configure(descriptor: int, backing: int, flags: int, name: str) -> None:
    """Attach ``backing`` to the open loop device (Linux 5.8).

    Raises ``OSError``, with EBUSY when the device is not free.
    """
    config = LoopConfig()
    config.fd = backing
    config.info.lo_flags = flags
    config.info.lo_file_name = os.fsencode(name)[:63]
    fcntl.ioctl(descriptor, LOOP_CONFIGURE, config)
