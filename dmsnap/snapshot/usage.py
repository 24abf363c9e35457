"""What the file system on a volume does not use, so that a first copy can leave it out.

A byte may be left out when it was free while the file system was asked, and nobody has written to
its era block since the front was made; the file system was mounted after that, or frozen when the
layers were put under it. Why that is enough: what a point uses was written through the front, and
is marked; or it was in use before the front was there, stayed in use, and was not free when the
file system was asked. What is in use without ever having been written (preallocated space) reads
as zeroes whatever lies there.
"""

from dataclasses import dataclass, field
from pathlib import Path

from dmsnap._native import fs_map
from dmsnap._native.extent_set import MOST_EXTENTS, ExtentSet
from dmsnap.catalogue.model import Volume
from dmsnap.errors import DmsnapError
from dmsnap.host import filesystem
from dmsnap.host.dm import device as dm
from dmsnap.host.mount import Mount, opened_root
from dmsnap.host.mountinfo import mounts_of
from dmsnap.snapshot import stack
from dmsnap.units import KIB, PAGE_BYTES

EXT = ("ext2", "ext3", "ext4")
KNOWN = (*EXT, "xfs", "btrfs")

# Mounted like this, what the file system holds for free may be used after its log is replayed.
UNREPLAYED = frozenset({"norecovery", "noload", "nologreplay"})

# Leaving out less saves nothing: the copy engine reads 1 MiB at a time.
SHORTEST_BYTES = 256 * KIB


@dataclass(frozen=True, slots=True)
class Usage:
    """What was free when the file system was asked; ``reason`` is why nothing is known to be."""

    free: ExtentSet = field(default_factory=ExtentSet)
    reason: str | None = None


def ask(volume: Volume) -> Usage:
    """Ask the file system mounted from the front. Never fails: without an answer all is used.

    The answer stands only for a file system that was mounted after the front was made, and only
    once a point was taken after it: taking it commits what was being freed meanwhile.
    """
    front = stack.require(stack.front(volume))
    mounts = mounts_of(front.devno)
    if not mounts:
        return Usage(reason="it is not mounted")
    try:
        reason = why_not(mounts[0], dm.node(front.name))
        return Usage(reason=reason) if reason else Usage(_free(mounts[0], volume))
    except DmsnapError as error:
        return Usage(reason=str(error))


def _free(mount: Mount, volume: Volume) -> ExtentSet:
    with opened_root(mount) as fd:
        return fs_map.unused(
            fd, volume.size_bytes, btrfs=mount.fs_type == "btrfs", name=str(mount.mount_point)
        )


def why_not(mount: Mount, device: Path) -> str | None:
    """Why this file system is not asked; None when it can be."""
    if mount.fs_type not in KNOWN:
        return f"what {mount.fs_type} uses is not known"
    options = set(mount.super_options)
    if "ro" in options or options & UNREPLAYED or any(o.startswith("rescue=") for o in options):
        return "it is mounted read-only or without replaying its log"
    if mount.fs_type not in EXT:
        return None
    # Kernels were wrong about both until late (2023 and 2025).
    if filesystem.block_size(device, mount.fs_type) < PAGE_BYTES:
        return "ext4 with blocks smaller than 4 KiB is not asked"
    return "ext4 with bigalloc is not asked" if filesystem.ext4_has_bigalloc(device) else None


def left_out(free: ExtentSet, written: ExtentSet, size_bytes: int) -> ExtentSet:
    """What a copy may leave out of what was ``free``, in whole pages and pieces worth it.

    ``written`` is what was written through the front since it was made, and at least up to the
    point that is copied. Where there would be more than ``MOST_EXTENTS`` to copy, the smaller of
    the pieces between them are copied, too.
    """
    worth = ExtentSet()
    for offset, length in free.without(written).pairs():
        if length >= SHORTEST_BYTES:
            worth.add(offset, length)
    copied = ExtentSet(MOST_EXTENTS)
    copied.merge(ExtentSet.whole(size_bytes).without(worth))
    copied.align(PAGE_BYTES)
    return ExtentSet.whole(size_bytes).without(copied)
