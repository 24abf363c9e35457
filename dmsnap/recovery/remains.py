"""What a recovery volume still holds after it went back to its pool, and whether it was used since.

Only the label is wiped: the file system of the replica stays, and looks like anybody's. It may be
overwritten as long as it is certainly what was left there, so that a mark of it is recorded: a
digest of what the file system writes to whenever it is mounted to be written to.
"""

import hashlib
import mmap
import os
import struct
from pathlib import Path

from dmsnap.catalogue import released
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.released import Released
from dmsnap.catalogue.store import Catalogue
from dmsnap.host import inventory
from dmsnap.host.blockdev import BlockDevice, open_shared
from dmsnap.host.signature import Signature
from dmsnap.host.system_call import system_call
from dmsnap.units import MIB

# The superblocks of all that are known lie in it, with whatever each mount and commit changes:
# ext4's counts mounts and has the time of the last one, btrfs's has the generation, XFS's since
# version 5 the LSN of its last change.
MARKED_BYTES = MIB
KNOWN = ("ext2", "ext3", "ext4", "xfs", "btrfs")

_XFS_VERSION = struct.Struct(">H")
_XFS_VERSION_OFFSET = 100
_XFS_VERSION_MASK = 0xF
_XFS_WITH_LSN = 5


def mark_of(path: Path, content: Signature | None) -> str | None:
    """The mark of a device that holds ``content``, read past the page cache.

    None where a use of it would not certainly be seen: for other file systems, and for whatever
    others may manage in it.
    """
    if content is None or content.fs_type not in KNOWN or content.partition_table is not None:
        return None
    start = _start(path)
    unclear = content.fs_type == "xfs" and not _has_lsn(start)
    if len(start) < MARKED_BYTES or unclear:
        return None
    return hashlib.sha256(start).hexdigest()


def _has_lsn(start: bytes) -> bool:
    if len(start) < _XFS_VERSION_OFFSET + _XFS_VERSION.size:
        return False
    (version,) = _XFS_VERSION.unpack_from(start, _XFS_VERSION_OFFSET)
    return int(version) & _XFS_VERSION_MASK == _XFS_WITH_LSN


def _start(path: Path) -> bytes:
    with (
        open_shared(path) as descriptor,
        mmap.mmap(-1, MARKED_BYTES) as buffer,  # as aligned as O_DIRECT wants it
        system_call(f"read {path}"),
    ):
        length = os.preadv(descriptor, [buffer], 0)
        return bytes(buffer[:length])


def note(
    catalogue: Catalogue, device: str, found: BlockDevice, content: Signature | None, volume: str
) -> bool:
    """Record what ``volume`` leaves on a device; False: a use of it could not be seen."""
    mark = mark_of(found.path, content)
    if mark is not None:
        led_to = inventory.device_identity(found.devno)
        left = Released(device, volume, found.size_bytes, mark, now_ns(), led_to)
        released.record(catalogue, left)
    return mark is not None


def owner_of(
    catalogue: Catalogue, device: str, found: BlockDevice, content: Signature | None
) -> str | None:
    """The volume that left what is on a device, if nobody can have written to it since."""
    left = released.find(catalogue, device)
    if left is None or left.size_bytes != found.size_bytes:
        return None
    if left.led_to is not None and left.led_to != inventory.device_identity(found.devno):
        return None  # another one has its name now, and may be a twin of it
    return left.volume if mark_of(found.path, content) == left.mark else None
