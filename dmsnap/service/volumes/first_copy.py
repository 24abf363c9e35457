"""The first full copy of a volume onto its recovery volume."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from uuid import UUID

from dmsnap._native import copy, label
from dmsnap._native.copy import CopyOptions
from dmsnap._native.extent_set import ExtentSet
from dmsnap._native.io_priority import lowered
from dmsnap._native.label import HistoryFlag, Label, LabelState
from dmsnap.catalogue import skipped
from dmsnap.catalogue.model import Point, Volume, VolumeState
from dmsnap.catalogue.skipped import Skipped
from dmsnap.errors import ForeignDeviceError, OperatingSystemError
from dmsnap.host import kernel, signature
from dmsnap.host.blockdev import BlockDevice, open_exclusive, open_shared
from dmsnap.host.dm import device as dm
from dmsnap.host.signature import Signature
from dmsnap.recovery import history, lease, replica
from dmsnap.service.journal import Step
from dmsnap.service.points.point import PointSet
from dmsnap.service.progress import Progress, of_total
from dmsnap.service.replicas import rolling
from dmsnap.service.session import Session
from dmsnap.service.volumes.wanted_recovery import WantedRecovery
from dmsnap.snapshot import live, stack, usage, write_count
from dmsnap.snapshot.usage import Usage
from dmsnap.tracking import era

Marks = tuple[Label | None, Signature | None]


class FirstCopy:
    """The steps from a point of a volume to a consistent replica of it.

    There is nothing to undo to: until the last step the label says ``copying``, and when the copy
    is given up it is wiped. ``volume`` has the recovery volume; ``before`` is how it is recorded
    until that is whole, where that is something else.
    """

    def __init__(
        self,
        session: Session,
        volume: Volume,
        recovery: BlockDevice,
        wanted: WantedRecovery,
        progress: Progress | None,
        *,
        before: Volume | None = None,
    ) -> None:
        self.session = session
        self.volume = volume
        self.before = before or volume
        self.recovery = recovery
        self.full = wanted.full
        self.io_priority = wanted.priority
        self.found = what_is_on(recovery)
        self.progress = progress
        self.options = CopyOptions(bytes_per_second=wanted.bandwidth)
        self.points = PointSet(session, [volume], temporary=True, cow_percent=wanted.cow_percent)
        self.bytes_written = 0  # as data; what was given as zeroes is counted apart
        self.bytes_zero = 0
        self.usage = Usage(reason="all of it was asked for")
        self.skipped = ExtentSet()
        self.marked = False  # from then on the label may say that the copy is whole

    @property
    def bytes_skipped(self) -> int:
        return self.skipped.bytes

    @property
    def full_reason(self) -> str | None:
        return self.usage.reason

    @property
    def point(self) -> Point:
        return self.points.points[0]

    def steps(self) -> list[Step]:
        device = self.recovery.path
        copied = "in full" if self.full else "but for what its file system does not use"
        ask = Step("ask-usage", "ask the file system what it does not use", self._ask_usage)
        return [
            *([] if self.full else [ask]),
            *self.points.steps(),
            Step(
                "label",
                f"label {device} as being copied to",
                self._label,
                partial(replica.wipe_label, self.recovery.path),
                check=self._require_untouched,
            ),
            Step("copy", f"copy the point to {device}, {copied}", self._copy, self._wipe_copy),
            Step(
                "mark-consistent",
                "mark the replica as consistent",
                self._mark_consistent,
                partial(self.session.catalogue.update_volume, self.before),
            ),
            Step(
                "remove-point",
                "remove the live snapshot of the point",
                self._release_point,
                final=True,
            ),
        ]

    def _require_untouched(self) -> None:
        """Unmounting and taking the point take their time: the device may have become another's."""
        require_unchanged(self.recovery, self.found)

    def _label(self) -> None:
        """What was on the device goes first: behind the replica its signatures would stay.

        A RAID superblock at the end of a disk, found beside the replica's file system, makes
        blkid and mount refuse to choose.
        """
        replica.make_blank(self.recovery.path)
        self._write_label(first_label(self.volume, self.recovery, self.point))

    def _write_label(self, new: Label) -> None:
        with open_exclusive(self.recovery.path, write=True) as fd:
            label.write(fd, self.recovery.size_bytes, new, str(self.recovery.path))

    def _ask_usage(self) -> None:
        self.usage = usage.ask(self.volume)

    def _left_out(self) -> ExtentSet:
        """What the point certainly does not use; the answer is older than the point."""
        if not self.usage.free:
            return ExtentSet()
        directory, counts = self.session.configuration.run_directory, self.points.counts[0]
        if write_count.bytes_before(directory, self.volume, counts) != 0:
            self.usage = Usage(reason="it may have been written to past its front")
            return ExtentSet()
        with rolling.giving_up_marks(self.session, self.volume):
            written = rolling.marked_since(self.session, self.volume, era.FIRST)
        return usage.left_out(self.usage.free, written, self.volume.size_bytes)

    def _copy(self) -> None:
        self.skipped = self._left_out()
        self._record_skipped()
        size_bytes = self.volume.size_bytes
        extents = ExtentSet.whole(size_bytes).without(self.skipped)
        source = dm.node(stack.live_point(self.volume, self.point.id).name)
        with (
            self._of_the_point(),
            open_shared(source) as source_fd,
            open_exclusive(self.recovery.path, write=True) as recovery_fd,
            lowered(self.io_priority),
        ):
            stats = copy.apply(
                source_fd,
                recovery_fd,
                size_bytes,
                extents,
                zero_detection=True,
                progress=of_total(self.progress, extents.bytes),
                options=replace(self.options, source_name=str(source)),
                name=str(self.recovery.path),
            )
        self.bytes_written = stats.bytes_written - stats.bytes_zero
        self.bytes_zero = stats.bytes_zero

    @contextmanager
    def _of_the_point(self) -> Iterator[None]:
        """Reading an overflowed snapshot fails: that is the error then, not its symptom."""
        try:
            yield
        except OperatingSystemError:
            live.require_valid(self.volume, self.point)
            raise

    def _record_skipped(self) -> None:
        recovery_id = recovery_id_of(self.volume)
        record = Skipped(recovery_id, (self.point.id,), self.skipped)
        skipped.record(self.session.catalogue, record)

    def _wipe_copy(self) -> None:
        """A part of a file system must not be found by its UUID beside the whole one.

        The label says first that this is no copy: it may say already that it is one. Where no
        label can be written any more, and it does not, the part goes all the same.
        """
        failure: OperatingSystemError | None = None
        try:
            self._write_label(first_label(self.volume, self.recovery, self.point))
        except OperatingSystemError as error:
            if self.marked:
                raise
            failure = error
        signature.wipe(self.recovery.path)
        skipped.forget(self.session.catalogue, recovery_id_of(self.volume))
        if failure is not None:
            raise failure

    def _mark_consistent(self) -> None:
        live.require_valid(self.volume, self.point)
        live.make_durable(self.volume)
        copying = first_label(self.volume, self.recovery, self.point)
        self.marked = True
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
        self.session.undivide_writes(self.volume)


