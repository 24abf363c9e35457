"""Mounts that are at no place yet: fsopen(2), open_tree(2), and move_mount(2) that gives them one.

The C library has the calls from 2.36 on. Everything here raises ``DmsnapError`` where one is
missing or refuses. What was made and not moved is gone with its descriptor. Root.
"""

import ctypes
import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dmsnap.host.system_call import failure

FSOPEN_CLOEXEC = 1
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
FSMOUNT_CLOEXEC = 1
MOUNT_ATTR_RDONLY = 1
MOUNT_ATTR_NOSUID = 2
MOUNT_ATTR_NODEV = 4
MOUNT_ATTR_NOEXEC = 8
OPEN_TREE_CLONE = 1
MOVE_MOUNT_F_EMPTY_PATH = 4
MOVE_MOUNT_BENEATH = 0x200
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
MS_PRIVATE = 1 << 18

_LIBC = ctypes.CDLL(None, use_errno=True)


class _Attributes(ctypes.Structure):
    """``struct mount_attr``."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


@contextmanager
def made(fs_type: str, options: Mapping[str, str], attributes: int = 0) -> Iterator[int]:
    """A new file system of no device; a descriptor of its root.

    For such alone: to mount a device may hang, and what waits for it is to be a child.
    """
    context = _call("fsopen", fs_type.encode(), FSOPEN_CLOEXEC)
    try:
        for key, value in options.items():
            _call("fsconfig", context, FSCONFIG_SET_STRING, key.encode(), value.encode(), 0)
        _call("fsconfig", context, FSCONFIG_CMD_CREATE, None, None, 0)
        root = _call("fsmount", context, FSMOUNT_CLOEXEC, attributes)
    finally:
        os.close(context)
    try:
        yield root
    finally:
        os.close(root)


@contextmanager
def cloned(place: Path) -> Iterator[int]:
    """The mount seen at ``place`` once more, with its options; a descriptor of its root."""
    root = _call("open_tree", AT_FDCWD, os.fsencode(place), OPEN_TREE_CLONE | os.O_CLOEXEC)
    try:
        yield root
    finally:
        os.close(root)


def make_read_only(root: int) -> None:
    """For a mount that ``root`` is a descriptor of: its file system stays what it is."""
    wanted = _Attributes(attr_set=MOUNT_ATTR_RDONLY)
    size_bytes = ctypes.sizeof(wanted)
    _call("mount_setattr", root, b"", AT_EMPTY_PATH, ctypes.byref(wanted), size_bytes)


def make_private(place: Path) -> None:
    """What is mounted in the mount seen at ``place`` appears in no other name space from here on.

    What is mounted there already stays what it is.
    """
    _call("mount", None, os.fsencode(place), None, ctypes.c_ulong(MS_PRIVATE), None)


def move_beneath(root: int, place: Path) -> None:
    """Mount what is mounted nowhere beneath the mount that is seen at ``place`` (Linux 6.5)."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_BENEATH
    _call("move_mount", root, b"", AT_FDCWD, os.fsencode(place), flags)


def _call(name: str, *arguments: object) -> int:
    function = getattr(_LIBC, name, None)
    if function is None:
        raise failure(f"call {name}", errno.ENOSYS)
    result: int = function(*arguments)
    if result < 0:
        raise failure(f"call {name}", ctypes.get_errno())
    return result
