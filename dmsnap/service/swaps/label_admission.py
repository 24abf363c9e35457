"""What must hold before a volume is recovered by the label of its recovery volume alone."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from dmsnap._native.label import Label, LabelState
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import Area, MountRecord, Volume, VolumeState
from dmsnap.errors import (
    AlreadyProtectedError,
    BusyError,
    DmsnapError,
    ForeignDeviceError,
    NoSpaceError,
    NotFoundError,
    StackChangedError,
    WrongStateError,
)
from dmsnap.host import kernel, lun, mountinfo, reach, signature
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.recovery import lease, replica, search
from dmsnap.recovery.lease import OPTION_SEPARATOR
from dmsnap.service.records import evidence
from dmsnap.service.session import Session
from dmsnap.service.volumes import admission, identity
from dmsnap.snapshot import stack
from dmsnap.snapshot.space import open_space
from dmsnap.tracking.choice import new_tracking_id
from dmsnap.units import format_size, to_bytes

log = logging.getLogger(__name__)

# The volume's own generation is 1; what its trial shows is the next.
PRIMARY_GENERATION = 1
BLOCK_BYTES = 65536  # where the label does not say it: what protect takes by default
CHUNK_BYTES = 4096


@dataclass(frozen=True, slots=True)
class LabelRequest:
    """What the user asked for. ``to`` is a point or the first digits of one, None: the newest.

    ``force``: take the recovery volume over from another host that claims it.
    """

    device: Path
    store: str
    to: str | None = None
    mount: Path | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class Meant:
    """The recovery volume that a job was about, as far as it says: earlier ones say less."""

    name: str | None
    recovery_id: str | None

    def require(self, device: Path, found: Label) -> None:
        """Raise :class:`ForeignDeviceError` when a device is another one by now."""
        same_name = self.name in (None, found.name)
        if same_name and self.recovery_id in (None, str(found.recovery_uuid)):
            return
        raise ForeignDeviceError(
            f"{device} is recovery volume {found.recovery_uuid} of {found.name}, expected "
            f"{self.recovery_id or 'that'} of {self.name}: another device has its name by now",
            hint="dmsnap swap --from-label DEVICE begins with the device that it is now",
        )


def require_same(path: Path, found: Label, current: Label) -> None:
    """Raise :class:`BusyError` when a label says something else than it did when all was planned:
    somebody writes to the replica, or has, and where undo stores were others may be by now.

    Each writing of a label counts, also one that says the same: by it another host has given a sign
    of life, from which it may have been taken as dead.
    """
    if (current.generation, current.state, current.point_uuid, current.history) != (
        found.generation,
        found.state,
        found.point_uuid,
        found.history,
    ):
        raise BusyError(
            f"{path} was written to since its label was read: it was {_told(found)}, and is "
            f"{_told(current)} now",
            hint="make sure that no other host uses it, and begin again",
        )


def _told(label: Label) -> str:
    return (
        f"{label.state.name.lower()} with point {label.point_uuid} (generation {label.generation})"
    )


def admit(session: Session, request: LabelRequest, recovery: BlockDevice, found: Label) -> None:
    """Check all that can be before anything is changed."""
    dm.require_targets(*stack.TARGETS)
    admission.check_name(found.name)
    require_unknown(session, found)
    lease.require_trusted(recovery.path, found)
    if not request.force:
        lease.require_ours(recovery.path, found)
    others = search.search(session.configuration.primary_wait_seconds).found
    search.require_no_twin(recovery, found, others)
    admission.require_unheld(recovery, but_mounts=False)


def require_unknown(session: Session, found: Label) -> None:
    """A volume that is recorded, or whose stack lives, is recovered by its name."""
    recorded = session.catalogue.find_volume(found.name)
    if recorded is not None:
        raise AlreadyProtectedError(
            f"{found.name} is protected on this host",
            hint=f"dmsnap swap {found.name} recovers it",
            name=found.name,
        )
    info = dm.info(uuid=f"{dm.UUID_PREFIX}{found.volume_uuid}-front")
    if info is not None:
        raise StackChangedError(
            f"the stack of {found.name} is there, as /dev/mapper/{info.name}, and is not recorded",
            hint="dmsnap catalogue rebuild records it again",
        )
    admission.check_name_is_free(session, found.name)


def require_room(store: str, recovery: BlockDevice, areas: list[Area]) -> None:
    """The overlay must not lie on what it is for, and there must be room for it."""
    admission.require_store_elsewhere(store, recovery)
    space = open_space(store)
    needed_bytes = sum(area.size_bytes for area in areas)
    if space.free_bytes() < needed_bytes:
        raise NoSpaceError(
            f"the store {store} has {format_size(space.free_bytes())} free, the trial takes "
            f"{format_size(needed_bytes)}"
        )


def find_point(found: Label, text: str) -> UUID:
    """The point of a label whose id begins with ``text``."""
    digits = text.lower().replace("-", "")
    fitting = [each for each in evidence.ids_in(found) if each.hex.startswith(digits)]
    if len(fitting) == 1:
        return fitting[0]
    raise NotFoundError(
        f"{text!r} fits {len(fitting)} points of the recovery volume of {found.name}",
        hint="dmsnap inspect label DEVICE shows them",
        point=text,
    )


def new_volume(
    request: LabelRequest, recovery: BlockDevice, found: Label, patience_seconds: float
) -> Volume:
    """The volume as it will be recorded, in trial.

    Its own device is given up that does not answer within the time.
    """
    backing, device_bytes = primary_of(found, patience_seconds)
    volume = Volume(
        id=found.volume_uuid,
        name=found.name,
        state=VolumeState.TRIAL,
        backing=backing,
        recovery=evidence.stable_name(recovery.devno),
        recovery_id=found.recovery_uuid,
        store=request.store,
        size_bytes=found.size_bytes,
        block_bytes=to_bytes(found.block_size) or BLOCK_BYTES,
        chunk_bytes=to_bytes(found.chunk_size) or CHUNK_BYTES,
        fs_type=found.fs_type,
        fs_uuid=found.fs_uuid,
        mounts=mounts_for(request, found),
        generation=PRIMARY_GENERATION + 1,
        tracking_id=new_tracking_id(),
        created_ns=now_ns(),
        device_bytes=device_bytes,
    )
    return with_certain_primary(volume)


def with_certain_primary(volume: Volume) -> Volume:
    """The volume, without a device of its own where another one may be that as well."""
    try:
        if volume.backing:
            device = BlockDevice.probe(lun.node(volume.backing))
            identity.require_led_to(volume, volume.backing, device)
    except ForeignDeviceError as error:
        log.warning("%s; there will be no way back to it", error)
        return replace(volume, backing="", device_bytes=None)
    return volume


def primary_of(found: Label, patience_seconds: float) -> tuple[str, int | None]:
    """The volume's own device; empty where it is not certain that this is it.

    With what it has in all, where it keeps a label behind the volume's end. Another host's paths
    lead to other devices here, and the device may be what was lost, or hang.
    """
    if not found.device or not found.host_uuid or not lease.is_ours(found):
        return "", None
    try:
        # Before it is opened: a label may name anything, and opening alone arms a watchdog, rewinds
        # a tape, waits for who writes to a pipe.
        device = BlockDevice.probe(lun.node(found.device))
        if not reach.reads(device.path, patience_seconds):
            log.warning("%s does not answer: there will be no way back to it", found.device)
            return "", None
        on_it = replica.read_label(device.path)
        content = signature.probe(device.path)
    except DmsnapError:
        return "", None
    is_replica = on_it is not None and on_it.state is not LabelState.PRIMARY
    same = content is None or content.uuid in (None, found.fs_uuid)
    if is_replica or not same:
        return "", None
    if device.size_bytes == found.size_bytes:
        return found.device, None
    kept = on_it is not None and on_it.volume_uuid == found.volume_uuid
    same_size = on_it is not None and on_it.size_bytes == found.size_bytes
    return (found.device, device.size_bytes) if kept and same_size else ("", None)


def mounts_for(request: LabelRequest, found: Label) -> tuple[MountRecord, ...]:
    """Where to mount what is shown: where it is asked for, else where it was."""
    place = str(request.mount.absolute()) if request.mount else found.mount_point
    if not found.fs_type and request.mount:
        raise WrongStateError(f"{found.name} holds no file system that could be mounted")
    if not place or not found.fs_type:
        return ()
    if not Path(place).is_dir():
        raise NotFoundError(
            f"{found.name} cannot be mounted on {place}: there is no such directory",
            hint="make it, or give another one with --mount DIR",
        )
    present = mountinfo.mount_at(Path(place))
    if present is not None:
        raise BusyError(
            f"{present.source} is mounted on {place}",
            hint="unmount it first, or give another place with --mount DIR",
        )
    _require_meant(request, found, Path(place))
    options = tuple(found.mount_options.split(OPTION_SEPARATOR)) if found.mount_options else ()
    return (MountRecord(place, found.fs_type, options),)


def _require_meant(request: LabelRequest, found: Label, place: Path) -> None:
    """What another host's label says is mounted over an empty directory, and over no other."""
    if request.mount or found.host_uuid == kernel.machine_id() or not any(place.iterdir()):
        return
    raise WrongStateError(
        f"{found.name} was mounted on {place} where its label was written; here that directory has "
        f"something in it",
        hint=f"--mount {place} mounts it there nevertheless, --mount DIR elsewhere",
    )
