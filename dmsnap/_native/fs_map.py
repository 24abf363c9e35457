"""What a mounted file system does not use of its device."""

from dmsnap._native._core import ffi, lib
from dmsnap._native.core import check
from dmsnap._native.extent_set import ExtentSet


def unused(fd: int, size_bytes: int, *, btrfs: bool, name: str) -> ExtentSet:
    """The bytes of the device that the file system of ``fd`` certainly does not use now.

    ``fd`` is any directory of it. By FS_IOC_GETFSMAP (ext4, XFS), or by btrfs's own trees.
    :class:`~dmsnap.errors.CorruptError` when it does not say, or says what cannot be. Needs root
    for btrfs.
    """
    place = ffi.new("struct dms_extent_set **")
    ask = lib.dms_btrfs_map_unused if btrfs else lib.dms_fs_map_unused
    check(ask(fd, size_bytes, place), name)
    return ExtentSet.adopt(place[0])
