"""Swap: put the recovery volume, at its newest or an earlier point, under the front, on trial.

A trial leaves the primary and the replica untouched: what is written goes to an overlay.
``revert`` (service.revert) drops the overlay, ``commit`` (service.promotion) merges it.
"""

import logging
from dataclasses import replace
from functools import partial
from uuid import UUID

from dmsnap.catalogue.model import AreaRole, Job, Volume, VolumeState
from dmsnap.errors import DmsnapError, WrongStateError
from dmsnap.recovery import replica
from dmsnap.service import journal
from dmsnap.service.exports import exported
from dmsnap.service.health import boot
from dmsnap.service.journal import Plan, Step
from dmsnap.service.luns.luns import Wanted
from dmsnap.service.points.point import find
from dmsnap.service.reaper import held
from dmsnap.service.session import Session
from dmsnap.service.swaps import completion, holder, owed_record, primary, trial
from dmsnap.service.swaps.occupants import Occupants, users_of
from dmsnap.service.swaps.revert import Revert
from dmsnap.service.swaps.source import choose, repair, require_not_wrong
from dmsnap.service.swaps.trial import SwapResult
from dmsnap.service.volumes import assembly, own_front
from dmsnap.service.volumes.spare import NextMetadata
from dmsnap.snapshot import stack
from dmsnap.tracking.choice import new_tracking_id

log = logging.getLogger(__name__)


