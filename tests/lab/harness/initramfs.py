"""An initial RAM disk: a cpio archive in the kernel's "newc" form.

Source: Documentation/driver-api/early-userspace/buffer-format.rst of Linux.
"""

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Entry:
    """A regular file; its directories come by themselves."""

    name: str
    mode: int
    data: bytes


def _record(number: int, name: str, mode: int, data: bytes) -> bytes:
    encoded = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    # inode, mode, uid, gid, links, mtime, size, major and minor of the device and of a special
    # file's device, length of the name, checksum
    fields = (number, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % value for value in fields)
    return _padded(header + encoded) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _directories(entries: Iterable[Entry]) -> Iterator[str]:
    parents = {str(each) for entry in entries for each in PurePosixPath(entry.name).parents}
    yield from sorted(parents - {"."})


def archive(entries: list[Entry]) -> bytes:
    """Return the archive of `entries`, not compressed: an emulated processor is slow at that."""
    directories = [(name, stat.S_IFDIR | 0o755, b"") for name in _directories(entries)]
    files = [(entry.name, stat.S_IFREG | entry.mode, entry.data) for entry in entries]
    records = [_record(number, *each) for number, each in enumerate([*directories, *files], 1)]
    return b"".join([*records, _record(0, TRAILER, 0, b"")])
