"""Unmounting what uses a volume, and mounting it again in the same way.

What is mounted inside a volume and is not its own (another disk, a tmpfs with what is in it) is
bound to a directory below the run directory meanwhile, so that it stays in use; what was bound from
the volume is bound again.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from dmsnap.catalogue.model import MountRecord
from dmsnap.errors import BusyError
from dmsnap.host import mount, mountinfo
from dmsnap.host.mountinfo import Mount
from dmsnap.host.system_call import system_call

log = logging.getLogger(__name__)

PARKING = "mounts"


def parking(run_directory: Path, name: str) -> Path:
    """Where what is mounted inside the volume ``name`` is kept while the volume is not."""
    return run_directory / PARKING / name


def records(devno: int, parking: Path) -> tuple[MountRecord, ...]:
    """How a device is mounted now, in the order in which to mount it again.

    :class:`BusyError` for a part of it that was bound from a mount that is gone.
    """
    entries: dict[int, Mount] = {}
    own = mountinfo.mounts_of(devno)
    for top in own:
        for entry in (top, *reversed(mount.mounts_below(top))):
            entries.setdefault(entry.mount_id, entry)
    ours = {entry.mount_id for entry in own}
    found: list[MountRecord] = []
    for entry in entries.values():
        if entry.mount_id not in ours:
            stacked = sum(record.mount_point == str(entry.mount_point) for record in found)
            found.append(_record(entry, str(parking / _place(entry, stacked)), inside=True))
        elif entry.root == mount.whole_root(entry):
            found.append(_record(entry))
        else:
            found.append(_record(entry, _within(entry, own)))
    return tuple(found)


def _place(entry: Mount, stacked: int) -> str:
    """A file name for a mount point, whatever the length of its path."""
    # Imported for what is mounted inside a volume: it loads all of OpenSSL.
    import hashlib

    digest = hashlib.blake2s(str(entry.mount_point).encode(errors="surrogateescape"), digest_size=8)
    return f"{digest.hexdigest()}-{stacked}"


def _record(entry: Mount, bind_from: str = "", *, inside: bool = False) -> MountRecord:
    options = entry.options if bind_from else mount.mount_options(entry)
    return MountRecord(str(entry.mount_point), entry.fs_type, tuple(options), bind_from, inside)


def _within(bound: Mount, own: Sequence[Mount]) -> str:
    """The path, in a mount of the whole volume, of the directory that was bound."""
    for entry in own:
        if entry.root == mount.whole_root(entry) and Path(bound.root).is_relative_to(entry.root):
            return str(entry.mount_point / Path(bound.root).relative_to(entry.root))
    raise BusyError(
        f"{bound.mount_point} is a bind mount of {bound.root} inside the volume, which is not "
        f"mounted as a whole",
        hint=f"unmount it first: umount {bound.mount_point}",
    )


def merged(now: Sequence[MountRecord], before: Sequence[MountRecord]) -> tuple[MountRecord, ...]:
    """``now``, and of ``before`` what is still parked because there was no place for it."""
    return (*now, *(r for r in before if r.inside and mountinfo.mount_at(Path(r.bind_from))))


def unmount(devno: int, wait_seconds: float, mounted: Sequence[MountRecord] = ()) -> None:
    """Unmount every mount of a device, the latest first, waiting for its users up to a deadline.

    Of ``mounted``, what is not the device's own is parked.
    """
    own = {str(entry.mount_point) for entry in mountinfo.mounts_of(devno)}
    for record in reversed(mounted):
        if record.inside:
            _park(record)
        elif record.mount_point in own:
            mount.unmount(Path(record.mount_point), wait_seconds)
    for entry in reversed(mountinfo.mounts_of(devno)):
        mount.unmount(entry.mount_point, wait_seconds)


def _park(record: MountRecord) -> None:
    """The same mount elsewhere; its users, who may have files open there, do not notice."""
    at, parked = Path(record.mount_point), Path(record.bind_from)
    if mountinfo.mount_at(at) is None:
        return
    if mountinfo.mount_at(parked) is None:
        with system_call(f"make {parked}"):
            parked.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            parked.mkdir(exist_ok=True) if at.is_dir() else parked.touch()
        mount.bind(at, parked)
    mount.detach(at)


def mount_all(device: Path, devno: int, mounts: Sequence[MountRecord]) -> None:
    """Mount a device at every recorded place where it is not mounted yet, and what was inside."""
    present = {str(entry.mount_point) for entry in mountinfo.mounts_of(devno)}
    for record in mounts:
        if record.inside:
            _unpark(record)
        elif record.mount_point in present:
            continue
        elif record.bind_from:
            mount.bind(Path(record.bind_from), Path(record.mount_point), record.options)
        else:
            mount.mount(device, Path(record.mount_point), record.fs_type, record.options)


def _unpark(record: MountRecord) -> None:
    """After a restart nothing is parked: what was mounted there is for fstab to mount.

    An earlier point may lack the directory: the recovery does not fail for that.
    """
    at, parked = Path(record.mount_point), Path(record.bind_from)
    if mountinfo.mount_at(parked) is None:
        return
    if not at.exists():
        log.warning("there is no %s now: what was mounted there is kept at %s", at, parked)
        return
    mount.bind(parked, at)
    mount.detach(parked)


def own(mounts: Sequence[MountRecord]) -> Iterator[MountRecord]:
    """The mounts of the device itself, without what is bound and what lies inside."""
    return (record for record in mounts if not record.bind_from)