class Trial:
    """The plan that puts a point of the recovery volume under the front, under an overlay."""

    def __init__(
        self,
        session: Session,
        volume: Volume,
        wanted: UUID | None,
        *,
        kill: bool = False,
        fail_primary: bool = False,
        force: bool = False,
    ) -> None:
        if volume.state is VolumeState.PROMOTED:
            replica.require_one(volume)
        if volume.state is not VolumeState.PROTECTED:
            raise WrongStateError(
                f"{volume.name} is in state {volume.state}: it cannot be swapped",
                hint="dmsnap swap revert ends a trial",
            )
        self.session = session
        self.occupants = Occupants(session, volume, kill=kill)
        self.fail_primary = fail_primary
        self.arguments: dict[str, object] = {
            "kill": kill,
            "fail_primary": fail_primary,
            "force": force,
        }
        self.hangs = False
        self.before = volume
        self.live = volume if stack.live_front(volume) else None
        self.has_front = has_front(volume)
        # Looked up now: undoing must not depend on a catalogue whose disk is full.
        self.before_metadata = stack.era_area(volume, session.catalogue.areas(volume.id))
        self.source = choose(session, volume, wanted, force=force)
        self.volume = replace(
            volume,
            state=VolumeState.TRIAL,
            generation=volume.generation + 1,
            trial_point=self.source.point,
            trial_live=self.source.is_live,
            live=None,
        )
        if not self.has_front:  # who writes to the primary meanwhile is not seen
            self.volume = replace(self.volume, tracking_id=new_tracking_id())
        point = self.source.point
        self.overlay = session.plan_cow(self.volume, AreaRole.OVERLAY, point_id=point)
        self.metadata = NextMetadata(session, self.volume)

    def plan(self) -> Plan:
        name = self.volume.name
        state_directory = self.session.configuration.state_directory
        steps = [
            *self._repair_steps(),
            Step(
                "create-overlay",
                f"create the overlay and new era metadata of {name} in {self.volume.store}",
                self._create_areas,
                self._release_areas,
            ),
            Step(
                "show-point",
                f"show point {self.source.point} of {self.source.device} under the overlay",
                self._show,
                self._hide,
            ),
            *self.metadata.steps(),
            *self._steps_of_use(),
            Step("record", f"record that {name} is in trial", self._record, self._unrecord),
            *boot.network_steps(self.before, self.volume, state_directory),
            self._step_of_front(),
            Step(
                "mount",
                f"mount /dev/mapper/{name}",
                self._mount,
                self._unmount_again,
            ),
            *self.occupants.steps_after(),
        ]
        arguments = self.arguments | {"name": name, "to": str(self.source.point)}
        return Plan("swap", (self.volume.id,), steps, arguments)

    def _repair_steps(self) -> list[Step]:
        """What a sync that was cut off left is rolled back, as the next sync would do it: that
        stays when the swap is taken back.
        """
        if not self.source.is_torn:
            return []
        what = f"roll back what an earlier sync of {self.volume.name} left"
        return [Step("repair", what, partial(repair, self.before), check=self._require_repairable)]

    def _require_repairable(self) -> None:
        """Nothing is rolled back for a swap that is refused because somebody uses the volume.

        Who waits for a primary that hangs may let go of it once that is failed.
        """
        replica.require_changeable(self.before)
        settings = self.session.configuration
        # In this order: who uses what hangs may not be told.
        if primary.answers(self.before, settings.primary_wait_seconds) and users_of(self.before):
            self.occupants.require_leaving(settings.unmount_wait_seconds)

    def _steps_of_use(self) -> list[Step]:
        """What ends the use of the front; where a boot left none, that of what waits for it."""
        if not self.has_front:
            return self.occupants.steps_before()
        name = self.volume.name
        return [
            Step(
                "reach-primary",
                f"write out what is dirty, or fail it if {self.before.backing} hangs",
                self._reach,
                self._revive,
            ),
            *self.occupants.steps_before(),
            Step("unmount", f"unmount /dev/mapper/{name}", self._unmount, self._mount_before),
            *self._own_front_steps(),
        ]

    def _step_of_front(self) -> Step:
        """The front's table is exchanged; after a boot without the primary it is made."""
        what = f"put it under /dev/mapper/{self.volume.name}"
        if self.has_front:
            return Step("load-front", what, self._load, self._unload)
        front = stack.front(self.volume)
        return Step("create-front", what, self._create_front, partial(stack.remove, front))

    def _own_front_steps(self) -> list[Step]:
        """Until the next boot LVM's device may be the front: it is not, from here on."""
        if not self.live:
            return []
        return [
            Step(
                "own-front",
                f"give {self.before.backing} its own table back, and make "
                f"/dev/mapper/{self.volume.name} over it",
                self._make_own_front,
                self._take_own_front_back,
            )
        ]

    def _make_own_front(self) -> None:
        self.live = self.before
        self.before = own_front.make(self.session, self.before, failed=self.hangs)
        self.volume = replace(self.volume, tracking_id=self.before.tracking_id)
        if self.source.is_live:  # it is none, if the layers went before the LV was unmounted
            require_not_wrong(self.session, self.before, self.source.point, force=False)

    def _take_own_front_back(self) -> None:
        self.before = replace(self.before, live=self.live.live if self.live else None)
        own_front.take_back(self.session, self.before)

    def _create_areas(self) -> None:
        self.session.create_area(self.volume, self.overlay)
        self.metadata.create()

    def _release_areas(self) -> None:
        self.session.release_area(self.volume, self.overlay)
        self.metadata.release()

    def _show(self) -> None:
        below = self.source.show()
        cow = stack.attach_area(self.volume, self.overlay)
        trial.create_overlay(self.volume, below, cow)

    def _hide(self) -> None:
        trial.hide(self.volume, self.source.levels)

    def _reach(self) -> None:
        seconds = self.session.configuration.primary_wait_seconds
        is_failed = primary.is_failed(self.before)
        self.hangs = is_failed or not primary.answers(self.before, seconds)
        if self.hangs and not is_failed:
            primary.fail(self.before, seconds, below=self.fail_primary)

    def _revive(self) -> None:
        if primary.is_failed(self.before):
            primary.revive(self.session, self.before, self.before_metadata)

    def _unmount(self) -> None:
        """Who uses a spoiled volume and stays is named in the error."""
        asked = assembly.as_mounted(self.session, self.before, asked=True)
        self.before = assembly.as_mounted(self.session, self.before)
        self.volume = replace(self.volume, mounts=asked.mounts)
        self.session.catalogue.update_volume(self.before)
        self._unmount_front(self.before)
        trial.require_unopened(self.before)

    def _unmount_again(self) -> None:
        self._unmount_front(self.volume)

    def _unmount_front(self, volume: Volume) -> None:
        wait_seconds = self.session.configuration.unmount_wait_seconds
        assembly.unmount_front(volume, wait_seconds)

    def _mount_before(self) -> None:
        if self.hangs:
            log.warning("%s hangs: %s is not mounted", self.before.backing, self.before.name)
        else:
            assembly.mount_front(self.before)

    def _mount(self) -> None:
        """A front that was made here and is exported is for initiators, who come back later."""
        if self.has_front or not exported.shows_front(self.session, self.volume):
            assembly.mount_front(self.volume)

    def _record(self) -> None:
        owed_record.record(self.session, self.before, self.volume)

    def _unrecord(self) -> None:
        """Not while the front shows the trial, because somebody uses it by now."""
        if not trial.lies_over(self.volume):
            owed_record.take_back(self.session, self.before)

    def _load(self) -> None:
        trial.load_front(self.session, self.volume, self.metadata.area)

    def _unload(self) -> None:
        trial.load_front_back(self.session, self.before, self.before_metadata)

    def _create_front(self) -> None:
        trial.create_front(self.session, self.volume, self.metadata.area)


