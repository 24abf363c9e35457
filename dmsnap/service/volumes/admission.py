"""What must hold before a device is protected: every check is made before the first change."""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from dmsnap._native import label
from dmsnap._native.label import Label, LabelState, LabelTwin
from dmsnap.catalogue.identity import led_to
from dmsnap.catalogue.model import LiveFront, Volume, VolumeState
from dmsnap.errors import (
    AlreadyProtectedError,
    BlockSizeError,
    BusyError,
    ForeignDeviceError,
    NoSpaceError,
    ReadOnlyError,
    StoreOnVolumeError,
    TooSmallError,
    WrongWordError,
)
from dmsnap.host import blockdev, filesystem, inventory, loop, lun, lun_path, multipath, signature
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.host.mountinfo import mounts_of
from dmsnap.host.signature import Signature
from dmsnap.host.sysfs import SYSFS, format_devno
from dmsnap.recovery import history, lease, remains, replica
from dmsnap.service.session import Session
from dmsnap.service.volumes import geometry, identity, live_admission
from dmsnap.service.volumes.wanted_recovery import WantedRecovery
from dmsnap.snapshot import live, stack
from dmsnap.snapshot.space import era_metadata_bytes, open_space
from dmsnap.units import KIB, MIB, PAGE_BYTES, format_size

log = logging.getLogger(__name__)

# The dm names made of it must stay under DM_NAME_LEN (128), and a label holds 64 bytes.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")

RESERVED = ("commit", "extend", "revert", "list", "restore")

MIN_CHUNK_BYTES = PAGE_BYTES
MAX_CHUNK_BYTES = MIB

# 64 KiB up to 1 TiB. dm-era's metadata, what it does to them at every suspend, and the time in
# which they are read grow with the number of blocks: so that has a limit, and blocks grow instead.
MIN_BLOCK_BYTES = 64 * KIB
MAX_BLOCKS = 2**24

# What udev names disks by.
LINKS = Path("/dev/disk")

# What other software manages: protect what lies on top of it instead.
MANAGED = {
    "LVM2_member": "an LVM physical volume; protect the logical volumes on it",
    "linux_raid_member": "a member of an MD array; protect the array",
    "swap": "swap space, whose content is worth nothing after a crash",
}


@dataclass(frozen=True, slots=True)
class ProtectRequest:
    """What the user asked for. ``store`` empty: what the configuration says; ``block_bytes`` 0:
    what fits the volume's size.

    ``units``: what systemd stops while a swap exchanges the volume, and starts again.
    ``live``: put the layers under the mounted LV, instead of unmounting it.
    ``identity``: what discovery found on the device. That must still be there and, but for
    ``live``, nobody use it; the volume is one that joins the default sub-client.
    ``anew``: the recovery volume is copied to in full, whatever it served before.
    """

    device: Path
    name: str
    wanted: WantedRecovery
    store: str
    block_bytes: int
    chunk_bytes: int
    units: tuple[str, ...] = ()
    live: bool = False
    identity: str = ""
    anew: bool = False

    def onto(self, recovery: str) -> Self:
        """The request with another recovery volume."""
        return replace(self, wanted=replace(self.wanted, recovery=recovery))

    def as_arguments(self) -> dict[str, object]:
        """For the journal, which takes JSON: what is wanted is among the others there."""
        arguments = asdict(self) | {"device": str(self.device)}
        del arguments["wanted"]
        return arguments | self.wanted.as_arguments()

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Self:
        """The request that the journal has."""
        names = {each.name for each in fields(cls)}
        own = {name: arguments[name] for name in names & arguments.keys()}
        made = {
            "device": Path(arguments["device"]),
            "wanted": WantedRecovery.from_arguments(arguments),
            "units": tuple(arguments.get("units", ())),
        }
        return cls(**own | made)


@dataclass(frozen=True, slots=True)
class Admitted:
    """Devices that passed. ``label`` is that of an earlier protection of the same volume, ``live``
    the front that the device itself is until the next boot.
    """

    backing: BlockDevice
    recovery: BlockDevice
    fs_type: str
    fs_uuid: str
    label: Label | None
    live: LiveFront | None = None

    @property
    def volume_id(self) -> UUID | None:
        return self.label.volume_uuid if self.label else None


