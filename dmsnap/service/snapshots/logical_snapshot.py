"""Snapshots of logical volumes: how ours are known, what they are of, and in which order.

What is ours of them is known by its name and its tags alone, which LVM writes down together with
the snapshot: it is found again without a catalogue. Their order is a number among the tags, since
a clock may be set back.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dmsnap._native.extent_set import ExtentSet
from dmsnap.errors import AlreadyProtectedError, ForeignDeviceError
from dmsnap.host import lvm, lvm_snapshot
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.host.lvm_snapshot import LvState
from dmsnap.host.sysfs import SYSFS
from dmsnap.service.session import Session
from dmsnap.service.volumes import admission

NAME_PREFIX = "dmsnap-snapshot-"
SEQUENCE = "dmsnap-sequence-"
TAKEN = "dmsnap-taken-"
ORIGIN = "dmsnap-origin-"


@dataclass(frozen=True, slots=True)
class Taken:
    """A snapshot of ours. ``sequence`` rises with every snapshot of one origin.

    ``origin_uuid`` is LVM's, as ``lvs`` shows it; the origin of a thin one may be gone.
    """

    volume: LvState
    sequence: int
    created_ns: int
    origin_uuid: str


def read(volume: LvState) -> Taken | None:
    """What the tags say; None of what is none of ours."""
    if lvm.TAG not in volume.tags or not volume.name.startswith(NAME_PREFIX):
        return None
    sequence, taken, origin = (_word(volume.tags, prefix) for prefix in (SEQUENCE, TAKEN, ORIGIN))
    if not (sequence.isdecimal() and taken.isdecimal() and origin):
        return None
    return Taken(volume, int(sequence), int(taken), origin)


def tags(sequence: int, created_ns: int, origin_uuid: str) -> tuple[str, ...]:
    """What :func:`read` reads, but for the tag that all volumes of ours carry."""
    return (f"{SEQUENCE}{sequence}", f"{TAKEN}{created_ns}", f"{ORIGIN}{origin_uuid}")


def _word(found: Sequence[str], prefix: str) -> str:
    words = [tag.removeprefix(prefix) for tag in found if tag.startswith(prefix)]
    return words[0] if len(words) == 1 else ""


def require_ours(volume: LvState) -> Taken:
    """The snapshot, unless somebody else took it: :class:`ForeignDeviceError`."""
    found = read(volume)
    if found is None:
        raise ForeignDeviceError(
            f"{volume.full_name} is no snapshot that dmsnap took", name=volume.full_name
        )
    return found


def next_sequence(origin_uuid: str) -> int:
    """The number of the next snapshot of an origin, whose lock is held."""
    known = [read(volume) for volume in lvm_snapshot.volumes()]
    return 1 + max(
        (taken.sequence for taken in known if taken and taken.origin_uuid == origin_uuid),
        default=0,
    )


def origin_of(taken: Taken, volumes: Sequence[LvState]) -> LvState | None:
    """What a snapshot was taken of, whatever that is called by now; None when it is gone."""
    return next((volume for volume in volumes if volume.uuid == taken.origin_uuid), None)


def lock_name(origin_uuid: str) -> str:
    """The lock of an origin: no protected volume can be called that."""
    return f"lv:{origin_uuid}"


def split(name: str) -> tuple[str, str] | None:
    """``VG/LV``, or the same as a path in /dev; None for what is neither."""
    vg, _, lv = name.removeprefix("/dev/").partition("/")
    return (vg, lv) if vg and lv and "/" not in lv else None


def named(text: str) -> LvState | None:
    """The logical volume called ``VG/LV``, or that the device with this path is."""
    if text.startswith("/") and Path(text).exists():
        name = SYSFS.dm_name(BlockDevice.probe(Path(text)).devno)
        volumes = lvm_snapshot.volumes() if name else []
        return next((each for each in volumes if each.active and each.dm_name == name), None)
    words = split(text)
    return lvm_snapshot.find(*words) if words else None


def require_apart(session: Session, origin: LvState) -> None:
    """Raise unless an origin is the user's own, and no part of a protected volume."""
    if lvm.TAG in origin.tags:
        raise ForeignDeviceError(f"{origin.full_name} is a logical volume of dmsnap's own")
    device = BlockDevice.probe(dm.node(origin.dm_name))
    admission.check_not_ours(session, device)
    for holder in SYSFS.holders(device.devno):
        if (SYSFS.dm_uuid(holder) or "").startswith(dm.UUID_PREFIX):
            raise AlreadyProtectedError(
                f"{origin.full_name} is held by {SYSFS.display_name(holder)}: take points of it",
                hint="dmsnap point create NAME takes one",
            )


@contextmanager
def whole_afterwards(origin: LvState | None) -> Iterator[None]:
    """LVM suspends an origin for what is done in the block: where that fails, it goes on."""
    try:
        yield
    except BaseException as error:
        with dm.noted(error, "resuming what LVM suspended"):
            if origin is not None:
                resume_suspended(origin)
        raise


def resume_suspended(volume: LvState) -> None:
    """Resume a logical volume's dm devices, its hidden ones included, where they are suspended."""
    top = dm.info(volume.dm_name)
    if top is None or not top.uuid.startswith("LVM-"):
        return
    for info in dm.list_devices(top.uuid):
        if info.suspended and info.live_table:
            dm.resume(info.name)


def remove_unfinished(vg: str, name: str) -> None:
    """Remove what LVM left of a snapshot that it did not bring to its end, if anything.

    It makes an exception store as a volume of its own first, with the name and the tags.
    """
    found = lvm_snapshot.find(vg, name)
    if found is not None and read(found) is not None:
        lvm.remove_lv(vg, name)


def with_tail(extents: ExtentSet, since_bytes: int, until_bytes: int) -> ExtentSet:
    """What changed of a volume that may have become larger or smaller meanwhile."""
    extents.clamp(until_bytes)
    if until_bytes > since_bytes:
        extents.add(since_bytes, until_bytes - since_bytes)
    return extents
