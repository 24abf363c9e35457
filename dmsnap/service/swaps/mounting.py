"""Unmounting what uses a volume, and mounting it again in the same way.

What is mounted inside a volume and is not its own (another disk, a tmpfs with what is in it) is
bound to a directory below the run directory meanwhile, so that it stays in use; what was bound from
the volume is bound again. Where the volume is mounted on what is none of its own, a placeholder is
seen meanwhile.

Somebody else may have mounted something at such a place meanwhile. Who mounted over that would take
it from its users, so nobody does: but for what lay there from the beginning.
"""

import logging
from collections.abc import Collection, Container, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from dmsnap.catalogue.model import MountRecord
from dmsnap.errors import BusyError, MountPointTakenError
from dmsnap.host import mount, mountinfo, placeholder
from dmsnap.host.mountinfo import Mount
from dmsnap.host.system_call import system_call

log = logging.getLogger(__name__)

PARKING = "mounts"

# What waits at a mount point for somebody to come (systemd's automount units) is mounted over.
TRIGGER = "autofs"


def parking(run_directory: Path, name: str) -> Path:
    """Where what is mounted inside the volume ``name`` is kept while the volume is not."""
    return run_directory / PARKING / name


def records(devno: int, parking: Path, *, asked: bool = False) -> tuple[MountRecord, ...]:
    """How a device is mounted now, in the order in which to mount it again.

    ``asked``: read-only only what somebody mounted so, for another device in its place.
    :class:`BusyError` for a part of it that was bound from a mount that is gone.
    """
    entries: dict[int, Mount] = {}
    parts = placeholder.parts(mountinfo.mounts())  # also of a volume that is mounted inside
    own = [entry for entry in mountinfo.mounts_of(devno) if entry.mount_id not in parts]
    for top in own:
        for entry in (top, *reversed(mount.mounts_below(top))):
            if entry.mount_id not in parts:
                entries.setdefault(entry.mount_id, entry)
    ours = {entry.mount_id for entry in own}
    found: list[MountRecord] = []
    for entry in entries.values():
        here = [record for record in found if record.mount_point == str(entry.mount_point)]
        if entry.mount_id not in ours:
            parked = str(parking / _place(entry, len(here)))
            over = sum(record.inside for record in here)
            found.append(replace(_record(entry, parked, inside=True), over=over))
        else:
            whole = entry.root == mount.whole_root(entry)
            over = len(_foreign(entry.mount_point, entries))
            bound = "" if whole else _within(entry, own)
            found.append(replace(_record(entry, bound, asked=asked), over=over))
    return tuple(found)


def _foreign(place: Path, ours: Container[int]) -> list[Mount]:
    """What is mounted at a place, without what is the volume's and what only waits there."""
    stacked = [entry for entry in mountinfo.mounts() if entry.mount_point == place]
    return [each for each in stacked if each.mount_id not in ours and not _waits(each)]


def _waits(entry: Mount) -> bool:
    return entry.fs_type == TRIGGER or placeholder.is_placeholder(entry)


def _place(entry: Mount, stacked: int) -> str:
    """A file name for a mount point, whatever the length of its path."""
    # Imported for what is mounted inside a volume: it loads all of OpenSSL.
    import hashlib

    digest = hashlib.blake2s(str(entry.mount_point).encode(errors="surrogateescape"), digest_size=8)
    return f"{digest.hexdigest()}-{stacked}"


def _record(
    entry: Mount, bind_from: str = "", *, inside: bool = False, asked: bool = False
) -> MountRecord:
    options = entry.options if bind_from else mount.mount_options(entry, asked=asked)
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


def unmount(
    devno: int, wait_seconds: float, mounted: Sequence[MountRecord], *, held_as: str
) -> None:
    """Unmount every mount of a device, the latest first, waiting for its users up to a deadline.

    Of ``mounted``, what is not the device's own is parked. Until the volume is mounted again its
    mount points are held by placeholders, known by ``held_as``.
    """
    own = {str(entry.mount_point) for entry in mountinfo.mounts_of(devno)}
    for record in reversed(mounted):
        if record.inside:
            _park(record)
        elif record.mount_point in own:
            _unmount_at(Path(record.mount_point), devno, wait_seconds, held_as)
    for entry in reversed(mountinfo.mounts_of(devno)):
        _unmount_at(entry.mount_point, devno, wait_seconds, held_as)


