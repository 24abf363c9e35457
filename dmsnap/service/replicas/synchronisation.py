"""The steps of a sync: a point, what changed since the replica's, the history, the replica."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from uuid import UUID, uuid4

from dmsnap._native.copy import CopyOptions, CopyStats, Kept
from dmsnap._native.extent_set import MOST_EXTENTS, ExtentSet
from dmsnap._native.io_priority import IoPriority, lowered
from dmsnap._native.label import Label, LabelState
from dmsnap.catalogue import skipped
from dmsnap.catalogue.model import Point, Volume
from dmsnap.catalogue.skipped import Skipped
from dmsnap.errors import CorruptError, DmsnapError, OperatingSystemError, ProgramError
from dmsnap.host import signature
from dmsnap.host.blockdev import open_shared
from dmsnap.host.dm import device as dm
from dmsnap.host.signature import Signature
from dmsnap.recovery import apply, replica
from dmsnap.recovery.apply import Undo
from dmsnap.recovery.replica import Replica
from dmsnap.recovery.room import Claims, gone
from dmsnap.service.journal import Step
from dmsnap.service.points import copyable
from dmsnap.service.points.claiming import Claiming
from dmsnap.service.points.point import PointSet
from dmsnap.service.progress import Progress, of_total
from dmsnap.service.replicas import audit as auditing
from dmsnap.service.replicas import rolling
from dmsnap.service.replicas.audit import SYNC_SAMPLE_BYTES, Audit, AuditResult
from dmsnap.service.schedules.hooks import NO_HOOKS, Hooks, Phase
from dmsnap.service.session import Session
from dmsnap.service.volumes import recognition, renewal
from dmsnap.service.volumes.renewal import LostMarksError
from dmsnap.snapshot import bypass, live, stack, write_count
from dmsnap.snapshot.window_count import WriteCounts
from dmsnap.tracking import choice
from dmsnap.tracking.choice import Tracker, TrackerChoice

log = logging.getLogger(__name__)


class Sync:
    """The steps of one sync. The order of the writes is recovery.apply's."""

    def __init__(
        self,
        session: Session,
        volume: Volume,
        *,
        audit: Audit = Audit.NONE,
        sample_bytes: int = SYNC_SAMPLE_BYTES,
        cow_percent: int = 0,
        bandwidth: int = 0,
        force: bool = False,
        io_priority: IoPriority | None = None,
        source: Point | None = None,
        progress: Progress | None = None,
        hooks: Hooks = NO_HOOKS,
    ) -> None:
        self.session = session
        self.volume = volume
        self.audit = audit
        self.sample_bytes = sample_bytes
        self.force = force
        self.options = CopyOptions(bytes_per_second=bandwidth, most_extents=MOST_EXTENTS)
        self.io_priority = io_priority
        self.progress = progress
        self.hooks = hooks
        self.source = source
        self.taken: PointSet | None = None
        self.copied: Point | None = None
        if source is None:
            self.taken = PointSet(
                session, [volume], temporary=True, cow_percent=cow_percent, hooks=self.hooks
            )
        else:
            # A point of its own: how long either stays is for another rule.
            self.copied = replace(source, id=uuid4(), area_id=None, temporary=True)
        self.choice = TrackerChoice(Tracker.COMPARE)
        self.untracked: str | None = None  # why writes were not seen, where that is known
        self.dirty: ExtentSet | None = None
        self.bytes_dirty = 0
        self.content: Signature | None = None
        self.before: Label | None = None  # what the replica's said before points had to go
        self.undo: Undo | None = None
        self.stats = CopyStats()
        self.catch_up = ExtentSet()  # dirty, and left out by the replica until now
        self.skipped = ExtentSet()  # left out by it still
        self.audited = AuditResult(audit)
        self.claiming = Claiming()  # what is known of that when the history is full

    @property
    def point(self) -> Point:
        """What the replica is going to hold."""
        return self.copied or self.shown

    @property
    def point_id(self) -> UUID:
        """That of the same, which is known before it is taken."""
        if self.copied is not None:
            return self.copied.id
        assert self.taken is not None  # noqa: S101 - one of the two is there
        return self.taken.planned[0][0]

    @property
    def shown(self) -> Point:
        """The live point whose snapshot is read."""
        if self.source is not None:
            return self.source
        assert self.taken is not None  # noqa: S101 - one of the two is there
        return self.taken.points[0]

    @property
    def bytes_written(self) -> int:
        return self.stats.bytes_written

    @property
    def bytes_zero(self) -> int:
        return self.stats.bytes_zero

    @property
    def bytes_skipped(self) -> int:
        return self.skipped.bytes

    @property
    def full_reason(self) -> str | None:
        return None

    def steps(self) -> list[Step]:
        name, device = self.volume.name, self.volume.recovery
        take_over = Step(
            "take-over",
            f"take {device} over, whichever host claims it",
            partial(replica.take_over, self.volume),
        )
        copying = self.hooks.bracket(Phase.PRECOPY)
        steps = [
            *([take_over] if self.force else []),
            Step("repair", f"roll back what an earlier sync of {name} left", self._repair),
            *self._point_steps(),
            *copying.opening(),
            Step("track", f"find the dirty extents of {name}", self._track),
            Step(
                "write-undo",
                f"write what changes on {device} to its history",
                self._write_undo,
                self._record_gone,
            ),
            Step("apply", f"write the new content to {device}", self._apply, self._roll_back),
        ]
        if self.audit is not Audit.NONE:
            steps.append(
                Step("audit", f"compare {device} with the point ({self.audit})", self._audit)
            )
        # With a hook's failure nothing is taken back any more, nor when it is interrupted.
        steps += copying.closing(final=True)
        if self.source is not None:
            what = f"record that {device} holds the point"
            return [*steps, Step("settle", what, self._settle, final=True)]
        what = "remove the live snapshot of the point"
        steps.append(Step("remove-point", what, self._settle, final=True))
        return [*steps, *self.hooks.step(Phase.UNSNAP)]

    def _point_steps(self) -> list[Step]:
        """Taking a point; of one that is there already, recording what will be its copy."""
        if self.taken is not None:
            return self.taken.steps()
        what = f"record the copy of live point {self.shown.id}"
        return [Step("record-copy", what, self._record_copy, self._forget_copy)]

    def _record_copy(self) -> None:
        """Before the label can name it."""
        self.session.catalogue.add_point(self.point)

    def _forget_copy(self) -> None:
        self.session.catalogue.delete_point(self.point.id, "copying it was undone")

    def _repair(self) -> None:
        with replica.opened(self.volume) as current:
            current.settle()
            current.require_consistent()

    @property
    def counts(self) -> WriteCounts | None:
        """What was counted at the moment of the point that was taken."""
        return self.taken.counts[0] if self.taken is not None else None

    def _bytes_beside(self) -> int | None:
        """What was written past the front, is in the point and has no mark.

        Of a live point nobody knows what was counted at its moment: it is refused by what is.
        """
        if self.source is not None:
            self._require_nothing_beside()
            return 0
        directory = self.session.configuration.run_directory
        return write_count.bytes_before(directory, self.volume, self.counts)

    def _require_nothing_beside(self) -> None:
        """Of a live point, as exactly as the counters can be read under writes."""
        if self.source is not None:
            counts = rolling.counted(self.session, self.volume)
            copyable.require_nothing_before(self.session, self.volume, self.source.id, counts)

    def _track(self) -> None:
        label = replica.label_of(self.volume)
        known = self.session.catalogue.find_point(label.point_uuid) if label.point_uuid else None
        size_bytes = self.volume.size_bytes
        try:
            dirty = self._tracked(known)
            renewal.require_marks(self.session, self.volume, self.counts)
        except (OperatingSystemError, CorruptError, LostMarksError) as error:
            self._pass_era_by(error)
            dirty = ExtentSet.whole(size_bytes)
        self.bytes_dirty = dirty.bytes
        left_out = skipped.of_replica(self.session.catalogue, label.recovery_uuid, label.point_uuid)
        self.catch_up = dirty.within(left_out)
        self.skipped = left_out.without(dirty)
        self.dirty = dirty.without(left_out)
        self.content = self._probe_point()

    def _tracked(self, known: Point | None) -> ExtentSet:
        """What may differ from the replica, whose point is ``known``, by the tracker that is
        trusted.
        """
        directory = self.session.configuration.run_directory
        self.choice = choice.choose(
            self.volume,
            known,
            live.current_era(self.volume),
            doubt=write_count.doubt(directory, self.volume, self.counts),
            bytes_beside=self._bytes_beside(),
            copied=self.source,
        )
        if self.untracked and self.choice.tracker is Tracker.COMPARE:
            self.choice = replace(self.choice, reason=self.untracked)
        size_bytes = self.volume.size_bytes
        if self.choice.tracker is Tracker.COMPARE:
            return ExtentSet.whole(size_bytes)
        written = rolling.marked_since(self.session, self.volume, self.choice.since)
        return apply.aligned(written, size_bytes)

    def _pass_era_by(self, error: DmsnapError) -> None:
        """The marks cannot be read: both sides are compared, and the front goes on without dm-era,
        which would fail what is written to it. The catalogue may have failed with them.
        """
        bypass.pass_by(self.volume, self.session.configuration.window_deadline_ms)
        self.session.distrust(self.volume)
        reason = f"dm-era's marks cannot be read or trusted ({error})"
        log.warning("%s: %s", reason, bypass.sentence(self.volume))
        self.choice = choice.compare(reason)

    def _probe_point(self) -> Signature | None:
        """What the point holds: the volume may have been formatted since it was protected."""
        try:
            return signature.probe(dm.node(stack.live_point(self.volume, self.shown.id).name))
        except (ProgramError, OperatingSystemError):
            self._require_valid()
            raise

    def _require_valid(self) -> None:
        """Raise unless what was read until now is what the point holds."""
        live.require_valid(self.volume, self.shown)
        if self.source is not None:
            copyable.require_nothing_beside(self.session, self.volume, self.source.id)

    @contextmanager
    def _sides(self) -> Iterator[tuple[int, Replica]]:
        source = dm.node(stack.live_point(self.volume, self.shown.id).name)
        self.options = replace(self.options, source_name=str(source))
        try:
            with (
                lowered(self.io_priority),
                open_shared(source) as source_fd,
                replica.opened(self.volume) as current,
            ):
                yield source_fd, current
        except OperatingSystemError:
            # Reading an overflowed snapshot fails: that is the error then, not its symptom.
            self._require_valid()
            raise

    def _write_undo(self) -> None:
        assert self.dirty is not None  # noqa: S101 - the step before
        with self._sides() as (source_fd, current):
            self.before = current.label
            self.undo = apply.write_undo(
                current,
                source_fd,
                self.dirty,
                of_total(self.progress, self.bytes_dirty),
                self.options,
                partial(self._claims, current.label),
            )
        if remark := self.remark():
            log.warning("%s: %s", self.volume.name, remark)
        # What was read of an overflowed snapshot is worth nothing: found out before the
        # replica is touched.
        self._require_valid()

    def _record_gone(self) -> None:
        """What left the history for a sync that comes to nothing: that is not taken back."""
        if self.before is None:
            return
        try:
            lost = gone(self.before, replica.label_of(self.volume))
            if lost:
                log.warning("%s: points went for a sync that was not made", self.volume.name)
                self.session.note_replica(self.volume)
                self.session.forget_dropped(self.volume, self.claiming.reason, lost)
        except DmsnapError as error:
            # The label is the truth, and the next sync records it.
            log.debug("what went of %s is not recorded: %s", self.volume.recovery, error)

    def _claims(self, label: Label) -> Claims:
        """Which points stay longest, asked when the history has no room."""
        self.claiming = Claiming.of(self.session, self.volume, label, self.point)
        return self.claiming.claims

    @property
    def given_up(self) -> tuple[UUID, ...]:
        gone = self.undo.gone if self.undo is not None else ()
        return tuple(each for each in gone if self.claiming.claims.get(each, 0))

    def remark(self) -> str:
        return self.claiming.remark(len(self.given_up))

    def _apply(self) -> None:
        assert self.undo is not None  # noqa: S101 - the step before
        with self._sides() as (source_fd, current):
            caught_up = self._catch_up(source_fd, current)
            apply.mark_applying(current, self.undo, self.point)
            written = apply.write_new(
                current,
                source_fd,
                self.undo,
                of_total(self.progress, self.undo.stats.bytes_different),
                self.options,
            )
            # An audit needs memory of its own.
            self.undo = replace(self.undo, kept=Kept(0))
            self._require_valid()
            self._require_nothing_beside()
            self.session.make_durable(self.volume)
            apply.mark_consistent(current, keep=self.point.keep, content=self.content)
        self.stats = replace(
            written,
            bytes_written=written.bytes_written + caught_up.bytes_written,
            bytes_compared=self.undo.stats.bytes_compared,
            bytes_different=self.undo.stats.bytes_different,
        )

    def _catch_up(self, source_fd: int, current: Replica) -> CopyStats:
        """Write what the replica left out and shall not any more, and record what is left.

        What is there is not kept: no point that the replica can go back to holds anything there.
        It is recorded before the label says more: what has content must not count as left out.
        """
        stats = CopyStats()
        if self.catch_up:
            stats = apply.write_left_out(
                current,
                source_fd,
                self.catch_up,
                of_total(self.progress, self.catch_up.bytes),
                self.options,
            )
        if self.catch_up or self.skipped:
            points = tuple(point for point in (current.label.point_uuid, self.point.id) if point)
            record = Skipped(current.label.recovery_uuid, points, self.skipped)
            skipped.record(self.session.catalogue, record)
        return stats

    def _roll_back(self) -> None:
        """Back to the replica's former point, whether the apply was finished or not."""
        with replica.opened(self.volume) as current:
            finished = current.label.point_uuid == self.point.id
            if finished or current.label.state is LabelState.APPLYING:
                current.roll_back()

    def _audit(self) -> None:
        """What was just written is read again from the disk, and compared besides the sample."""
        assert self.undo is not None  # noqa: S101 - a step before
        comparable = ExtentSet.whole(self.volume.size_bytes).without(self.skipped)
        sample = auditing.choose(self.audit, comparable, self.volume.block_bytes, self.sample_bytes)
        extents = ExtentSet()
        for part in (sample.extents, self.undo.different, self.catch_up):
            extents.merge(part)
        with self._sides() as (source_fd, current):
            compared, different = auditing.differences(
                source_fd, current, extents, self.progress, self.options
            )
            self._require_valid()
            if different:
                self._distrust(current)
        self.audited = auditing.result(self.audit, sample, compared, different, self.skipped)
        if different:
            raise auditing.failure(str(self.volume.recovery), different, self.choice.tracker)

    def _distrust(self, current: Replica) -> None:
        """Whatever comes, nobody takes the replica for the point, nor goes by what told it."""
        try:
            current.leave_point()
        except DmsnapError as error:  # as it will when this is undone, which says so
            log.debug("%s", error)
        self.session.distrust(self.volume)

    def _settle(self) -> None:
        if self.source is None and self.choice.tracker is Tracker.COMPARE:
            directory = self.session.configuration.run_directory
            write_count.settle(directory, self.volume, self.counts)
        self.session.settle_on_replica(self.volume, self.point)
        self.session.undivide_writes(self.volume)
        self.session.note_content(self.volume, self.content)
        self.session.forget_dropped(self.volume, self.claiming.reason)
        recognition.note(self.session, self.volume)
