"""Sync: bring a replica up to date with a point, by what changed since its last one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from dmsnap._native.io_priority import IoPriority
from dmsnap.catalogue.model import Volume, VolumeState
from dmsnap.errors import WrongStateError
from dmsnap.recovery import replica
from dmsnap.service import journal
from dmsnap.service.exports import exported
from dmsnap.service.journal import Plan, Step, StepTimes
from dmsnap.service.luns import lun_watch
from dmsnap.service.points import copyable
from dmsnap.service.progress import Progress
from dmsnap.service.reaper import held
from dmsnap.service.replicas.audit import SYNC_SAMPLE_BYTES, Audit, AuditResult
from dmsnap.service.replicas.synchronisation import Sync
from dmsnap.service.schedules.hooks import hooks_of
from dmsnap.service.session import Session
from dmsnap.service.volumes import renewal, spare
from dmsnap.service.volumes.assemble import Assembly
from dmsnap.service.volumes.renewal import Renewal
from dmsnap.snapshot import layers
from dmsnap.tracking.choice import Tracker


@dataclass(frozen=True, slots=True)
class SyncResult:
    """What one sync did. ``copied`` is the live point that ``point`` is a copy of, if it is one.

    ``given_up``: points that the policy keeps, and for which the history had no room any more.
    """

    volume: str
    point: UUID
    tracker: Tracker
    reason: str | None
    bytes_dirty: int
    bytes_compared: int
    bytes_written: int
    window_seconds: float
    seconds: float
    audit: AuditResult
    steps: dict[str, float]
    copied: UUID | None = None
    given_up: tuple[UUID, ...] = ()


def sync(
    session: Session,
    name: str,
    *,
    audit: Audit = Audit.NONE,
    sample_bytes: int = SYNC_SAMPLE_BYTES,
    dry_run: bool = False,
    cow_percent: int = 0,
    bandwidth: int = 0,
    io_priority: IoPriority | None = None,
    source: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> SyncResult | Plan:
    """Bring the recovery volume of ``name`` up to date with a new point of now. Needs root.

    ``source``: with a live point instead, of that id, which stays where it is.
    ``sample_bytes``: how much an audit of a sample compares.
    ``bandwidth``: bytes a second that are read from the volume, or written; 0: no limit.
    ``io_priority`` is that of comparing, copying and auditing, not of the window.
    ``force``: take the recovery volume over from another host that claims it.
    """
    with held(session, name) as volume:
        exported.require_replica_unexported(session, volume)
        require_replica(volume)
        untracked, steps, volume = _tracking_again(session, volume)
        running = Sync(
            session,
            volume,
            audit=audit,
            sample_bytes=sample_bytes,
            cow_percent=cow_percent,
            bandwidth=bandwidth,
            io_priority=io_priority,
            source=copyable.copyable(session, volume, source) if source else None,
            force=force,
            progress=progress,
            hooks=hooks_of(session, [name]),
        )
        running.untracked = untracked
        arguments = {
            "name": name,
            "audit": audit,
            "sample_bytes": sample_bytes,
            "cow_percent": cow_percent,
            "bandwidth": bandwidth,
            "io_priority": str(io_priority) if io_priority else None,
            "source": str(running.source.id) if running.source else None,
            "point": str(running.point_id),
        }
        plan = Plan(
            "sync",
            (volume.id,),
            [*steps, *running.steps()],
            arguments,
            forward_at_last=True,
            remark=running.remark,
        )
        if dry_run:
            return plan
        with lun_watch.explained(volume):
            times = journal.run(session.catalogue, plan)
        spare.keep(session, name)
        return _result(running, times)


def _result(done: Sync, times: StepTimes) -> SyncResult:
    return SyncResult(
        volume=done.volume.name,
        point=done.point.id,
        tracker=done.choice.tracker,
        reason=done.choice.reason,
        bytes_dirty=done.bytes_dirty,
        bytes_compared=done.stats.bytes_compared,
        bytes_written=done.stats.bytes_written,
        window_seconds=done.point.window_seconds,
        seconds=times.total,
        audit=done.audited,
        steps=times.seconds,
        copied=done.source.id if done.source else None,
        given_up=done.given_up,
    )


def _tracking_again(session: Session, volume: Volume) -> tuple[str | None, Sequence[Step], Volume]:
    """Why the volume is not tracked now, the steps by which it is again, and the volume after them.

    Nothing is to be done for one that is tracked, whose stack must be as it should be.
    """
    if (lost := renewal.reason(session, volume)) is not None:
        renewing = Renewal(session, volume)
        return lost, renewing.steps(), renewing.volume
    if (dropped := layers.dropped(volume)) is not None:
        building = Assembly(session, volume, at_boot=True)
        return dropped, building.steps(), building.volume
    session.require_stack(volume)
    return None, [], volume


def require_replica(volume: Volume) -> None:
    """Raise :class:`WrongStateError` unless the volume has a recovery volume to be synced."""
    replica.require_one(volume)
    if volume.state is not VolumeState.PROTECTED:
        raise WrongStateError(
            f"{volume.name} is in state {volume.state}: its recovery volume cannot be synced",
            hint="dmsnap swap revert or dmsnap swap commit ends a trial",
        )


def again(session: Session, *, audit: str, io_priority: str | None = None, **asked: Any) -> object:
    """Begin a sync anew that was cut off: the point that it was making is gone."""
    asked.pop("point", None)
    priority = IoPriority.parse(io_priority) if io_priority else None
    return sync(session, audit=Audit(audit), io_priority=priority, **asked)
