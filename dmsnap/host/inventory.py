"""The volumes of the host: block devices that hold a file system of their own. Root.

Left out are components (physical volumes, members of arrays, paths of a multipath disk, what lies
below another device, disks with partitions), thick snapshots of LVM, swap space, what cannot be
written to, and devices of our own. What is suspended is not read, and neither is what does not
answer when it is asked: whoever reads that would hang.
"""

import logging
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from dmsnap.errors import DmsnapError
from dmsnap.host import identifiers, multipath, reach, signature
from dmsnap.host.blockdev import is_swap_space
from dmsnap.host.dm.state import UUID_PREFIX, path_by_devno
from dmsnap.host.mountinfo import PROC, mounts_of
from dmsnap.host.signature import Signature
from dmsnap.host.sysfs import SYSFS, Sysfs

log = logging.getLogger(__name__)

Probe = Callable[[Path], Signature | None]
# Which of these do not answer.
Ask = Callable[[Sequence[Path]], Collection[Path]]


# Memory, floppies and optical drives hold no volumes; block devices over networks come and go.
PASSED_OVER = re.compile(r"(ram|zram|fd|sr|mtdblock)\d+")
LVM_PREFIX = "LVM-"
# What is made once and mounted read-only: images of packages and media.
IMAGES = ("squashfs", "iso9660", "udf", "cramfs", "erofs", "romfs")

_PARTUUID_LINKS = Path("/dev/disk/by-partuuid")
_SIZE, _SERIAL = "size:", "serial:"


class VolumeKind(StrEnum):
    """What a volume is made of."""

    LOGICAL_VOLUME = "lv"
    PARTITION = "partition"
    DISK = "disk"
    LOOP = "loop"
    ARRAY = "md"
    DM = "dm"  # of others: an opened crypt device, multipath


@dataclass(frozen=True, slots=True)
class HostVolume:
    """A file system on a device. ``holder`` is the own identity of the LV, partition or
    disk that it is on, or empty.

    ``identity`` is of UUIDs alone, never of a kernel name. It is the same for both of two twins
    whose devices have no identity of their own.
    """

    devno: int
    path: Path
    kind: VolumeKind
    size_bytes: int
    fs_type: str
    fs_uuid: str
    holder: str
    mount_points: tuple[str, ...]
    backing_file: str | None = None
    label: str = ""

    @property
    def identity(self) -> str:
        return f"{self.fs_uuid or self.fs_type}@{self.holder}"


def identity_of(devno: int, content: Signature | None, *, sysfs: Sysfs = SYSFS) -> str:
    """The identity of the volume that a device with that content is now."""
    named = (content.uuid or content.fs_type or "") if content else ""
    return f"{named}@{holder_of(devno, sysfs=sysfs)}"


@dataclass(frozen=True, slots=True)
class Unread:
    """A device that may hold a volume, and does not answer, or is ``suspended`` by somebody."""

    devno: int
    path: Path
    holder: str
    suspended: bool

    def may_be(self, identity: str, path: str) -> bool:
        """Whether a volume that was on a device of that path may be what is on this one."""
        return identity.partition("@")[2] == self.holder if self.holder else path == str(self.path)


@dataclass(frozen=True, slots=True)
class Inventory:
    """The volumes of the host, by number, and the devices of which nobody can say."""

    volumes: Sequence[HostVolume]
    unread: Sequence[Unread] = ()


def silent(devices: Sequence[Path]) -> Collection[Path]:
    """Those that do not answer, asked all at once."""
    return reach.silent(devices, reach.ANSWER_SECONDS)


def take(
    *, sysfs: Sysfs = SYSFS, proc: Path = PROC, probe: Probe = signature.probe, ask: Ask = silent
) -> Inventory:
    """Every volume of the host. One that cannot be read is left out."""
    devices = list(_candidates(sysfs, proc))
    suspended = [devno for devno, _ in devices if _is_suspended(devno, sysfs)]
    hanging = set(ask([path for devno, path in devices if devno not in suspended]))
    unread = [
        Unread(devno, path, _holder(devno, sysfs), devno in suspended)
        for devno, path in devices
        if devno in suspended or path in hanging
    ]
    left = {each.devno for each in unread}
    readable = [devno for devno, _ in devices if devno not in left]
    return Inventory(list(_volumes(readable, sysfs, proc, probe)), unread)


def _holder(devno: int, sysfs: Sysfs) -> str:
    try:
        return holder_of(devno, sysfs=sysfs)
    except (DmsnapError, OSError):  # it went away
        return ""


def _candidates(sysfs: Sysfs, proc: Path) -> Iterator[tuple[int, Path]]:
    for devno in sysfs.block_devices():
        try:
            if is_candidate(devno, sysfs=sysfs, proc=proc):
                yield devno, path_by_devno(devno, sysfs=sysfs)
        except (DmsnapError, OSError) as error:  # it went away
            log.debug("device %d is no volume: %s", devno, error)


def _volumes(
    devices: Sequence[int], sysfs: Sysfs, proc: Path, probe: Probe
) -> Iterator[HostVolume]:
    for devno in devices:
        try:
            found = _volume(devno, sysfs, proc, probe)
        except (DmsnapError, OSError) as error:  # it went away, or cannot be read
            log.debug("device %d is no volume: %s", devno, error)
        else:
            if found is not None:
                yield found


