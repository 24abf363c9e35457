"""What a promoted volume and its former primary have in common, and what either changed since.

A swap's commit leaves two volumes that were equal at one point. What the former primary was written
to after that point is in its era metadata, which is kept; what the promoted volume was written to
is in its own, which began with the trial. The union is all in which the two can differ, as long as
nobody wrote to either past its stack.

A failback's record parts them a second time: what is written to the promoted volume after the last
copy is in its marks alone, and they tell whether there is any, after a power failure, too.
"""

from collections.abc import Sequence
from dataclasses import replace

from dmsnap._native.era import EraMetadata
from dmsnap._native.extent_set import MOST_EXTENTS, ExtentSet
from dmsnap.catalogue.model import Area, Parting, Volume
from dmsnap.errors import DmsnapError
from dmsnap.host import counting, kernel, lun
from dmsnap.host.blockdev import BlockDevice, open_shared
from dmsnap.host.counting import UncountedError
from dmsnap.service.session import Session
from dmsnap.snapshot import stack, write_count
from dmsnap.tracking.choice import OLDEST_KERNEL


def part(session: Session, volume: Volume, promoted: Volume) -> Parting:
    """Take down where the two part. ``volume`` as it is in trial, its old origin still there."""
    point = session.catalogue.find_point(volume.trial_point) if volume.trial_point else None
    known = point is not None and point.tracking_id == volume.tracking_id
    sectors, uncounted = sectors_written(volume.backing)
    return Parting(
        since=point.era_since if point is not None and known else 0,
        reason=_doubt(session, volume, known=known) or uncounted,
        tracking_id=promoted.tracking_id,
        boot_id=kernel.boot_id(),
        sectors_written=sectors,
        device_bytes=volume.device_bytes or volume.size_bytes,
    )


def part_again(volume: Volume, since: int, tracking_id: str) -> Parting:
    """Of a promoted volume that was copied, but for what is written in era ``since`` or later."""
    sectors, uncounted = sectors_written(volume.backing)
    return Parting(
        since=since,
        reason=_doubt_of_kernel() or uncounted,
        tracking_id=tracking_id,
        boot_id=kernel.boot_id(),
        sectors_written=sectors,
        device_bytes=volume.device_bytes or 0,
    )


def unknown(reason: str, tracking_id: str, device_bytes: int) -> Parting:
    """Of a promoted volume and a former primary of which nothing in common is known any more."""
    return Parting(
        since=0,
        reason=reason,
        tracking_id=tracking_id,
        boot_id=kernel.boot_id(),
        sectors_written=0,
        device_bytes=device_bytes,
    )


def _doubt_of_kernel() -> str | None:
    if kernel.version() < OLDEST_KERNEL:
        return "dm-era can lose marks on a crash before Linux 5.12"
    return None


def _doubt(session: Session, volume: Volume, *, known: bool) -> str | None:
    """Why the former primary's marks do not tell everything that was written to it."""
    if (reason := _doubt_of_kernel()) is not None:
        return reason
    if not known:
        return "tracking began anew between the point and the swap"
    former = replace(volume, generation=volume.generation - 1)
    try:
        untouched = write_count.is_untouched(session.configuration.run_directory, former)
    except DmsnapError:
        untouched = False
    if not untouched:
        return f"{volume.backing} may have been written to past its stack before the swap"
    return None


def sectors_written(device: str) -> tuple[int, str | None]:
    """The kernel's count for the former primary, 0 when it is gone; and why that says nothing."""
    try:
        return _counted(BlockDevice.probe(lun.node(device)).devno)
    except DmsnapError:
        return 0, None


def _counted(devno: int) -> tuple[int, str | None]:
    try:
        return counting.sectors_written(devno), None
    except UncountedError as error:
        return 0, str(error)


def doubt(session: Session, volume: Volume, former: BlockDevice) -> str | None:
    """Why the marks of both sides cannot be trusted now; None: they can."""
    known = volume.parting
    if known is None:
        return "it is not known where the two parted"
    if known.reason is not None:
        return known.reason
    if known.boot_id != kernel.boot_id():
        return f"the host was started anew since the two parted: who wrote to {former.path} is lost"
    sectors, uncounted = _counted(former.devno)
    if uncounted is not None:
        return uncounted
    if known.sectors_written != sectors:
        return f"{former.path} was written to since the two parted"
    if known.tracking_id != volume.tracking_id:
        return f"tracking of {volume.name} began anew since the two parted"
    directory = session.configuration.run_directory
    unknown = write_count.doubt(directory, volume)
    beside = write_count.bytes_beside(directory, volume)
    if beside is None:
        return (
            f"it is not known whether {volume.backing} was written to past {volume.name}'s front"
            f"{unknown}"
        )
    if beside:
        return f"{volume.backing} was written to past /dev/mapper/{volume.name}"
    return None


def written_to_former(volume: Volume, areas: Sequence[Area]) -> ExtentSet:
    """What was written to the former primary since the point that both had."""
    assert volume.parting is not None  # noqa: S101 - doubt() was asked before
    former = replace(volume, generation=volume.generation - 1)
    return marked_since(former, areas, volume.parting.since)


def marked_since(volume: Volume, areas: Sequence[Area], since: int) -> ExtentSet:
    """What dm-era has marked of a generation since an era; no front lies over it now."""
    metadata = stack.attach_area(volume, stack.era_area(volume, areas))
    with open_shared(metadata.path) as fd, EraMetadata.open(fd, str(metadata.path)) as era:
        extents = era.written_since(since, most=MOST_EXTENTS)
    extents.clamp(volume.size_bytes)
    return extents
