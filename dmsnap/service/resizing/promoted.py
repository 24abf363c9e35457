"""A promoted volume that grows: how large it is to be, and what its label says of it.

Its device carries the label behind the volume, and keeps it: failback makes that a recovery volume
again. So the volume is as large as its former primary, to which failback leads; where there is none
any more, it has all of its device but the label and the smallest history.
"""

from dataclasses import dataclass, replace
from functools import partial

from dmsnap._native import label
from dmsnap.catalogue.model import AreaRole, Volume, VolumeState
from dmsnap.errors import WrongStateError
from dmsnap.host import lun
from dmsnap.host.blockdev import BlockDevice
from dmsnap.recovery import history
from dmsnap.service.health import boot
from dmsnap.service.pools import pool_return
from dmsnap.service.resizing import replica_growth, sizes
from dmsnap.service.resizing.replica_growth import Acknowledge
from dmsnap.service.session import Session
from dmsnap.service.swaps import failback, handover
from dmsnap.snapshot import write_count
from dmsnap.units import format_size


@dataclass(frozen=True, slots=True)
class Former:
    """The former primary of a promoted volume; ``size_bytes`` None: it is not there."""

    device: str
    size_bytes: int | None

    @property
    def sentence(self) -> str:
        has = f"has {format_size(self.size_bytes)}" if self.size_bytes else "is not there"
        return f"{self.device}, to which failback leads, {has}"


def is_promoted(volume: Volume) -> bool:
    """Whether the label lies on the volume's own device."""
    return volume.state is VolumeState.PROMOTED


def as_labelled(volume: Volume) -> Volume:
    """The volume as its label sees it: on a recovery volume, whose device is the former primary."""
    if not is_promoted(volume):
        return volume
    return replace(volume, recovery=volume.backing, backing=volume.previous_backing or "")


def former_of(volume: Volume) -> Former | None:
    """The former primary that failback leads to, checked for being that when it is there."""
    if not is_promoted(volume) or volume.previous_backing is None:
        return None
    size_bytes = sizes.bytes_of(volume.previous_backing)
    if size_bytes is not None:
        device = BlockDevice.probe(lun.node(volume.previous_backing))
        failback.require_content(volume, device)
    return Former(volume.previous_backing, size_bytes)


def size_of(volume: Volume, former: Former | None, device_bytes: int) -> int:
    """How large the volume is to be on a device of ``device_bytes``; never smaller than it is."""
    if former is not None:
        return max(former.size_bytes or 0, volume.size_bytes)
    largest = history.largest_replica_bytes(label.offset(device_bytes))
    return max(largest, volume.size_bytes)


def require_followed(volume: Volume, former: Former | None, *, displaced: bool) -> None:
    """Raise when the volume cannot follow, as failback would have nowhere to go.

    ``displaced``: the device was made larger, which the label shows.
    """
    if former is None:
        return
    is_smaller = former.size_bytes is not None and former.size_bytes < volume.size_bytes
    is_larger = former.size_bytes is not None and former.size_bytes > volume.size_bytes
    if is_larger or not (displaced or is_smaller):
        return
    raise WrongStateError(
        f"{volume.name} keeps its {format_size(volume.size_bytes)}: {former.sentence}",
        hint=f"make {former.device} as large as {volume.name} is to be; or give --keep-size, by "
        f"which only the label of {volume.backing} is moved, or --give-up-former, and there is no "
        f"failback any more",
    )


def without_former(volume: Volume) -> Volume:
    """The volume with no way back, and the former primary a copy that it left behind."""
    former = volume.previous_backing
    if not is_promoted(volume) or former is None:
        raise WrongStateError(f"{volume.name} has no former primary that could be given up")
    left_behind = (*(path for path in volume.left_behind if path != former), former)
    return replace(volume, previous_backing=None, parting=None, left_behind=left_behind)


def leave_former(session: Session, volume: Volume, former: str) -> None:
    """Have the former primary be in nobody's way, and give back what failback needed of it."""
    boot.hide(volume)
    release_marks(session, volume)
    if sizes.bytes_of(former) is not None:
        pool_return.leave(session, volume, former, offer=True)


def release_marks(session: Session, volume: Volume) -> None:
    """Give back the era metadata of the former primary once nothing leads back to it."""
    if not is_promoted(volume) or volume.previous_backing is not None:
        return
    for area in session.catalogue.areas(volume.id, AreaRole.ERA_METADATA):
        if handover.is_older(volume, area):
            session.release_area(volume, area)


def acknowledging(session: Session, volume: Volume) -> Acknowledge | None:
    """What counts our own writes to a promoted volume's device, which pass its front by."""
    if not is_promoted(volume):
        return None
    return partial(write_count.acknowledge, session.configuration.run_directory, volume)


def settle_label(session: Session, volume: Volume, former_bytes: int) -> bool:
    """Put a label right that a killed command left; what that wrote is known to nobody."""
    moved = False
    labelled = as_labelled(volume)
    if labelled.recovery is not None:
        acknowledge = acknowledging(session, volume)
        moved = replica_growth.settle_label(labelled, former_bytes, acknowledge)
    if is_promoted(volume):
        _settle_count(session, volume)
    return moved


def _settle_count(session: Session, volume: Volume) -> None:
    """Labels of the killed command look like anybody's writes: so tracking begins anew.

    With live points, in which such writes are not, they go on being told of.
    """
    directory = session.configuration.run_directory
    if not write_count.bytes_beside(directory, volume):
        return
    session.distrust(volume)
    if not session.live_points(volume):
        write_count.remember(directory, volume)
