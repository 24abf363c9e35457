"""Verify: compare a replica with the volume where nothing was written since, changing neither."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

from dmsnap._native.copy import CopyOptions
from dmsnap._native.extent_set import ExtentSet
from dmsnap._native.label import Label
from dmsnap.catalogue import skipped
from dmsnap.catalogue.model import Point, Volume, VolumeState
from dmsnap.errors import AuditError, OperatingSystemError, WrongStateError
from dmsnap.host.blockdev import open_shared
from dmsnap.host.dm import device as dm
from dmsnap.recovery import history, replica
from dmsnap.service import journal
from dmsnap.service.exports import exported
from dmsnap.service.journal import Plan, Step, StepTimes
from dmsnap.service.luns import lun_watch
from dmsnap.service.points.point import PointSet
from dmsnap.service.progress import Progress
from dmsnap.service.reaper import held
from dmsnap.service.replicas import audit as auditing
from dmsnap.service.replicas import history_check, rolling
from dmsnap.service.replicas.audit import Audit, AuditResult
from dmsnap.service.replicas.history_check import HistoryCheck
from dmsnap.service.session import Session
from dmsnap.snapshot import live, stack, write_count
from dmsnap.tracking import choice
from dmsnap.tracking.choice import Tracker
from dmsnap.units import GIB

# One wrong 64 KiB block in 10,000 is found by it with a probability of 81 %.
SAMPLE_BYTES = GIB


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What was compared; ``point`` is what the replica holds, ``bytes_dirty`` changed since it.

    ``history`` is what was read of undo stores, where that was asked for.
    """

    volume: str
    point: UUID
    bytes_dirty: int
    window_seconds: float
    seconds: float
    audit: AuditResult
    history: HistoryCheck | None
    steps: dict[str, float]


