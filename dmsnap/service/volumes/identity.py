"""Whether the device at a recorded path is still the volume's: kernel names change at a reboot."""

import logging
from pathlib import Path

from dmsnap._native.label import LabelState
from dmsnap.catalogue import identity
from dmsnap.catalogue.model import Volume
from dmsnap.errors import DmsnapError, ForeignDeviceError
from dmsnap.host import inventory, lun, signature
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.device_path import names_device, names_place
from dmsnap.host.signature import Signature
from dmsnap.host.sysfs import SYSFS
from dmsnap.recovery import replica
from dmsnap.service.session import Session
from dmsnap.service.volumes import twins
from dmsnap.service.volumes.twins import Host, Twins
from dmsnap.snapshot import stack

log = logging.getLogger(__name__)

_DEV = Path("/dev")


def is_foreign(volume: Volume, content: Signature | None) -> bool:
    """Whether what is on a device is another file system than the volume's.

    A device without any signature may be the volume, spoiled.
    """
    return content is not None and (content.uuid or "") != volume.fs_uuid


def require_no_replica(volume: Volume) -> None:
    """Raise :class:`ForeignDeviceError` when the volume's path leads to a recovery volume.

    Two disks that changed their names: the replica has the file-system UUID, and would be mounted
    and written to as if it were the volume.
    """
    device = BlockDevice.probe(lun.node(volume.backing))
    found = replica.read_label(device.path)
    if found is not None and found.state is not LabelState.PRIMARY:
        raise ForeignDeviceError(
            f"{volume.backing} is the recovery volume of {found.name} ({found.recovery_uuid}), "
            f"not the device of {volume.name}",
            hint="the disks have other names than before; put them back where they were",
        )


def require_backing(volume: Volume) -> None:
    """As :func:`require_no_replica`, the device must be that which the path led to, and no other
    file system may be there than was recorded.

    A path of udev's or LVM's making names the device itself: what is on it may have been made anew.
    """
    require_no_replica(volume)
    device = BlockDevice.probe(lun.node(volume.backing))
    if is_below_stack(volume, device):
        return
    require_led_to(volume, volume.backing, device)
    if Path(volume.backing).parent != _DEV or not volume.fs_uuid:
        return
    content = signature.probe(device.path)
    if content is not None and content.uuid not in (None, volume.fs_uuid):
        raise ForeignDeviceError(
            f"{volume.backing} holds {content}, {volume.name} held {volume.fs_type} "
            f"(UUID {volume.fs_uuid}) when it was last looked at",
            hint="the disks have other names than before; if it was formatted anew, unprotect it "
            "and protect it again",
        )


def is_below_stack(volume: Volume, device: BlockDevice) -> bool:
    """Whether the volume's origin lies on the device: since it was built nothing was exchanged."""
    found = stack.find(stack.origin(volume))
    return found is not None and found.devno in SYSFS.holders(device.devno)


def require_led_to(
    volume: Volume, path: str, device: BlockDevice, host: Host | None = None
) -> None:
    """Raise :class:`ForeignDeviceError` unless ``device``, at a recorded path of the volume's, is
    the one that the path led to when it was recorded.

    By the identity of the device that is recorded with it. Where it has none of its own, another
    one of its size with the same on it may be meant as well: nobody can tell then, unless the path
    is that of a place.
    """
    if names_device(path):
        return
    host = host or Host()
    known = identity.led_to(volume, path)
    found = inventory.device_identity(device.devno, sysfs=host.sysfs)
    if inventory.is_telling(known):
        if found != known:
            raise _exchanged(volume, path, found, known, host)
        if not inventory.may_be_shared(known):
            return
    elif (other := twins.elsewhere(volume, path).get(found)) is not None:
        raise ForeignDeviceError(
            f"{path} is {found}, which {volume.name} had at {other}, and has another device there",
            hint="the disks have other names than before; put them back where they were",
        )
    if names_place(path):
        return
    found_twins = twins.of(volume, path, device, known, host)
    if found_twins.others:
        raise _undecided(volume, path, found_twins)


def _exchanged(volume: Volume, path: str, found: str, known: str, host: Host) -> ForeignDeviceError:
    now = inventory.find_device(known, sysfs=host.sysfs)
    where = f"which is {now} now" if now else "which is not there"
    return ForeignDeviceError(
        f"{path} is another device than {volume.name} has there: {found}, and not {known}, {where}",
        hint="the disks have other names than before; put them back where they were (of a loop "
        f"device: losetup {path} FILE)",
    )


def _undecided(volume: Volume, path: str, found: Twins) -> ForeignDeviceError:
    others = " and ".join(map(str, found.others))
    what = f"{volume.fs_type} (UUID {volume.fs_uuid})" if volume.fs_uuid else "no file system"
    if found.here:
        sentence = (
            f"{path} and {others} both hold {what}, as {volume.name} does: which of them is its "
            f"device cannot be told"
        )
        return ForeignDeviceError(
            sentence,
            hint="look which of them is the newer one (mount -o ro), and detach the other, or wipe "
            f"it with wipefs -a; dmsnap has no other name of its device than {path}",
        )
    return ForeignDeviceError(
        f"{path} does not hold {what}, as {volume.name} does, and {others} does",
        hint="the disks have other names than before; put them back where they were; if "
        f"{volume.name} was spoiled, take {others} away",
    )


def noted(volume: Volume, path: str, devno: int) -> Volume:
    """The volume with what is known now of the device that one of its paths leads to."""
    try:
        found = inventory.device_identity(devno)
    except (DmsnapError, OSError) as error:
        log.warning("which device %s is cannot be recorded: %s", path, error)
        found = ""
    return identity.leading(volume, path, found)


def is_known_as(known: str, devno: int) -> bool:
    """Whether a device certainly is one whose identity was recorded."""
    return inventory.is_telling(known) and inventory.device_identity(devno) == known


def may_be_backing(volume: Volume, device: BlockDevice) -> bool:
    """Whether a device may be the one that a volume lies on, by another name: no stack holds that
    now, and it has no identity by which it would be known.
    """
    path = volume.backing
    if not path or not volume.fs_uuid or names_device(path) or names_place(path):
        return False
    if inventory.is_telling(identity.led_to(volume, path)) or stack.find(stack.origin(volume)):
        return False
    label, content = replica.read_label(device.path), signature.probe(device.path)
    is_replica = label is not None and label.state is not LabelState.PRIMARY
    return content is not None and content.uuid == volume.fs_uuid and not is_replica


def note_backing(session: Session, volume: Volume) -> None:
    """Record which device the volume lies on, while its stack says so."""
    recorded = session.catalogue.volume_by_id(volume.id)
    device = BlockDevice.probe(lun.node(recorded.backing))
    if is_below_stack(recorded, device):
        known = noted(recorded, recorded.backing, device.devno)
        if known != recorded:
            session.catalogue.update_volume(known)
