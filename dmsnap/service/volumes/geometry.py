"""Block sizes that must fit together, so that a replica can be mounted wherever it is shown."""

from dmsnap.errors import BlockSizeError
from dmsnap.host import filesystem
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.signature import Signature
from dmsnap.snapshot.space import open_space

KNOWN = ("ext2", "ext3", "ext4", "xfs")


def check_block_sizes(
    store: str, backing: BlockDevice, recovery: BlockDevice, content: Signature | None
) -> None:
    """A file system must find blocks no larger than its own, in a trial and in a mounted point.

    A trial lies on the recovery volume and on an overlay in the store, a point on its COW store: a
    dm-snapshot has the larger blocks of the two.
    """
    sides = {
        str(recovery.path): recovery.logical_block_bytes,
        f"the store {store}": open_space(store).logical_block_bytes(),
    }
    for side, block_bytes in sides.items():
        check_size(backing, side, block_bytes)
        if block_bytes > backing.logical_block_bytes:
            check_content(backing, content, side, block_bytes)


def check_size(backing: BlockDevice, side: str, block_bytes: int) -> None:
    """Raise unless the volume is of whole sectors of the side that holds or shows a copy of it."""
    if backing.size_bytes % block_bytes:
        raise BlockSizeError(
            f"{side} has sectors of {block_bytes} bytes, and {backing.path} is of "
            f"{backing.size_bytes} bytes, which are no whole number of them",
            hint="use disks with 512-byte sectors",
        )


def check_content(
    backing: BlockDevice, content: Signature | None, side: str, block_bytes: int
) -> None:
    """Raise unless what is on the volume does its I/O in pieces of ``block_bytes`` or more."""
    fs_type = content.fs_type if content else None
    smallest = filesystem.block_size(backing.path, fs_type) if fs_type in KNOWN else None
    if smallest is None or smallest < block_bytes:
        unit = smallest or backing.logical_block_bytes
        raise BlockSizeError(
            f"{side} has sectors of {block_bytes} bytes, what is on {backing.path} works in units "
            f"of {unit}: it could not be mounted from there",
            hint="use disks with 512-byte sectors",
        )