def has_front(volume: Volume) -> bool:
    """Whether the front is there; it is not after a boot without the primary.

    Its tables need not be right: what is below may be what was lost. Raises
    :class:`StackChangedError` where LVM's device is the front, and is gone.
    """
    if stack.live_front(volume):
        stack.require(stack.front(volume))
    return stack.exists(stack.front(volume))


def swap(
    session: Session,
    name: str,
    *,
    to: str | None,
    kill: bool = False,
    fail_primary: bool = False,
    force: bool = False,
    dry_run: bool,
) -> SwapResult | Plan:
    """Put the newest or the chosen point of the recovery volume under the front, in trial.

    ``kill`` ends the processes that keep the volume busy, and a copy of it that is under way; one
    whose primary hangs is ended without. ``fail_primary`` fails what a suspended device below it
    holds back, which can be had in no other way. ``force`` takes a point that a verification found
    wrong.
    """
    luns = needed_luns(session, name, to)
    if dry_run:
        holding = held(session, name, luns)
    else:
        holding = holder.held(session, name, luns, kill=kill, fail_primary=fail_primary)
    with holding as volume:
        wanted = find(session, to, [name]).id if to else None
        putting = Trial(session, volume, wanted, kill=kill, fail_primary=fail_primary, force=force)
        plan = putting.plan()
        if dry_run:
            return plan
        times = journal.run(session.catalogue, plan)
        owed_record.is_recorded(session, volume.id)
        if not putting.has_front:
            # Imported where it may be needed: it loads all of LIO.
            from dmsnap.service.exports import export_restore

            export_restore.restore_front(session, putting.volume)
        return trial.result(putting.volume, times)


def needed_luns(session: Session, name: str, to: str | None) -> Wanted:
    """The primary may be what was lost: it is asked for where a live point on it is wanted."""
    digits = (to or "").lower().replace("-", "")
    live = session.live_points(session.catalogue.volume(name)) if digits else []
    on_primary = any(point.id.hex.startswith(digits) for point in live)
    return Wanted.SERVING_ALONE if on_primary else Wanted.RECOVERY


def finish(session: Session, volume: Volume, _job: Job) -> bool:
    """Done once the front shows the trial; recorded and not loaded, it is taken back.

    It goes on where there is no front to take back, or the primary cannot be gone back to.
    """
    if volume.state is not VolumeState.TRIAL:
        return False
    if trial.is_loaded(volume, session.catalogue.areas(volume.id)):
        return True
    if stack.exists(stack.front(volume)):
        try:
            journal.run(session.catalogue, Revert(session, volume).plan())
        except DmsnapError as error:
            log.warning("the swap of %s is not taken back: %s", volume.name, error)
        volume = session.catalogue.volume_by_id(volume.id)
        if volume.state is not VolumeState.TRIAL:
            return False
    completion.complete(session, volume)
    return True