def _unmount_at(place: Path, devno: int, wait_seconds: float, held_as: str) -> None:
    """umount(2) takes what is on top, which somebody may have mounted there since it was looked."""
    placeholder.lift(place)  # of a command that was killed before it did so
    top = mountinfo.mount_at(place)
    own = mountinfo.mounts_of(devno)
    if top is not None and top.mount_id not in {entry.mount_id for entry in own}:
        raise BusyError(
            f"{top.source} is mounted on {place}, over what is to be unmounted there",
            hint=f"unmount it first: umount {place}",
        )
    if top is not None and not _lies_in(top, own):
        placeholder.unmount(place, held_as, wait_seconds)
    else:
        mount.unmount(place, wait_seconds)


def _lies_in(entry: Mount, own: Collection[Mount]) -> bool:
    """Whether a mount of the volume lies in another one, which a placeholder would keep busy.

    Or in a placeholder: a killed command had it there, or beneath.
    """
    table = mountinfo.mounts()
    ids = placeholder.parts(table) | {each.mount_id for each in own}
    parents = {each.mount_id: each.parent_id for each in table}
    above, parent_id = entry.mount_id, entry.parent_id
    while parent_id not in ids and parent_id != above:
        above, parent_id = parent_id, parents.get(parent_id, parent_id)
    return parent_id in ids


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
    """Mount a device at every recorded place where it is not mounted yet, and what was inside.

    :class:`MountPointTakenError` where somebody has mounted something else meanwhile.
    """
    present = {str(entry.mount_point) for entry in mountinfo.mounts_of(devno)}
    for record in mounts:
        foreign = _in_the_way(record, devno)
        if record.inside:
            _unpark(record, foreign)
        elif record.mount_point in present:
            placeholder.lift(Path(record.mount_point))  # of a command that was killed before that
        elif foreign:
            raise MountPointTakenError(record.mount_point, foreign[-1].source, str(device))
        else:
            placeholder.mount_at(Path(record.mount_point), partial(_mount, device, record))


def _mount(device: Path, record: MountRecord, place: Path) -> None:
    if record.bind_from:
        mount.bind(Path(record.bind_from), place, record.options)
    else:
        mount.mount(device, place, record.fs_type, record.options)


def _in_the_way(record: MountRecord, devno: int) -> list[Mount]:
    """What others have mounted at a recorded place, if it is more than was there before."""
    ours = {entry.mount_id for entry in mountinfo.mounts_of(devno)}
    foreign = _foreign(Path(record.mount_point), ours)
    return foreign if len(foreign) > record.over else []


def _unpark(record: MountRecord, foreign: Sequence[Mount]) -> None:
    """After a restart nothing is parked: what was mounted there is for fstab to mount.

    An earlier point may lack the directory: the recovery does not fail for that, nor for what is
    mounted there by now. That may be the same mount, from somebody who was killed in the middle.
    """
    at, parked = Path(record.mount_point), Path(record.bind_from)
    kept = mountinfo.mount_at(parked)
    if kept is None:
        return
    if not at.exists():
        log.warning("there is no %s now: what was mounted there is kept at %s", at, parked)
        return
    if not foreign:
        mount.bind(parked, at)
    elif all((each.devno, each.root) != (kept.devno, kept.root) for each in foreign):
        log.warning(
            "%s is mounted on %s by now: what was mounted there is kept at %s",
            foreign[-1].source,
            at,
            parked,
        )
        return
    mount.detach(parked)


def own(mounts: Sequence[MountRecord]) -> Iterator[MountRecord]:
    """The mounts of the device itself, without what is bound and what lies inside."""
    return (record for record in mounts if not record.bind_from)