def admit(session: Session, request: ProtectRequest) -> Admitted:
    """Check everything that ``protect`` needs; nothing is changed."""
    dm.require_targets(*stack.TARGETS)
    check_sizes(request.block_bytes, request.chunk_bytes)
    backing = BlockDevice.probe(request.device)
    recovery = BlockDevice.probe(lun.node(request.wanted.recovery))
    check_name_is_free(session, request.name)
    check_backing(session, backing)
    content = signature.probe(backing.path)
    check_content(backing, content)
    warn_of_parts(backing, content)
    if request.identity:
        check_as_found(request, backing, content)
    found = check_device(session, request, backing, recovery, content)
    check_store(request, backing)
    live_front = live_admission.admit(session, backing) if request.live else None
    return Admitted(
        backing=backing,
        recovery=recovery,
        fs_type=(content.fs_type if content else None) or "",
        fs_uuid=(content.uuid if content else None) or "",
        label=found,
        live=live_front,
    )


def check_device(
    session: Session,
    request: ProtectRequest,
    backing: BlockDevice,
    recovery: BlockDevice,
    content: Signature | None,
) -> Label | None:
    """Everything that is asked of a recovery device; returns the label of an earlier time."""
    if recovery.devno != backing.devno:
        check_overwritable(session, recovery)
    found = check_recovery(session, request, backing, recovery, content)
    geometry.check_block_sizes(request.store, backing, recovery, content)
    require_store_elsewhere(request.store, recovery)
    return found


def check_name(name: str) -> None:
    """A name must be usable in dm names, file names and unit names as it is."""
    if not NAME.fullmatch(name) or name.startswith(stack.NAME_PREFIX) or name in RESERVED:
        raise WrongWordError(
            f"{name!r} cannot be a volume's name",
            hint="use up to 64 letters, digits and . _ + -, beginning with a letter or digit, "
            f"not with {stack.NAME_PREFIX}; {', '.join(RESERVED)} are words of dmsnap's own",
        )


def with_block_size(request: ProtectRequest) -> ProtectRequest:
    """The request with a block size, chosen where none was asked for."""
    if request.block_bytes:
        return request
    size_bytes = BlockDevice.probe(request.device).size_bytes
    return replace(request, block_bytes=block_bytes_for(size_bytes))


def block_bytes_for(size_bytes: int) -> int:
    """What dm-era tracks as one block of a volume of this size."""
    block_bytes = MIN_BLOCK_BYTES
    while size_bytes > block_bytes * MAX_BLOCKS:
        block_bytes *= 2
    return block_bytes


def check_sizes(block_bytes: int, chunk_bytes: int) -> None:
    """dm-era takes multiples of 4 KiB, dm-snapshot powers of two; both must be powers here."""
    for option, value in (("--block-size", block_bytes), ("--chunk", chunk_bytes)):
        if value < MIN_CHUNK_BYTES or value & (value - 1):
            raise BlockSizeError(f"{option} must be a power of two of at least 4KiB, not {value}")
    if chunk_bytes > MAX_CHUNK_BYTES:
        raise BlockSizeError(f"--chunk must be at most 1MiB, not {chunk_bytes}")


def device_lock(device: BlockDevice) -> str:
    """The lock of a device that is to become a volume's; no volume's name has a colon."""
    return f"device:{format_devno(device.devno)}"


def check_name_is_free(session: Session, name: str) -> None:
    existing = session.catalogue.find_volume(name)
    if existing is not None:
        in_part = existing.state is VolumeState.BUILDING
        raise AlreadyProtectedError(
            f"a volume named {name!r} is protected already{' in part' if in_part else ''}",
            hint=f"dmsnap unprotect {name} gives it back" if in_part else None,
            name=name,
        )
    if dm.info(name) is not None:
        raise BusyError(f"there is a dm device named {name!r} already", hint="use another --name")


def check_not_ours(session: Session, device: BlockDevice) -> None:
    """The device must be no part of any protected volume, not even with ``--overwrite``.

    Nor another loop device of a part's file: the kernel takes the two for two devices.
    """
    for volume, path in recorded_parts(session):
        if is_at(path, device) or is_by_another_name(volume, path, device):
            role = "protected" if path == volume.backing else "the recovery volume"
            if volume.hydration is not None and path == volume.hydration.target:
                role = "being moved to"
            raise AlreadyProtectedError(
                f"{device.path} is {role} already, as part of {volume.name}", volume=volume.name
            )
    for volume in session.catalogue.volumes():
        if identity.may_be_backing(volume, device):
            raise ForeignDeviceError(
                f"{device.path} holds the file system of {volume.name}, which has no stack now, "
                f"and may be its device, by another name than {volume.backing}",
                hint=f"dmsnap assemble {volume.name} comes first",
            )
    if (SYSFS.dm_uuid(device.devno) or "").startswith(dm.UUID_PREFIX):
        raise AlreadyProtectedError(
            f"{device.path} is {SYSFS.display_name(device.devno)}, a device of dmsnap's own"
        )