class Verification:
    """The steps of one verification.

    A block that dm-era has not seen written since the replica's point holds in a point of now what
    it held then: there, both sides must be equal.
    """

    def __init__(
        self,
        session: Session,
        volume: Volume,
        *,
        kind: Audit,
        sample_bytes: int,
        with_history: bool = False,
        cow_percent: int = 0,
        progress: Progress | None = None,
    ) -> None:
        self.session = session
        self.volume = volume
        self.kind = kind
        self.sample_bytes = sample_bytes
        self.with_history = with_history
        self.progress = progress
        self.points = PointSet(session, [volume], temporary=True, cow_percent=cow_percent)
        self.label = consistent_label(volume)
        doubt = write_count.doubt(self._counts, volume)
        beside = write_count.bytes_beside(self._counts, volume)
        self.since = self._require_tracking(beside, doubt)
        self.dirty = ExtentSet()
        self.skipped = ExtentSet()
        self.audited = AuditResult(kind)
        self.history: HistoryCheck | None = None

    @property
    def point(self) -> Point:
        """The point of now, which goes when all is compared."""
        return self.points.points[0]

    @property
    def _counts(self) -> Path:
        return self.session.configuration.run_directory

    def steps(self) -> list[Step]:
        name, device = self.volume.name, self.volume.recovery
        return [
            *self.points.steps(),
            Step("track", f"find what was written to {name} since", self._track),
            Step("compare", f"compare {device} with all else ({self.kind})", self._compare),
            Step(
                "remove-point",
                "remove the live snapshot of the point",
                self._remove_point,
                final=True,
            ),
        ]

    def _require_tracking(self, beside: int | None, doubt: str) -> int:
        """The first era that counts as written since, else :class:`WrongStateError`.

        ``beside``: bytes that were written past the front; ``doubt``: why that is not known.
        """
        assert self.label.point_uuid is not None  # noqa: S101 - a consistent label has one
        chosen = choice.choose(
            self.volume,
            self.session.catalogue.find_point(self.label.point_uuid),
            live.current_era(self.volume),
            bytes_beside=beside,
            doubt=doubt,
        )
        if chosen.tracker is not Tracker.ERA:
            raise WrongStateError(
                f"what changed on {self.volume.name} since the replica's point is not known: "
                f"{chosen.reason}",
                hint=f"dmsnap sync {self.volume.name} --audit full compares everything",
            )
        return chosen.since

    def _track(self) -> None:
        with rolling.giving_up_marks(self.session, self.volume):
            self.dirty = rolling.marked_since(self.session, self.volume, self.since)
        # Again, as exactly as that is known: what came in between is in the point, too.
        counts = self.points.counts[0]
        doubt = write_count.doubt(self._counts, self.volume, counts)
        self._require_tracking(write_count.bytes_before(self._counts, self.volume, counts), doubt)
        left_out = skipped.of_replica(
            self.session.catalogue, self.label.recovery_uuid, self.label.point_uuid
        )
        self.skipped = left_out.without(self.dirty)

    def _compare(self) -> None:
        comparable = ExtentSet.whole(self.volume.size_bytes)
        comparable.subtract(self.dirty)
        comparable.subtract(self.skipped)
        sample = auditing.choose(self.kind, comparable, self.volume.block_bytes, self.sample_bytes)
        source = dm.node(stack.live_point(self.volume, self.point.id).name)
        try:
            with (
                open_shared(source) as source_fd,
                replica.opened(self.volume, write=False) as current,
            ):
                compared, different = auditing.differences(
                    source_fd,
                    current,
                    sample.extents,
                    self.progress,
                    CopyOptions(source_name=str(source)),
                )
        except OperatingSystemError:
            # Reading an overflowed snapshot fails: that is the error then, not its symptom.
            live.require_valid(self.volume, self.point)
            raise
        live.require_valid(self.volume, self.point)
        self.audited = auditing.result(self.kind, sample, compared, different, self.skipped)
        if different:
            self._condemn(different)
        if self.with_history:
            self.history = history_check.check(self.session, self.volume, self.label, self.progress)

    def _condemn(self, different: ExtentSet) -> None:
        """No point is shown as good that is not: neither the replica's nor one reached by it."""
        first = next(iter(different))
        self.session.distrust(self.volume)
        for point in self.session.catalogue.points(self.volume.id):
            if history.position_of(self.label, point.id) is not None:
                reason = f"byte {first.offset_bytes} of {self.volume.recovery} was found wrong"
                self.session.catalogue.update_point(replace(point, invalid_reason=reason))
        raise AuditError(
            f"{different.bytes} bytes of {self.volume.recovery} are not what the replica's point "
            f"{self.label.point_uuid} holds, the first at {first.offset_bytes}",
            hint=f"dmsnap sync {self.volume.name} compares in full and puts them right; look into "
            f"the health of {self.volume.recovery}",
            bytes_different=different.bytes,
            offset_bytes=first.offset_bytes,
        )

    def _remove_point(self) -> None:
        self.session.drop_live_point(self.volume, self.point, "it was taken for a verification")
        self.session.undivide_writes(self.volume)

    def result(self, times: StepTimes) -> VerifyResult:
        assert self.label.point_uuid is not None  # noqa: S101 - a consistent label has one
        return VerifyResult(
            volume=self.volume.name,
            point=self.label.point_uuid,
            bytes_dirty=self.dirty.bytes,
            window_seconds=self.point.window_seconds,
            seconds=times.total,
            audit=self.audited,
            history=self.history,
            steps=times.seconds,
        )


def consistent_label(volume: Volume) -> Label:
    """The replica's label, else an error: what is being written to cannot be verified."""
    with replica.opened(volume, write=False) as current:
        current.require_consistent()
        return current.label


def verify(
    session: Session,
    name: str,
    *,
    kind: Audit = Audit.SAMPLE,
    sample_bytes: int = SAMPLE_BYTES,
    with_history: bool = False,
    dry_run: bool = False,
    cow_percent: int = 0,
    progress: Progress | None = None,
) -> VerifyResult | Plan:
    """Compare the replica of ``name`` with the volume; :class:`AuditError` when they differ.

    ``with_history``: or when an undo store is not what was written. Needs root.
    """
    with held(session, name) as volume:
        exported.require_replica_unexported(session, volume)
        replica.require_one(volume)
        if volume.state is not VolumeState.PROTECTED:
            raise WrongStateError(
                f"{name} is in state {volume.state}: its recovery volume cannot be verified"
            )
        session.require_stack(volume)
        running = Verification(
            session,
            volume,
            kind=kind,
            sample_bytes=sample_bytes,
            with_history=with_history,
            cow_percent=cow_percent,
            progress=progress,
        )
        arguments = {
            "name": name,
            "kind": kind,
            "sample_bytes": sample_bytes,
            "with_history": with_history,
            "cow_percent": cow_percent,
        }
        plan = Plan("verify", (volume.id,), running.steps(), arguments)
        if dry_run:
            return plan
        with lun_watch.explained(volume):
            times = journal.run(session.catalogue, plan)
        return running.result(times)


def again(session: Session, *, kind: str, **asked: Any) -> object:
    """Begin a verification anew that was cut off."""
    return verify(session, kind=Audit(kind), **asked)