def is_candidate(devno: int, *, sysfs: Sysfs = SYSFS, proc: Path = PROC) -> bool:
    """Whether a device may hold a file system of its own, by what sysfs says of it."""
    uuid = sysfs.dm_uuid(devno) or ""
    return not (
        PASSED_OVER.fullmatch(sysfs.kernel_name(devno))
        or not sysfs.size_bytes(devno)
        or sysfs.read_only(devno)
        or uuid.startswith(UUID_PREFIX)
        or (uuid.startswith(LVM_PREFIX) and identifiers.lvm_uuids(devno, sysfs=sysfs) is None)
        or _has_partitions(devno, sysfs)
        or is_held_by_others(devno, sysfs=sysfs)
        or multipath.is_claimed(devno)
        or _is_snapshot(devno, sysfs)
        or is_swap_space(devno, proc=proc)
    )


def _is_suspended(devno: int, sysfs: Sysfs) -> bool:
    return sysfs.dm_name(devno) is not None and sysfs.dm_suspended(devno)


def is_held_by_others(devno: int, *, sysfs: Sysfs = SYSFS) -> bool:
    """Whether something that is not ours lies on the device: then that is the volume."""
    return any(
        not (sysfs.dm_uuid(holder) or "").startswith(UUID_PREFIX) for holder in sysfs.holders(devno)
    )


def _is_snapshot(devno: int, sysfs: Sysfs) -> bool:
    """Whether it is a thick snapshot of LVM, which lies on a COW store: a twin by its nature."""
    return any((sysfs.dm_uuid(below) or "").endswith("-cow") for below in sysfs.slaves(devno))


def _has_partitions(devno: int, sysfs: Sysfs) -> bool:
    return any((entry / "partition").exists() for entry in sysfs.directory(devno).iterdir())


def _volume(devno: int, sysfs: Sysfs, proc: Path, probe: Probe) -> HostVolume | None:
    path = path_by_devno(devno, sysfs=sysfs)
    content = probe(path)
    if content is None or content.usage != "filesystem" or content.fs_type in (None, *IMAGES):
        return None
    return HostVolume(
        devno=devno,
        path=path,
        kind=kind_of(devno, sysfs=sysfs),
        size_bytes=sysfs.size_bytes(devno),
        fs_type=content.fs_type or "",
        fs_uuid=content.uuid or "",
        holder=holder_of(devno, sysfs=sysfs),
        mount_points=tuple(str(each.mount_point) for each in mounts_of(devno, proc=proc)),
        backing_file=sysfs.loop_backing_file(devno),
        label=content.label or "",
    )


def kind_of(devno: int, *, sysfs: Sysfs = SYSFS) -> VolumeKind:
    """What a device is."""
    if identifiers.lvm_uuids(devno, sysfs=sysfs) is not None:
        return VolumeKind.LOGICAL_VOLUME
    if sysfs.dm_name(devno) is not None:
        return VolumeKind.DM
    if sysfs.partition_parent(devno) is not None:
        return VolumeKind.PARTITION
    if sysfs.loop_backing_file(devno) is not None:
        return VolumeKind.LOOP
    return VolumeKind.ARRAY if sysfs.kernel_name(devno).startswith("md") else VolumeKind.DISK


def holder_of(devno: int, *, sysfs: Sysfs = SYSFS, links: Path = _PARTUUID_LINKS) -> str:
    """The identity of the device that holds a file system; empty where it has none of its own."""
    uuids = identifiers.lvm_uuids(devno, sysfs=sysfs)
    if uuids is not None:
        return f"lv:{uuids[0]}"
    if sysfs.partition_parent(devno) is not None:
        found = [link for link in links.glob("*") if _leads_to(link, devno)]
        return f"part:{min(found).name}" if found else ""
    uuid = sysfs.dm_uuid(devno)
    if uuid:
        return f"dm:{uuid}"
    array = sysfs.attribute(devno, "md/uuid")
    if array:
        return f"md:{array}"
    wwid = identifiers.wwid(devno, sysfs=sysfs)
    return f"wwid:{wwid}" if wwid else ""


def device_identity(devno: int, *, sysfs: Sysfs = SYSFS, links: Path = _PARTUUID_LINKS) -> str:
    """What tells a device from another one that has its path, and maybe its content, some day.

    The file of a loop device, of others the identity of their own; where there is none, the size.
    """
    held = holder_of(devno, sysfs=sysfs, links=links)
    if held:
        return held
    file = sysfs.loop_backing_file(devno)
    if file:
        return f"loop:{sysfs.attribute(devno, 'loop/offset') or 0}:{file}"
    serial = identifiers.serial(devno, sysfs=sysfs)
    return f"{_SERIAL}{serial}" if serial else f"{_SIZE}{sysfs.size_bytes(devno)}"


def is_telling(identity: str) -> bool:
    """Whether a device's identity is its own, and not what any other may have as well."""
    return bool(identity) and not identity.startswith(_SIZE)


def may_be_shared(identity: str) -> bool:
    """Whether two devices may have it, though it is their own: cheap disks share serial numbers."""
    return identity.startswith(_SERIAL)


def find_device(identity: str, *, sysfs: Sysfs = SYSFS) -> Path | None:
    """The device with an identity; None where it is not there."""
    for devno in sysfs.block_devices():
        try:
            if device_identity(devno, sysfs=sysfs) == identity:
                return path_by_devno(devno, sysfs=sysfs)
        except (DmsnapError, OSError) as error:  # it went away
            log.debug("device %d has no identity: %s", devno, error)
    return None


def _leads_to(link: Path, devno: int) -> bool:
    try:
        return link.stat().st_rdev == devno
    except OSError:
        return False