def check_overwritable(session: Session, device: BlockDevice) -> None:
    """As :func:`check_not_ours`, nor may a part of a volume lie on it: while its stack is not there
    nobody holds a disk for the partition that is one.
    """
    lun_path.require_no_path(device.devno)  # the map's name says more than what lies on it
    check_not_ours(session, device)
    for volume, path in parts(session):
        if blockdev.depends_on(probed(path), device.devno):
            raise AlreadyProtectedError(
                f"{path}, a part of {volume.name}, lies on {device.path}", volume=volume.name
            )


def parts(session: Session) -> Iterator[tuple[Volume, str]]:
    """The devices that volumes have, as far as they are there."""
    for volume, path in recorded_parts(session):
        if lun.is_present(path):
            yield volume, path


def recorded_parts(session: Session) -> Iterator[tuple[Volume, str]]:
    """The devices that volumes have, by their recorded paths."""
    for volume in session.catalogue.volumes():
        target = volume.hydration.target if volume.hydration else None
        for path in (volume.backing, volume.recovery, target):
            if path:
                yield volume, path


def is_at(path: str, device: BlockDevice) -> bool:
    """Whether a recorded path leads to a device now, or to another loop device of its file."""
    if not lun.is_present(path):
        return False
    part = probed(path)
    return part == device.devno or loop.is_same_file(part, device.devno)


def is_by_another_name(volume: Volume, path: str, device: BlockDevice) -> bool:
    """Whether a device is what a volume lies on, or was being moved to, before the disks got other
    names: no stack holds it then. Recovery volumes are known by their labels.

    Where the volume's own is at its path, one that says the same of itself is another: cheap disks
    share their serial numbers.
    """
    known = led_to(volume, path) if path == volume.backing else ""
    if volume.hydration is not None and path == volume.hydration.target:
        known = volume.hydration.identity
    if not identity.is_known_as(known, device.devno):
        return False
    return not (lun.is_present(path) and identity.is_known_as(known, probed(path)))


def probed(recorded: str) -> int:
    """The number of a recorded device."""
    return BlockDevice.probe(lun.node(recorded)).devno


def check_backing(session: Session, backing: BlockDevice) -> None:
    """The device must be free but for mounts, writable, and not part of any stack of ours."""
    check_not_ours(session, backing)
    if backing.read_only:
        raise ReadOnlyError(str(backing.path), "a protected volume")
    found = replica.read_label(backing.path)
    if found is not None and found.state is not LabelState.PRIMARY:
        raise ForeignDeviceError(
            f"{backing.path} is the recovery volume of {found.name}",
            hint="dmsnap unprotect NAME --forget frees a recovery volume",
        )
    require_unheld(backing, but_mounts=True)


def check_content(backing: BlockDevice, content: Signature | None) -> None:
    if content is not None and content.fs_type in MANAGED:
        raise ForeignDeviceError(f"{backing.path} is {MANAGED[content.fs_type]}")


def warn_of_parts(backing: BlockDevice, content: Signature | None) -> None:
    """Say so where a file system lies on several devices: who swaps one of them alone mounts what
    never was, and an XFS's log of now is replayed over its data of then.
    """
    elsewhere = filesystem.part_elsewhere(backing.path, (content and content.fs_type) or "")
    if elsewhere is not None:
        log.warning(
            "%s has not all of its file system: %s lies on another device. What is recovered of "
            "one of them alone cannot be relied on: protect each, take one point of all, and swap "
            "all to that while none is mounted",
            backing.path,
            elsewhere,
        )


def check_as_found(
    request: ProtectRequest, backing: BlockDevice, content: Signature | None
) -> None:
    """What discovery found must be there still, and nobody use it who would have to stop.

    It was found by the name that it had then, without the lock that is held now.
    """
    found = inventory.identity_of(backing.devno, content)
    if found != request.identity:
        raise ForeignDeviceError(
            f"{backing.path} is {found} now, and was {request.identity} when it was found"
        )
    users = "" if request.live else blockdev.describe_users(backing)
    if users:
        raise BusyError(f"{backing.path} is in use by now: {users}", device=str(backing.path))


def check_recovery(
    session: Session,
    request: ProtectRequest,
    backing: BlockDevice,
    recovery: BlockDevice,
    content: Signature | None,
) -> Label | None:
    """The recovery device must be ours to overwrite; returns the label of an earlier time."""
    if recovery.devno == backing.devno:
        raise ForeignDeviceError(f"{recovery.path} cannot be its own recovery volume")
    if recovery.read_only:
        raise ReadOnlyError(str(recovery.path), "a recovery volume")
    require_unheld(recovery, but_mounts=False)
    needed_bytes = history.needed_device_bytes(backing.size_bytes, label.AREA_BYTES)
    if recovery.size_bytes < needed_bytes:
        raise TooSmallError(
            str(recovery.path),
            recovery.size_bytes,
            needed_bytes,
            f"a recovery volume of {backing.path} ({format_size(backing.size_bytes)}, "
            f"its history and its label)",
        )
    require_apart(backing, recovery)
    found = replica.read_label(recovery.path)
    if found is None:
        check_empty(session, request, recovery)
        return None
    return check_label(request, backing, recovery, content, found)


