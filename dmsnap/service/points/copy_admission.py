"""What must hold before a snapshot is copied onto a device: checked before the first change."""

from dataclasses import dataclass
from pathlib import Path

from dmsnap.errors import ForeignDeviceError, ReadOnlyError, TooSmallError
from dmsnap.host import blockdev, signature
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.sysfs import SYSFS
from dmsnap.recovery import lease, replica
from dmsnap.service.records import evidence
from dmsnap.service.session import Session
from dmsnap.service.snapshots.snapshot_provider import HeldOrigin
from dmsnap.service.volumes import admission, geometry
from dmsnap.snapshot.space import piece_name
from dmsnap.units import KIB

# Where blkid finds nearly all that it knows, btrfs's superblock at 64 KiB being the last.
HEAD_BYTES = 68 * KIB

# What the UUIDs of LVM's dm devices begin with.
LVM_PREFIX = "LVM-"


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """What the user asked for. ``bandwidth`` in bytes a second, 0: no limit."""

    onto: Path
    overwrite: bool = False
    bandwidth: int = 0


def admit(
    session: Session, source: BlockDevice, origin: HeldOrigin, request: CopyRequest
) -> BlockDevice:
    """The device that may be made a copy of ``source``; nothing is changed."""
    target = BlockDevice.probe(request.onto)
    content = signature.probe(source.path)
    admission.check_content(source, content)
    require_other(source, origin, target)
    admission.check_overwritable(session, target)
    require_no_piece(target)
    if target.read_only:
        raise ReadOnlyError(str(target.path), "a copy")
    admission.require_unheld(target, but_mounts=False)
    if target.size_bytes < source.size_bytes:
        raise TooSmallError(
            str(target.path), target.size_bytes, source.size_bytes, f"a copy of {source.path}"
        )
    geometry.check_size(source, str(target.path), target.logical_block_bytes)
    if target.logical_block_bytes > source.logical_block_bytes:
        geometry.check_content(source, content, str(target.path), target.logical_block_bytes)
    require_free(target, overwrite=request.overwrite)
    return target


def require_other(source: BlockDevice, origin: HeldOrigin, target: BlockDevice) -> None:
    """A copy neither replaces what it is a copy of, nor lies on it, nor below it."""
    for device in (source, origin.device):
        if device is None:
            continue
        for upper, lower in ((target, device), (device, target)):
            if blockdev.depends_on(upper.devno, lower.devno):
                raise ForeignDeviceError(
                    f"{target.path} has to do with {device.path}, which is to be copied: a copy "
                    f"must be another device"
                )


def require_no_piece(target: BlockDevice) -> None:
    """A piece of a store may be in use by nobody for now, and hold nothing that blkid knows."""
    uuid = SYSFS.dm_uuid(target.devno) or ""
    if not uuid.startswith(LVM_PREFIX) and SYSFS.loop_backing_file(target.devno) is None:
        return
    path = evidence.piece_path(target.devno)
    if path is not None and piece_name(path) is not None:
        raise ForeignDeviceError(f"{target.path} is {path}, a piece of a store of dmsnap's")


def require_free(target: BlockDevice, *, overwrite: bool) -> None:
    """Raise when there is something on the device that was not given up."""
    label = replica.read_label(target.path)
    if label is not None:
        lease.require_ours(target.path, label)
    content = signature.probe(target.path)
    if overwrite or (label is None and content is None):
        return
    what = f"is the recovery volume of {label.name}" if label else f"holds {content}"
    raise ForeignDeviceError(f"{target.path} {what}", hint="--overwrite destroys what is on it")
