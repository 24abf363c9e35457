"""Commit: the recovery volume becomes the primary, while the front goes on serving.

The undo stores and then the overlay are merged down by the kernel (snapshot-merge), one level at
a time. Once the first merge began there is no way back, so no step has an undo: a commit that was
cut off is finished by whoever holds the volume next.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from dmsnap._native.label import LabelState
from dmsnap.catalogue import jobs, skipped
from dmsnap.catalogue.export import ExportKind
from dmsnap.catalogue.model import Job, JobState, Volume, VolumeState
from dmsnap.errors import DmsnapError, InterruptedBySignal, StackChangedError, WrongStateError
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.target import Linear, SnapshotMerge, SnapshotOrigin
from dmsnap.recovery import chain, replica
from dmsnap.service import journal
from dmsnap.service.exports import exported
from dmsnap.service.journal import Plan, Step, StepTimes
from dmsnap.service.luns.luns import Wanted
from dmsnap.service.points import browse
from dmsnap.service.reaper import held_unless_done, retire
from dmsnap.service.session import Session
from dmsnap.service.swaps import parting, trial
from dmsnap.service.swaps.merging import merge
from dmsnap.service.swaps.rollback import Rollback
from dmsnap.service.swaps.trial import (
    OVERLAY_CHUNK_BYTES,
    SwapResult,
    is_loaded,
    require_overlay,
    result,
)
from dmsnap.service.volumes import identity, spare
from dmsnap.snapshot import stack
from dmsnap.tracking.choice import new_tracking_id


class Promotion:
    """The plan that makes the recovery volume, as the trial shows it, the primary."""

    def __init__(self, session: Session, volume: Volume, *, drop_points: bool) -> None:
        exported.require_unexported(session, volume, [ExportKind.POINT])
        live = session.live_points(volume)
        if live and not drop_points:
            raise WrongStateError(
                f"{len(live)} live points of {volume.name} lie on the old primary and would "
                f"be lost",
                hint="delete them, or give --drop-points",
            )
        self.session = session
        self.volume = replace(volume, state=VolumeState.COMMITTING)
        self.recovery = BlockDevice.probe(replica.recovery_path(volume))
        self.chain = trial.levels_by(volume, trial.require_recovery(volume))

    def plan(self) -> Plan:
        name, device = self.volume.name, self.recovery.path
        merges = [
            Step(
                f"merge-{position}",
                f"merge the undo store {position} steps back into {device}",
                _merging(self._merge_level, position),
            )
            for position in range(1, len(self.chain) + 1)
        ]
        return Plan(
            "swap commit",
            (self.volume.id,),
            [
                Step("mark-merging", f"mark {device} as being merged into", self._mark_merging),
                *merges,
                Step("merge-overlay", f"merge the overlay into {device}", self._merge_overlay),
                Step("mark-primary", f"mark {device} as the primary", self._mark_primary),
                Step("record", f"record {device} as the primary of {name}", self._record),
                Step("retire", "take down what is left of the old stack", self._retire),
            ],
            {"name": name, "drop_points": True},
            forward=True,
        )

    def _mark_merging(self) -> None:
        self.session.catalogue.update_volume(self.volume)
        with replica.opened_below_stack(self.volume) as current:
            if current.label.state is LabelState.CONSISTENT:
                # No point of its history holds anything in what it leaves out: so it is, whichever
                # of them becomes the primary.
                skipped.carry_over(
                    self.session.catalogue,
                    current.label.recovery_uuid,
                    current.label.point_uuid,
                    self.volume.id,
                )
                current.write_label(replace(current.label, state=LabelState.MERGING))

    def _merge_level(self, position: int) -> None:
        level = self.chain[position - 1]
        if not stack.exists(level.shown):
            return  # merged, and removed by a commit that was cut off after that
        below = self._below(position - 1)
        store = stack.require(level.store).devno
        merge(
            self.session,
            self.volume,
            level.shown,
            SnapshotMerge(below, store, level.chunk_bytes),
            Linear(self.recovery.devno, 0),
        )

    def _below(self, position: int) -> int:
        """The device number of what lies ``position`` steps back."""
        if position == 0:
            return self.recovery.devno
        return stack.require(self.chain[position - 1].shown).devno

    def _merge_overlay(self) -> None:
        (line,) = dm.table(stack.require(stack.origin(self.volume)).name)
        if isinstance(line.target, SnapshotOrigin):
            return
        areas = self.session.catalogue.areas(self.volume.id)
        cow = stack.attach_area(self.volume, trial.overlay_area(self.volume, areas))
        merge(
            self.session,
            self.volume,
            stack.origin(self.volume),
            SnapshotMerge(self._below(len(self.chain)), cow.devno, OVERLAY_CHUNK_BYTES),
            SnapshotOrigin(self.recovery.devno),
        )

    def _mark_primary(self) -> None:
        chain.remove(self.chain)
        with replica.opened_below_stack(self.volume) as current:
            current.write_label(
                replace(
                    current.label,
                    state=LabelState.PRIMARY,
                    point_uuid=None,
                    point_time_ns=0,
                    next_point_uuid=None,
                    next_point_time_ns=0,
                    history=(),
                )
            )

    def _record(self) -> None:
        promoted = replace(
            self.volume,
            state=VolumeState.PROMOTED,
            backing=str(self.volume.recovery),
            device_bytes=self.recovery.size_bytes,
            recovery=None,
            recovery_id=None,
            trial_point=None,
            previous_backing=self.volume.backing or None,
            tracking_id=new_tracking_id(),
        )
        promoted = replace(promoted, parting=parting.part(self.session, self.volume, promoted))
        promoted = identity.noted(promoted, promoted.backing, self.recovery.devno)
        self.session.catalogue.update_volume(promoted)

    def _retire(self) -> None:
        retire(self.session, self.session.catalogue.volume_by_id(self.volume.id))


def _merging(merge_level: Callable[[int], None], position: int) -> Callable[[], None]:
    return lambda: merge_level(position)


def commit(session: Session, name: str, *, drop_points: bool, dry_run: bool) -> SwapResult | Plan:
    """Make the recovery volume the primary for good, online; or, where the trial is over a live
    point, the primary what it shows. Needs root.
    """
    # What the trial does not lie on may be what was lost.
    wanted = Wanted.SERVING_ALONE
    with held_unless_done(session, name, "swap commit", wanted) as volume:
        if volume is None:
            return result(session.catalogue.volume(name), StepTimes())
        plan = committing(session, volume, drop_points=drop_points)
        if dry_run:
            return plan
        try:
            times = _go_on(session, volume, plan)
        except InterruptedBySignal as signalled:
            # Nothing was undone, and nothing has to be.
            raise InterruptedBySignal(
                signalled.signal_number,
                f"interrupted; {name} goes on serving what the trial shows, "
                f"dmsnap swap commit {name} finishes",
            ) from signalled
        spare.keep(session, name)
        return result(session.catalogue.volume(name), times)


def committing(session: Session, volume: Volume, *, drop_points: bool) -> Plan:
    """The plan that ends a trial by keeping it, wherever its point lies."""
    if volume.state not in (VolumeState.TRIAL, VolumeState.COMMITTING):
        raise WrongStateError(f"{volume.name} is in state {volume.state}, there is no trial")
    if not is_loaded(volume, session.catalogue.areas(volume.id)):
        raise StackChangedError(
            f"/dev/mapper/{volume.name} does not show the trial: a swap or a revert was killed",
            hint=f"dmsnap swap revert {volume.name} goes back to the primary",
        )
    browse.require_unmounted(session, volume)
    if volume.state is VolumeState.TRIAL:
        require_overlay(volume)
    if volume.trial_live:
        return Rollback(session, volume, drop_points=drop_points).plan()
    return Promotion(session, volume, drop_points=drop_points).plan()


def finish(session: Session, volume: Volume, job: Job) -> bool:
    """Go on with the merges of a commit that was recorded; before that, nothing had happened.

    One that was to make the recovery volume the primary, and was given up, is undone.
    """
    if volume.state is VolumeState.COMMITTING:
        _go_on(session, volume, committing(session, volume, drop_points=True))
        return True
    promoting = any(step.name == "mark-merging" for step in job.steps)
    done = VolumeState.PROMOTED if promoting else VolumeState.PROTECTED
    return volume.state is done


def _go_on(session: Session, volume: Volume, plan: Plan) -> StepTimes:
    """The first job of a commit that was cut off stands for those that went on with it and failed,
    too: or else every command would leave as many again as there are, and try each of them.
    """
    try:
        return journal.run(session.catalogue, plan)
    except BaseException:
        with suppress(DmsnapError):
            unfinished = jobs.unfinished(session.catalogue, volume.id)
            for job in [each for each in unfinished if each.operation == plan.operation][:-1]:
                outcome = job.outcome or ""
                jobs.settle(session.catalogue, job.id, volume.id, JobState.ABANDONED, outcome)
        raise