def require_apart(backing: BlockDevice, recovery: BlockDevice) -> None:
    """A recovery volume made of the volume, or below it, dies with it."""
    for upper, lower in ((recovery, backing), (backing, recovery)):
        if blockdev.depends_on(upper.devno, lower.devno):
            raise ForeignDeviceError(
                f"{upper.path} lies on {lower.path}: a recovery volume must be another disk"
            )


def check_empty(session: Session, request: ProtectRequest, recovery: BlockDevice) -> None:
    """Nothing may be on the device; if a pool offers it, what a volume left there is nothing."""
    content = signature.probe(recovery.path)
    wanted = request.wanted
    if content is None or wanted.overwrite:
        return
    known_as = recorded_name(wanted.recovery)
    if wanted.pool and remains.owner_of(session.catalogue, known_as, recovery, content):
        return
    raise ForeignDeviceError(
        f"{recovery.path} holds {content}",
        hint="--overwrite destroys what is on it",
    )


def check_label(
    request: ProtectRequest,
    backing: BlockDevice,
    recovery: BlockDevice,
    content: Signature | None,
    found: Label,
) -> Label | None:
    """A label of the same volume is taken over; any other is refused."""
    if not request.wanted.force:
        lease.require_ours(recovery.path, found)
    same = (
        found.name == request.name
        and found.size_bytes == backing.size_bytes
        and found.fs_uuid == ((content.uuid if content else None) or "")
    )
    # One that a killed sync left is rolled back by the sync that follows.
    trusted = found.twin is not LabelTwin.DOUBTFUL
    whole = found.state in (LabelState.CONSISTENT, LabelState.APPLYING)
    if same and trusted and whole and not request.anew:
        return found
    if request.wanted.overwrite or (same and (not trusted or found.state is LabelState.COPYING)):
        return None
    what = f"in state {found.state.name.lower()}" if same else f"not of {request.name} as it is now"
    raise ForeignDeviceError(
        f"{recovery.path} is the recovery volume of {found.name} ({found.volume_uuid}, "
        f"written by {found.host or 'an unknown host'}), {what}",
        hint="--overwrite destroys it",
    )


def check_store(request: ProtectRequest, backing: BlockDevice) -> None:
    """The store must not lie on the volume, and have room for a point."""
    require_store_elsewhere(request.store, backing)
    space = open_space(request.store)
    needed_bytes = era_metadata_bytes(backing.size_bytes, request.block_bytes) + live.MIN_COW_BYTES
    if space.free_bytes() < needed_bytes:
        raise NoSpaceError(
            f"the store {request.store} has {format_size(space.free_bytes())} free, protecting "
            f"{backing.path} takes at least {format_size(needed_bytes)}"
        )


def require_store_elsewhere(store: str, device: BlockDevice) -> None:
    """Raise :class:`StoreOnVolumeError` when the store lies on a device that it is to serve."""
    space = open_space(store)
    space.require()
    if any(blockdev.depends_on(below, device.devno) for below in space.devices()):
        raise StoreOnVolumeError(store, str(device.path))


def require_unheld(device: BlockDevice, *, but_mounts: bool) -> None:
    """Raise :class:`BusyError` naming who uses a device, mounts not counted when they may be.

    One of several paths is used by whoever uses another.
    """
    lun_path.require_no_path(device.devno)
    if but_mounts and mounts_of(device.devno) and not blockdev.holders(device.devno):
        return
    with blockdev.open_exclusive(device.path, write=False):
        pass


def recorded_name(recovery: str) -> str:
    """How a recovery volume is recorded."""
    return recovery if lun.is_name(recovery) else stable_path(Path(recovery))


def stable_path(device: Path, *, links: Path = LINKS) -> str:
    """A path that names the same device after a reboot, when there is one: else as it is."""
    real = device.resolve()
    for directory in ("by-id", "by-partuuid", "by-path"):
        for link in sorted((links / directory).glob("*"), key=_by_constancy):
            if link.resolve() == real:
                return str(link)
    return os.path.abspath(device) if device.is_symlink() else str(real)  # noqa: PTH100


def _by_constancy(link: Path) -> tuple[bool, str]:
    """The names of multipath devices are multipathd's, and other ones where its bindings are not
    there when it starts (user_friendly_names).
    """
    return multipath.LASTING_LINK.match(link.name) is None, link.name
