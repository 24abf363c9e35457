"""What must hold before a volume is moved to another device: checked before the first change."""

from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from dmsnap._native import label
from dmsnap._native.label import Label, LabelState
from dmsnap.catalogue.model import SETTLED, Point, Volume, VolumeState
from dmsnap.errors import (
    BlockSizeError,
    DmsnapError,
    ForeignDeviceError,
    ReadOnlyError,
    TooSmallError,
    WrongStateError,
)
from dmsnap.host import blockdev, interface, inventory, lun, signature
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.signature import Signature
from dmsnap.recovery import history, lease, replica
from dmsnap.service.exports import exported
from dmsnap.service.points import browse
from dmsnap.service.session import Session
from dmsnap.service.volumes import admission
from dmsnap.snapshot import stack


def require_settled(session: Session, volume: Volume) -> None:
    """Raise unless the volume serves from a device of its own, through a stack that is whole."""
    if volume.state not in SETTLED:
        raise WrongStateError(
            f"{volume.name} is in state {volume.state}: it cannot be moved",
            hint="dmsnap swap revert or dmsnap swap commit comes first",
        )
    if stack.exists(stack.base(volume)):
        raise WrongStateError(
            f"{volume.name} was protected while it was mounted: until the next boot LVM's device "
            f"is a part of its stack, and it cannot be moved"
        )
    session.require_stack(volume)
    front = stack.require(stack.front(volume))
    settings = session.configuration
    for directory in (settings.state_directory, settings.run_directory):
        if blockdev.file_depends_on(directory, front.devno):
            raise WrongStateError(
                f"{directory} lies on {volume.name}, which must be held for a moment",
                hint="have state_directory and run_directory on another file system",
            )


def require_catalogue_elsewhere(session: Session, volume: Volume, *, given: bool) -> None:
    """Raise unless the catalogue's server can answer while the volume is held: it records then.

    ``given``: the user says that its data lie elsewhere.
    """
    address = session.catalogue.server()
    if given or address is None or not interface.is_of_this_host(address):
        return
    raise WrongStateError(
        f"the server of the catalogue {session.catalogue.name} is on this host, and may have its "
        f"data on {volume.name}, which must be held for a moment",
        hint="give --force when its data lie on another volume",
    )


def require_points(session: Session, volume: Volume, *, drop: bool) -> list[Point]:
    """The live points, which name the old device in their tables, if they may be dropped."""
    browse.require_unmounted(session, volume)
    found = session.live_points(volume)
    if found and not drop:
        raise WrongStateError(
            f"{len(found)} live points of {volume.name} lie on {volume.backing} and would be lost",
            hint="delete them, or give --drop-points",
        )
    exported.require_live_unexported(session, volume, found)
    return found


def require_not_moving(volume: Volume) -> None:
    """Raise :class:`WrongStateError` while a move of the volume was begun and is not at its end."""
    if volume.hydration is not None:
        raise WrongStateError(
            f"{volume.name} is being moved to {volume.hydration.target}",
            hint=f"end that, or give it up with dmsnap hydrate {volume.name} --abandon",
        )


def choose(volume: Volume, onto: Path | None) -> Path:
    """The device asked for, or the one that an earlier run began with."""
    begun = volume.hydration
    if begun is None:
        if onto is None:
            raise WrongStateError(
                f"no move of {volume.name} was begun",
                hint=f"dmsnap hydrate {volume.name} --onto DEVICE begins one",
            )
        return onto
    target = Path(begun.target)
    if onto is not None and onto.resolve() != target.resolve():
        raise WrongStateError(
            f"{volume.name} is being moved to {target} already",
            hint=f"dmsnap hydrate {volume.name} --abandon gives that up",
        )
    return target


def admit(session: Session, volume: Volume, path: Path, *, overwrite: bool) -> BlockDevice:
    """The new device, fit to be the volume; nothing is changed."""
    target, backing = BlockDevice.probe(path), BlockDevice.probe(lun.node(volume.backing))
    if target.devno == backing.devno:
        raise ForeignDeviceError(f"{volume.name} is on {target.path} already")
    if volume.hydration is None:
        admission.check_overwritable(session, target)
    require_fit(volume, target, backing)
    admission.require_apart(backing, target)
    if volume.recovery is not None and lun.is_present(volume.recovery):
        admission.require_apart(BlockDevice.probe(lun.node(volume.recovery)), target)
    admission.require_store_elsewhere(volume.store, target)
    if not stack.exists(stack.hydrated(volume)):
        admission.require_unheld(target, but_mounts=False)
    if volume.hydration is None:
        require_empty(target, overwrite=overwrite)
    else:
        require_untaken(volume, target)
    return target


