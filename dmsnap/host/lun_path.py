"""The paths to a LUN, and dm-multipath's device over them."""

from collections.abc import Sequence

from dmsnap.errors import BusyError, ForeignDeviceError
from dmsnap.host import multipath, scsi, udev
from dmsnap.host.scsi import ScsiDisk
from dmsnap.host.sysfs import SYSFS, Sysfs

# What a disk is called while open-iscsi tries to get its session back, and when that was given up.
LOST = ("blocked", "transport-offline", "offline")

MAP_SECONDS = 10.0


def usable(disk: ScsiDisk, *, sysfs: Sysfs = SYSFS) -> int:
    """The number of the device to use: of dm-multipath where it has claimed every path.

    A map over only some of the paths is refused, as the others would be written past it, and one
    that has a path to another device.
    """
    over = _map_over(_paths(disk.wwid(), sysfs) or [disk], sysfs)
    return disk.devno if over is None else over


def map_to(wwid: str, *, sysfs: Sysfs = SYSFS) -> int | None:
    """The number of dm-multipath's device over all paths to a LUN that is known by its identity.

    None where there is none, and where every path is lost. Raises as :func:`usable`.
    """
    paths = _paths(wwid, sysfs)
    if all(path.state() in LOST for path in paths):
        return None
    return _map_over(paths, sysfs)


def await_map(disk: ScsiDisk, *, sysfs: Sysfs = SYSFS) -> None:
    """Wait a moment for multipathd, where its rules have a disk that has just come for one of its
    paths, or another path to the same LUN: it would find the disk in use, or whoever uses it would
    be cut off from the other paths.
    """
    paths = _paths(disk.wwid(), sysfs) or [disk]
    claimed = [path.devno for path in paths if multipath.is_claimed(path.devno)]

    def are_mapped() -> bool:
        return all(multipath.map_over(devno, sysfs=sysfs) is not None for devno in claimed)

    if claimed:
        udev.wait_for_uevent(are_mapped, MAP_SECONDS)


def is_partly_mapped(disk: ScsiDisk, *, sysfs: Sysfs = SYSFS) -> bool:
    """Whether dm-multipath has some of the paths to a disk's LUN, and some not, or not yet."""
    paths = _paths(disk.wwid(), sysfs)
    claimed = [multipath.map_over(path.devno, sysfs=sysfs) is not None for path in paths]
    return any(claimed) and not all(claimed)


def require_no_path(devno: int, *, sysfs: Sysfs = SYSFS) -> None:
    """Raise :class:`BusyError` for a path to a LUN that dm-multipath has, or a partition of it,
    claimed or not: what is written there passes the others by. So for one that it is to have.
    """
    disks = scsi.disks(sysfs=sysfs)
    whole = {devno, sysfs.partition_parent(devno)} if disks else set()
    own = next((disk for disk in disks if disk.devno in whole), None)
    if own is None:
        return
    for path in _paths(own.wwid(), sysfs) or [own]:
        over = multipath.map_over(path.devno, sysfs=sysfs)
        if over is not None:
            name = f"/dev/mapper/{sysfs.dm_name(over)}"
            raise BusyError(
                f"{sysfs.device_path(devno)} is a path of the multipath device {name}",
                hint=f"use {name}",
            )
    if multipath.is_claimed(own.devno):
        raise BusyError(
            f"{sysfs.device_path(devno)} is a path that multipathd is to have, and there is no "
            f"multipath device over it",
            hint=f"see to multipathd, or have one made: multipath {sysfs.device_path(own.devno)}",
        )


def beside(disk: ScsiDisk, *, sysfs: Sysfs = SYSFS) -> list[ScsiDisk]:
    """The other paths of the map that has a disk, those that are lost left out."""
    over = multipath.map_over(disk.devno, sysfs=sysfs)
    found = of_map(over, sysfs=sysfs) if over is not None else []
    return [path for path in found if path.devno != disk.devno]


def of_map(over: int, *, sysfs: Sysfs = SYSFS) -> list[ScsiDisk]:
    """The paths of a map, those that are lost left out."""
    numbers = sysfs.slaves(over)
    found = [disk for disk in scsi.disks(sysfs=sysfs) if disk.devno in numbers]
    return [path for path in found if path.state() not in LOST]


def to_same(devno: int, *, sysfs: Sysfs = SYSFS) -> list[int]:
    """The numbers of all paths to the LUN that a disk or a map is, those that are lost left out;
    of whatever else none.
    """
    disks = scsi.disks(sysfs=sysfs)
    known = {disk.devno for disk in disks} & {devno}
    if disks and not known and (sysfs.dm_uuid(devno) or "").startswith(multipath.UUID_PREFIX):
        known = set(sysfs.slaves(devno))
    wwids = {disk.wwid() for disk in disks if disk.devno in known} - {""}
    same = [disk for disk in disks if disk.devno in known or disk.wwid() in wwids]
    return sorted(disk.devno for disk in same if disk.state() not in LOST)


def _paths(wwid: str, sysfs: Sysfs) -> list[ScsiDisk]:
    return [disk for disk in scsi.disks(sysfs=sysfs) if wwid and disk.wwid() == wwid]


def _map_over(paths: Sequence[ScsiDisk], sysfs: Sysfs) -> int | None:
    claimed = {path.devno: multipath.map_over(path.devno, sysfs=sysfs) for path in paths}
    maps = {over for over in claimed.values() if over is not None}
    if not maps:
        return None
    if len(maps) > 1 or None in claimed.values():
        free = [sysfs.kernel_name(devno) for devno, over in claimed.items() if over is None]
        raise BusyError(
            f"dm-multipath has claimed only some of the paths to {paths[0].wwid()}: not "
            f"{', '.join(free)}",
            hint="let multipathd claim all of them, or none",
        )
    over = maps.pop()
    _require_one_lun(over, paths[0].wwid(), sysfs)
    return over


def _require_one_lun(over: int, wwid: str, sysfs: Sysfs) -> None:
    """A LUN may be mapped to something else, and multipathd not know: it goes by what its paths
    were when they came. Half of what is written to the map would go to the other device.
    """
    numbers = sysfs.slaves(over)
    below = [disk for disk in scsi.disks(sysfs=sysfs) if disk.devno in numbers]
    others = [sysfs.kernel_name(disk.devno) for disk in below if disk.wwid() not in ("", wwid)]
    if others:
        raise ForeignDeviceError(
            f"the multipath device {sysfs.dm_name(over)} has paths to other devices: "
            f"{', '.join(others)}",
            hint="map the LUN as it was, or have multipathd look at its paths again: "
            "multipathd reconfigure",
        )
