"""Whether the device at a recorded path is still the volume's: kernel names change at a reboot."""

from pathlib import Path

from dmsnap._native.label import LabelState
from dmsnap.catalogue.model import Volume
from dmsnap.errors import ForeignDeviceError
from dmsnap.host import lun, signature
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.signature import Signature
from dmsnap.recovery import replica


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
    """As :func:`require_no_replica`, and no other file system may be there than was recorded.

    A path of udev's or LVM's making names the device itself: what is on it may have been made anew.
    """
    require_no_replica(volume)
    if Path(volume.backing).parent != Path("/dev") or not volume.fs_uuid:
        return
    content = signature.probe(Path(volume.backing))
    if content is not None and content.uuid not in (None, volume.fs_uuid):
        raise ForeignDeviceError(
            f"{volume.backing} holds {content}, {volume.name} held {volume.fs_type} "
            f"(UUID {volume.fs_uuid}) when it was last looked at",
            hint="the disks have other names than before; if it was formatted anew, unprotect it "
            "and protect it again",
        )
