"""The first full copy of a volume onto its recovery volume."""

from dataclasses import replace
from uuid import UUID

from dmsnap._native import copy, label
from dmsnap._native.copy import CopyOptions
from dmsnap._native.extent_set import ExtentSet
from dmsnap._native.label import HistoryFlag, Label, LabelState
from dmsnap.catalogue.model import Point, Volume, VolumeState
from dmsnap.extent import Extent
from dmsnap.host import kernel, signature
from dmsnap.host.blockdev import BlockDevice, open_exclusive, open_shared
from dmsnap.host.dm import device as dm
from dmsnap.recovery import history
from dmsnap.service.journal import Step
from dmsnap.service.point import PointSet
from dmsnap.service.progress import Progress, of_total
from dmsnap.service.session import Session
from dmsnap.snapshot import live, stack


class FirstCopy:
    """The steps from a point of a volume to a consistent replica of it.

    There is nothing to undo to: until the last step the label says ``copying``, and when the copy
    is given up it is wiped.
    """

    def __init__(
        self,
        session: Session,
        volume: Volume,
        recovery: BlockDevice,
        cow_percent: int,
        bandwidth: int,
        progress: Progress | None,
    ) -> None:
        self.session = session
        self.volume = volume
        self.recovery = recovery
        self.progress = progress
        self.options = CopyOptions(bytes_per_second=bandwidth)
        self.points = PointSet(session, [volume], temporary=True, cow_percent=cow_percent)
        self.bytes_written = 0  # as data; what was given as zeroes is counted apart
        self.bytes_zero = 0

    @property
    def point(self) -> Point:
        return self.points.points[0]

    def steps(self) -> list[Step]:
        device = self.recovery.path
        return [
            *self.points.steps(),
            Step("label", f"label {device} as being copied to", self._label, self._unlabel),
            Step("copy", f"copy the point in full to {device}", self._copy, self._wipe_copy),
            Step("mark-consistent", "mark the replica as consistent", self._mark_consistent),
            Step(
                "remove-point",
                "remove the live snapshot of the point",
                self._release_point,
                final=True,
            ),
        ]

    def _label(self) -> None:
        """What was on the device goes first: behind the replica its signatures would stay.

        A RAID superblock at the end of a disk, found beside the replica's file system, makes
        blkid and mount refuse to choose.
        """
        signature.wipe(self.recovery.path)
        self._write_label(first_label(self.volume, self.recovery, self.point))

    def _unlabel(self) -> None:
        with open_exclusive(self.recovery.path, write=True) as fd:
            label.wipe(fd, self.recovery.size_bytes, str(self.recovery.path))

    def _write_label(self, new: Label) -> None:
        with open_exclusive(self.recovery.path, write=True) as fd:
            label.write(fd, self.recovery.size_bytes, new, str(self.recovery.path))

    def _copy(self) -> None:
        size_bytes = self.volume.size_bytes
        source = dm.node(stack.live_point(self.volume, self.point.id).name)
        with (
            open_shared(source) as source_fd,
            open_exclusive(self.recovery.path, write=True) as recovery_fd,
        ):
            stats = copy.apply(
                source_fd,
                recovery_fd,
                size_bytes,
                ExtentSet.from_extents([Extent(0, size_bytes)]),
                zero_detection=True,
                progress=of_total(self.progress, size_bytes),
                options=replace(self.options, source_name=str(source)),
                name=str(self.recovery.path),
            )
        self.bytes_written = stats.bytes_written - stats.bytes_zero
        self.bytes_zero = stats.bytes_zero

    def _wipe_copy(self) -> None:
        """A part of a file system must not be found by its UUID beside the whole one."""
        signature.wipe(self.recovery.path)

    def _mark_consistent(self) -> None:
        live.require_valid(self.volume, self.point)
        copying = first_label(self.volume, self.recovery, self.point)
        self._write_label(
            replace(
                copying,
                state=LabelState.CONSISTENT,
                point_uuid=copying.next_point_uuid,
                point_time_ns=copying.next_point_time_ns,
                next_point_uuid=None,
                next_point_time_ns=0,
            )
        )
        self.session.catalogue.update_volume(replace(self.volume, state=VolumeState.PROTECTED))

    def _release_point(self) -> None:
        self.session.settle_on_replica(self.volume, self.point)


def first_label(volume: Volume, recovery: BlockDevice, point: Point) -> Label:
    """The label of a recovery volume that ``point`` is being copied to."""
    region = history.region(volume.size_bytes, label.offset(recovery.size_bytes))
    assert isinstance(volume.recovery_id, UUID)  # noqa: S101 - protect makes one
    return Label(
        generation=0,
        size_bytes=volume.size_bytes,
        volume_uuid=volume.id,
        recovery_uuid=volume.recovery_id,
        state=LabelState.COPYING,
        flags=HistoryFlag(0),
        point_uuid=None,
        point_time_ns=0,
        next_point_uuid=point.id,
        next_point_time_ns=point.created_ns,
        history_offset_bytes=region.offset_bytes,
        history_length_bytes=region.length_bytes,
        name=volume.name,
        fs_type=volume.fs_type,
        fs_uuid=volume.fs_uuid,
        host=kernel.host_name(),
        history=(),
    )
