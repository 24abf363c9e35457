"""Unmounting what uses a volume, and mounting it again in the same way."""

from collections.abc import Sequence
from pathlib import Path

from dmsnap.catalogue.model import MountRecord
from dmsnap.errors import BusyError
from dmsnap.host import mount, mountinfo


def records(devno: int) -> tuple[MountRecord, ...]:
    """How a device is mounted now, in the order in which to mount it again.

    :class:`BusyError` where putting it back exactly is not possible: a part of it mounted
    elsewhere by bind mounts, or other file systems mounted inside it.
    """
    found = []
    for entry in mountinfo.mounts_of(devno):
        inside = mount.submounts(entry.mount_point)
        if inside:
            raise BusyError(
                f"{inside[0].mount_point} is mounted inside {entry.mount_point}",
                hint=f"unmount it first: umount {inside[0].mount_point}",
            )
        if entry.root != "/":
            raise BusyError(
                f"{entry.mount_point} is a bind mount of {entry.root} inside the volume",
                hint=f"unmount it first: umount {entry.mount_point}",
            )
        found.append(
            MountRecord(str(entry.mount_point), entry.fs_type, tuple(mount.mount_options(entry)))
        )
    return tuple(found)


def unmount(devno: int, wait_seconds: float) -> None:
    """Unmount every mount of a device, the latest first, waiting for its users up to a deadline."""
    for entry in reversed(mountinfo.mounts_of(devno)):
        mount.unmount(entry.mount_point, wait_seconds)


def mount_all(device: Path, devno: int, mounts: Sequence[MountRecord]) -> None:
    """Mount a device at every recorded place where it is not mounted yet."""
    present = {str(entry.mount_point) for entry in mountinfo.mounts_of(devno)}
    for record in mounts:
        if record.mount_point not in present:
            mount.mount(device, Path(record.mount_point), record.fs_type, record.options)
