"""dm-multipath: the maps that multipathd makes of the paths to one LUN (multipath-tools).

A map is multipathd's own: nothing here makes one, changes or removes it.
"""

import re
from pathlib import Path

from dmsnap.host import udev
from dmsnap.host.sysfs import SYSFS, Sysfs

# libmultipath: the dm UUID of a map is this and the LUN's WWID.
UUID_PREFIX = "mpath-"
# udev's links that name maps, and kpartx's partitions of them, by what they are (13-dm-disk.rules):
# a map's own name may be another one after a boot.
LINKS = Path("/dev/disk/by-id")
LASTING_LINK = re.compile(rf"dm-uuid-(part\d+-)?{UUID_PREFIX}")
# What multipath-tools' rules say of a disk that multipathd is to have (multipath -u), and of its
# partitions.
CLAIMED = "DM_MULTIPATH_DEVICE_PATH=1"
REMOVAL_SECONDS = 10.0

# How sysfs has an identity of this type, for which multipath-tools write the type's number
# (SPC-4, 7.8.6).
_NAA, _NAA_TYPE = "naa.", "3"


def uuid_of(wwid: str) -> str:
    """The dm UUID of the map over the paths to a LUN."""
    return UUID_PREFIX + wwid.replace(_NAA, _NAA_TYPE, 1)


def wwid_in(path: str) -> str:
    """The identity of the LUN whose map udev's link names; empty where it is no such link."""
    _, is_link, wwid = path.partition(f"{LINKS}/dm-uuid-{UUID_PREFIX}{_NAA_TYPE}")
    return f"{_NAA}{wwid}" if is_link else ""


def map_over(devno: int, *, sysfs: Sysfs = SYSFS) -> int | None:
    """The number of the map that has a disk for one of its paths."""
    over = [
        holder
        for holder in sysfs.holders(devno)
        if (sysfs.dm_uuid(holder) or "").startswith(UUID_PREFIX)
    ]
    return over[0] if over else None


def is_claimed(devno: int) -> bool:
    """Whether multipathd is to have a disk, or has it: what is on it belongs to the map."""
    return udev.has_property(devno, CLAIMED)


def link(over: int, *, sysfs: Sysfs = SYSFS) -> Path:
    """udev's link that names a map by what it is."""
    return LINKS / f"dm-uuid-{sysfs.dm_uuid(over)}"


def left_without_paths(over: int, *, sysfs: Sysfs = SYSFS) -> str | None:
    """Wait a moment for multipathd, which removes a map whose last path has gone; the name of one
    that stays.
    """
    if udev.wait_for_uevent(lambda: _is_done_with(over, sysfs), REMOVAL_SECONDS):
        return None
    return sysfs.dm_name(over) if sysfs.exists(over) else None


def _is_done_with(over: int, sysfs: Sysfs) -> bool:
    return not sysfs.exists(over) or bool(sysfs.slaves(over))
