"""Exception stores, looked at before the kernel is given one that it has had before.

The kernel takes a header whose magic is 0 for a store that is yet to be made, and makes it, over
what was there (drivers/md/dm-snap-persistent.c, persistent_read_metadata): it would show what lies
below, unchanged, as the point or the trial that is lost. No read-only device keeps it from that: of
a write that the kernel itself makes to one it only complains (bio_check_ro).
"""

from dmsnap._native.exception_store import ExceptionStore
from dmsnap.errors import CorruptError
from dmsnap.host.blockdev import BlockDevice, open_shared
from dmsnap.units import to_sectors


def require_whole(
    fd: int, offset_bytes: int, length_bytes: int, chunk_bytes: int, name: str
) -> None:
    """Raise :class:`CorruptError` when a store's header or areas are not what they must be."""
    with ExceptionStore.open(fd, offset_bytes, length_bytes, name) as store:
        if not store.header.valid or store.header.chunk_size != to_sectors(chunk_bytes):
            raise CorruptError(f"{name} is not valid, or of another chunk size than is recorded")


def require_device(device: BlockDevice, chunk_bytes: int, name: str) -> None:
    """The same of one that has a device to itself."""
    with open_shared(device.path) as fd:
        require_whole(fd, 0, device.size_bytes, chunk_bytes, name)


def require_header(device: BlockDevice, name: str) -> None:
    """The same of one that may have overflowed: the kernel says so, and shows nothing by it."""
    with (
        open_shared(device.path) as fd,
        ExceptionStore.open(fd, 0, device.size_bytes, name),
    ):
        pass
