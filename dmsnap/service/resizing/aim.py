"""What a volume is to be after a resize, and whether that may begin."""

import logging
from dataclasses import dataclass, replace

from dmsnap.catalogue.model import SETTLED, Volume, VolumeState
from dmsnap.errors import NotFoundError, WrongStateError
from dmsnap.host import lun
from dmsnap.recovery import replica
from dmsnap.service.exports import exported
from dmsnap.service.hydrations import destination
from dmsnap.service.points import browse
from dmsnap.service.resizing import promoted, sizes
from dmsnap.service.session import Session
from dmsnap.service.volumes import admission, identity
from dmsnap.snapshot import layers
from dmsnap.tracking.choice import new_tracking_id

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ResizeRequest:
    """What the user agreed to.

    ``drop_points``: what stands in the way may go, live points and the oldest of the history.
    ``keep_size``: the volume stays as it is, and so is its device's size from now on.
    ``give_up_former``: a promoted volume does without failback.
    """

    drop_points: bool = False
    keep_size: bool = False
    give_up_former: bool = False


def require_settled(session: Session, volume: Volume) -> int | None:
    """What the volume's device has, checked; raises unless nobody works on device and replica.

    None when the device is gone: the recovery volume's label can still be moved, and is needed.
    """
    if volume.state not in SETTLED:
        raise WrongStateError(
            f"{volume.name} is in state {volume.state}: it cannot be resized",
            hint="dmsnap swap revert or dmsnap swap commit comes first",
        )
    destination.require_not_moving(volume)
    browse.require_unmounted(session, volume)
    exported.require_replica_unexported(session, volume)
    size_bytes = sizes.bytes_of(volume.backing)
    if size_bytes is None:
        if volume.state is VolumeState.PROMOTED:
            raise NotFoundError(f"{volume.backing}, the device of {volume.name}, is not there")
        log.warning("%s is not there: only the recovery volume is looked at", volume.backing)
        return None
    identity.require_backing(volume)
    sizes.require_not_shrunk(volume)
    if layers.dropped(volume) is None and not sizes.is_behind(volume):
        session.require_stack(volume)
    return size_bytes


def after(
    volume: Volume,
    request: ResizeRequest,
    former: promoted.Former | None,
    device_bytes: int | None,
) -> Volume:
    """The volume as it is to be on a device of ``device_bytes``; itself where that is gone."""
    if device_bytes is None:
        return volume
    wanted = promoted.without_former(volume) if request.give_up_former else volume
    size_bytes = device_bytes
    if request.keep_size or is_filled(volume, device_bytes):
        size_bytes = volume.size_bytes
    elif promoted.is_promoted(volume):
        size_bytes = promoted.size_of(volume, former, device_bytes)
    if size_bytes > volume.size_bytes:
        wanted = grown(wanted, size_bytes)
    return replace(wanted, device_bytes=sizes.to_record(wanted, device_bytes))


def is_filled(volume: Volume, device_bytes: int) -> bool:
    """Whether what a device has behind the volume is what a recovery volume has there: it was that
    before, keeps its label, and is no larger than it was then.
    """
    if volume.state is not VolumeState.PROTECTED or device_bytes > (volume.device_bytes or 0):
        return False
    return replica.is_of_primary(replica.read_label(lun.node(volume.backing)), volume)


def grown(volume: Volume, size_bytes: int) -> Volume:
    """The volume with another size; larger blocks of dm-era where there would be too many."""
    block_bytes = max(volume.block_bytes, admission.block_bytes_for(size_bytes))
    return replace(
        volume,
        size_bytes=size_bytes,
        block_bytes=block_bytes,
        tracking_id=new_tracking_id(),
    )
