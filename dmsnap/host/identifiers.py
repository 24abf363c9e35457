"""By what a block device is known: links that udev made, UUIDs of LVM, the disk's own identity."""

import errno
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from dmsnap.errors import DmsnapError
from dmsnap.host.sysfs import SYSFS, Sysfs

DISK_LINKS = Path("/dev/disk")

_LVM = "LVM-"
_UUID_CHARACTERS = 32
_GROUPS = (6, 4, 4, 4, 4, 4, 6)
# A SCSI disk has no VPD page 0x83, or none of its designators is of the disk (scsi_vpd_lun_id).
_NAMELESS = (errno.ENXIO, errno.EINVAL)


def links_to(devnos: Collection[int], *, directory: Path = DISK_LINKS) -> list[str]:
    """The links in ``/dev/disk/by-*`` that lead to one of the devices, sorted."""
    return sorted(str(link) for link in directory.glob("by-*/*") if _devno(link) in devnos)


def _devno(link: Path) -> int | None:
    try:
        return link.stat().st_rdev
    except FileNotFoundError:  # its device is gone, udev has not taken it away yet
        return None


def lvm_uuids(devno: int, *, sysfs: Sysfs = SYSFS) -> tuple[str, str] | None:
    """The UUIDs of a logical volume and of its group, as LVM shows them; None: it is none.

    They are in the dm UUID (``dm_build_dm_uuid`` of LVM), so that no program need be run.
    """
    dm_uuid = sysfs.dm_uuid(devno) or ""
    text = dm_uuid.removeprefix(_LVM)
    if not dm_uuid.startswith(_LVM) or len(text) != 2 * _UUID_CHARACTERS:
        return None  # a layer below one has something behind it
    return _dashed(text[_UUID_CHARACTERS:]), _dashed(text[:_UUID_CHARACTERS])


def wwid(devno: int, *, sysfs: Sysfs = SYSFS) -> str | None:
    """The identity that a disk itself gives (SCSI, NVMe); None for a partition."""
    return _first_stated(devno, ("device/wwid", "wwid"), sysfs)


def serial(devno: int, *, sysfs: Sysfs = SYSFS) -> str | None:
    """What else a disk says that it is: of virtio its serial number, of an MMC card its CID."""
    return _first_stated(devno, ("serial", "device/cid"), sysfs)


def _first_stated(devno: int, names: Collection[str], sysfs: Sysfs) -> str | None:
    for name in names:
        found = stated(partial(sysfs.attribute, devno, name))
        if found:
            return found
    return None


def stated(read: Callable[[], str | None]) -> str:
    """What a disk says that it is; empty where it says nothing, as many USB sticks do."""
    try:
        return (read() or "").strip()
    except DmsnapError as error:
        if error.fields.get("errnum") in _NAMELESS:
            return ""
        raise


def _dashed(text: str) -> str:
    parts, position = [], 0
    for length in _GROUPS:
        parts.append(text[position : position + length])
        position += length
    return "-".join(parts)