def wipe_part(session: Session, device: Path, recovery_id: UUID) -> None:
    """A part of a file system must not be found by its UUID beside the whole one: it goes, and
    the label that says that it is one. The catalogue comes last, which may be what has failed.
    """
    signature.wipe(device)
    replica.wipe_label(device)
    skipped.forget(session.catalogue, recovery_id)


def recovery_id_of(volume: Volume) -> UUID:
    """The identity of the recovery volume that is being made."""
    assert volume.recovery_id is not None  # noqa: S101 - protect makes one
    return volume.recovery_id


def what_is_on(device: BlockDevice) -> Marks:
    """Everything by which a device would be known as somebody's."""
    return replica.read_label(device.path), signature.probe(device.path)


def require_unchanged(device: BlockDevice, found: Marks) -> None:
    """Raise unless nobody uses a device, and it is marked as it was when it was looked at."""
    with open_exclusive(device.path, write=False):
        now = what_is_on(device)
    if now != found:
        raise ForeignDeviceError(
            f"what is on {device.path} has changed since it was looked at",
            hint="dmsnap inspect label and blkid show what it is now",
        )


def first_label(volume: Volume, recovery: BlockDevice, point: Point) -> Label:
    """The label of a recovery volume that ``point`` is being copied to."""
    region = history.region(volume.size_bytes, label.offset(recovery.size_bytes))
    made = Label(
        generation=0,
        size_bytes=volume.size_bytes,
        volume_uuid=volume.id,
        recovery_uuid=recovery_id_of(volume),
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
    return lease.stamped(made, volume)