def require_fit(volume: Volume, target: BlockDevice, backing: BlockDevice) -> None:
    """Raise unless size, sectors and access are those that the volume needs."""
    if target.read_only:
        raise ReadOnlyError(str(target.path), "a volume")
    needed_bytes = volume.size_bytes
    if volume.state is VolumeState.PROMOTED:  # it keeps its label, by which failback knows it
        needed_bytes = history.needed_device_bytes(volume.size_bytes, label.AREA_BYTES)
    if target.size_bytes < needed_bytes:
        raise TooSmallError(
            str(target.path), target.size_bytes, needed_bytes, f"the content of {volume.name}"
        )
    if target.logical_block_bytes > backing.logical_block_bytes:
        raise BlockSizeError(
            f"{target.path} has sectors of {target.logical_block_bytes} bytes, "
            f"{backing.path} has {backing.logical_block_bytes}: what is mounted could not go on",
            hint="use disks with 512-byte sectors",
        )


def require_empty(target: BlockDevice, *, overwrite: bool) -> None:
    """Raise when there is something on the device that a move is to begin with."""
    found, content = replica.read_label(target.path), signature.probe(target.path)
    if overwrite or (found is None and content is None):
        return
    raise ForeignDeviceError(
        f"{target.path} {_said(found, content)}", hint="--overwrite destroys what is on it"
    )


def require_untaken(volume: Volume, target: BlockDevice) -> None:
    """Raise when somebody made something else of the device since the move was begun.

    A boot lets go of it, and a LUN has other hosts. ``--overwrite`` was for what was there then.
    """
    taken = taken_by(volume, target)
    if taken is not None:
        raise ForeignDeviceError(
            f"{target.path}, to which {volume.name} was being moved, {taken}",
            hint=f"dmsnap hydrate {volume.name} --abandon gives the move up and leaves the device "
            f"as it is; begun anew, --overwrite destroys what is on it",
        )


def taken_by(volume: Volume, target: BlockDevice) -> str | None:
    """What is on the device that the volume did not bring there; None: nothing."""
    another = _other_than_begun(volume, target) or _part_of(volume, target)
    if another is not None:
        return another
    found, content = replica.read_label(target.path), signature.probe(target.path)
    if found is not None and not _is_label_of_move(volume, found):
        return _said(found, content)
    if content is None or (volume.fs_uuid and content.uuid == volume.fs_uuid):
        return None
    return None if _is_of_source(volume, content, signature.probe) else _said(None, content)


def _other_than_begun(volume: Volume, target: BlockDevice) -> str | None:
    """Whether the path leads to another device than the move was begun with, as kernel names do
    after a boot: what is on it may be the same, as on a replica, or nothing.
    """
    known = volume.hydration.identity if volume.hydration else ""
    identity = inventory.device_identity(target.devno)
    if not known or known == identity:
        return None
    return f"is another device now: {identity}, not {known}"


def _part_of(volume: Volume, target: BlockDevice) -> str | None:
    """What the device is to the volume beside the new one: each has its file system."""
    begun = volume.hydration
    parts = [(volume.backing, "device"), (volume.recovery, "recovery volume")]
    # It may move back to where it was: that is recorded by the same path.
    formerly = [path for path in (volume.previous_backing, *volume.left_behind) if path]
    parts += [(path, "former device") for path in formerly if begun and path != begun.target]
    for path, part in parts:
        if path and lun.is_present(path) and admission.probed(path) == target.devno:
            return f"is the {part} of {volume.name}, {path}"
    return None


def _is_label_of_move(volume: Volume, found: Label) -> bool:
    """Whether a move leaves that label: a part of the volume's content, or that of the promoted
    volume. The volume's own replica has its id, too.
    """
    if found.volume_uuid != volume.id or not lease.is_ours(found):
        return _is_of_source(volume, found, replica.read_label)
    return found.state is LabelState.PRIMARY and _is_of_source(
        volume, found.recovery_uuid, _recovery_uuid
    )


def _recovery_uuid(path: Path) -> UUID | None:
    found = replica.read_label(path)
    return None if found is None else found.recovery_uuid


def _is_of_source(volume: Volume, found: object, look: Callable[[Path], object]) -> bool:
    """Whether the volume's own device has the same: it may have been formatted since it was looked
    at last, or have been another volume's recovery volume once.
    """
    try:
        return look(lun.node(volume.backing)) == found
    except DmsnapError:  # it may be what fails
        return False


def _said(found: Label | None, content: Signature | None) -> str:
    if found is None:
        return f"holds {content}"
    if found.state is LabelState.PRIMARY:
        return f"is the device of {found.name}"
    return f"is the recovery volume of {found.name}"
