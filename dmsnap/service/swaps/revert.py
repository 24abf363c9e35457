"""Revert: end a trial and go back to the primary as it was left.

After a boot that could not build the trial there is no front: its recovery volume is gone for good,
another host has it, or its overlay is damaged. Then the front is made over the primary, nothing but
the primary and the store is asked, and the trial is given up. So is a commit that no command brings
to its end, where that is asked for: until it is recorded the primary is what it was at the swap.
"""

from dataclasses import replace

from dmsnap.catalogue import jobs
from dmsnap.catalogue.model import AreaRole, Job, Volume, VolumeState
from dmsnap.errors import DmsnapError, WrongStateError
from dmsnap.recovery import chain
from dmsnap.service import journal
from dmsnap.service.exports import exported
from dmsnap.service.health import boot
from dmsnap.service.journal import Plan, Step, StepTimes
from dmsnap.service.luns.luns import Wanted
from dmsnap.service.reaper import conclude, held_unless_done
from dmsnap.service.session import Session
from dmsnap.service.swaps import owed_record, primary, trial
from dmsnap.service.swaps.occupants import Occupants
from dmsnap.service.swaps.trial import SwapResult
from dmsnap.service.volumes import assembly, identity, spare
from dmsnap.snapshot import stack
from dmsnap.tracking.choice import new_tracking_id


class Revert:
    """The plan that returns from a trial to the primary; what the trial wrote is dropped."""

    def __init__(
        self, session: Session, volume: Volume, *, kill: bool = False, give_up: bool = False
    ) -> None:
        self.gives_up_commit = give_up and volume.state is VolumeState.COMMITTING
        if not self.gives_up_commit:
            trial.require_trial(volume)
        require_former(volume)
        primary.require_answer(
            volume,
            session.configuration.primary_wait_seconds,
            hint=f"dmsnap swap commit {volume.name} makes the recovery volume the primary",
        )
        require_primary(volume)
        self.has_front = stack.exists(stack.front(volume))
        if not self.has_front:  # who wrote to the primary since the boot was not seen
            volume = replace(volume, tracking_id=new_tracking_id())
        self.session = session
        self.kill = kill
        self.occupants = Occupants(session, volume, kill=kill)
        self.volume = volume
        # Looked up now: undoing must not depend on a catalogue whose disk is full.
        self.areas = session.catalogue.areas(volume.id)
        # What is there, and not what the label says: the recovery volume may have died meanwhile.
        self.chain = chain.existing(volume, chain.TRIAL)
        self.after = owed_record.before_swap(volume)

    def plan(self) -> Plan:
        name = self.volume.name
        state_directory = self.session.configuration.state_directory
        steps = [
            *self._steps_back(),
            Step(
                "record", f"record that {name} is back on its primary", self._record, self._unrecord
            ),
            *boot.network_steps(self.volume, self.after, state_directory),
            Step(
                "mount",
                f"mount /dev/mapper/{name}",
                self._mount,
                self._unmount_again,
            ),
            *self.occupants.steps_after(),
            Step(
                "drop-overlay",
                self.given_up or "drop the overlay and what it held",
                self._drop,
                final=True,
            ),
        ]
        arguments = {"name": name, "kill": self.kill, "give_up": self.gives_up_commit}
        return Plan("swap revert", (self.volume.id,), steps, arguments)

    @property
    def given_up(self) -> str | None:
        """What is lost with a trial that is not shown any more, or with a commit."""
        if self.gives_up_commit:
            return (
                f"the commit of point {self.volume.trial_point} of {self.volume.name} is given up, "
                f"and with it what was written since the swap; {self.volume.recovery} is half of "
                f"one thing and half of another, and holds no point any more"
            )
        if self.has_front:
            return None
        source = self.volume.backing if self.volume.trial_live else self.volume.recovery
        return (
            f"the trial of point {self.volume.trial_point} of {self.volume.name} is given up, and "
            f"with its overlay what was written during it; {source} stays as it is"
        )

    def _steps_back(self) -> list[Step]:
        """What brings the front back. Where it is over the primary already, and only the record of
        that is missing, whoever uses it is left in peace.
        """
        if trial.lies_over(self.after):
            return []
        name = self.volume.name
        if not self.has_front:
            return [
                Step("distrust", f"distrust the tracking of {name} so far", self._distrust),
                *self.occupants.steps_before(),
                Step(
                    "create-front",
                    f"make /dev/mapper/{name} over the primary",
                    self._create,
                    self._remove,
                ),
            ]
        return [
            *self.occupants.steps_before(),
            Step("unmount", f"unmount /dev/mapper/{name}", self._unmount, self._mount_trial),
            Step(
                "load-front",
                f"put the primary back under /dev/mapper/{name}",
                self._load,
                self._unload,
            ),
        ]

    def _unmount(self) -> None:
        asked = assembly.as_mounted(self.session, self.volume, asked=True)
        self.volume = assembly.as_mounted(self.session, self.volume)
        self.after = replace(self.after, mounts=asked.mounts)
        self.session.catalogue.update_volume(self.volume)
        self._unmount_again()
        trial.require_unopened(self.volume)

    def _unmount_again(self) -> None:
        wait_seconds = self.session.configuration.unmount_wait_seconds
        assembly.unmount_front(self.volume, wait_seconds)

    def _mount_trial(self) -> None:
        assembly.mount_front(self.volume)

    def _mount(self) -> None:
        """A front that was made here and is exported is for initiators, who come back later."""
        if self.has_front or not exported.shows_front(self.session, self.volume):
            assembly.mount_front(self.after)

    def _distrust(self) -> None:
        self.session.catalogue.update_volume(self.volume)

    def _create(self) -> None:
        assembly.build(self.session, self.after, self.areas)

    def _remove(self) -> None:
        for device in (stack.front(self.after), stack.origin(self.after)):
            stack.remove(device)

    def _load(self) -> None:
        # After a boot during the trial it is not there: the primary may have been dead then.
        assembly.build_origin(self.session, self.after)
        if not trial.load_front_back(
            self.session, self.after, stack.era_area(self.after, self.areas)
        ):
            self.after = replace(self.after, tracking_id=new_tracking_id())

    def _unload(self) -> None:
        trial.load_front(self.session, self.volume, stack.era_area(self.volume, self.areas))

    def _record(self) -> None:
        owed_record.record(self.session, self.volume, self.after)

    def _unrecord(self) -> None:
        """Not while somebody uses the front: then it stays over the primary."""
        trial.require_unopened(self.volume)
        owed_record.take_back(self.session, self.volume)

    def _drop(self) -> None:
        trial.hide(self.volume, self.chain)
        if not self.has_front:
            self._drop_broken_points()
        for role in (AreaRole.OVERLAY, AreaRole.ERA_METADATA):
            for area in self.session.catalogue.areas(self.volume.id, role):
                if area.generation == self.volume.generation:
                    self.session.release_area(self.volume, area)

    def _drop_broken_points(self) -> None:
        """That of a live point goes on if its snapshot was there before the front was."""
        shown = self.volume.trial_point if self.volume.trial_live else None
        is_there = shown is not None and stack.exists(stack.live_point(self.volume, shown))
        assembly.drop_broken_points(self.session, self.after, but=shown if is_there else None)


def require_former(volume: Volume) -> None:
    """Raise :class:`WrongStateError` unless there is a primary that nobody wrote to."""
    committing = volume.state is VolumeState.COMMITTING
    if not volume.backing:
        keeping = f"dmsnap swap commit {volume.name} keeps what it shows, dmsnap unprotect "
        raise WrongStateError(
            f"{volume.name} was recovered by the label of its recovery volume: there is no "
            f"volume to go back to",
            hint=trial.way_out(volume) if committing else f"{keeping}{volume.name} ends the trial",
        )
    if committing and volume.trial_live:
        raise WrongStateError(
            f"the commit of {volume.name} was writing to {volume.backing} itself, which is half of "
            f"one thing and half of another: there is nothing to go back to",
            hint=trial.way_out(volume),
        )


def require_primary(volume: Volume) -> None:
    """After a boot in the trial nothing holds the primary: what is at its path has to be it."""
    before = replace(volume, generation=volume.generation - 1)
    if stack.exists(stack.origin(before)):
        return
    try:
        identity.require_backing(volume)
    except DmsnapError as error:
        error.hint = error.hint or (
            f"dmsnap swap commit {volume.name} makes the recovery volume the primary"
        )
        raise


def revert(
    session: Session, name: str, *, kill: bool = False, give_up: bool = False, dry_run: bool
) -> SwapResult | Plan:
    """End a trial: back to the primary as it was left. ``kill`` as in a swap.

    ``give_up``: of a commit, too, that cannot come to its end.
    """
    wanted = Wanted.PRIMARY
    with held_unless_done(session, name, "swap revert", wanted, undoing="swap") as volume:
        if volume is None:
            return trial.result(session.catalogue.volume(name), StepTimes())
        if give_up and volume.state is VolumeState.COMMITTING:
            # Imported here: it loads all that a commit takes.
            from dmsnap.service.swaps import impasse

            impasse.require_no_commit(session, volume)
        ending = Revert(session, volume, kill=kill, give_up=give_up)
        plan = ending.plan()
        if dry_run:
            return plan
        times = journal.run(session.catalogue, plan)
        owed_record.is_recorded(session, volume.id)
        for job in jobs.unfinished(session.catalogue, volume.id):  # the commit's
            conclude(session, ending.after, job)
        if not ending.has_front:
            # Imported where it may be needed: it loads all of LIO.
            from dmsnap.service.exports import export_restore

            export_restore.restore_front(session, ending.after)
        spare.keep(session, name)
        return replace(trial.result(ending.after, times), given_up=ending.given_up)


def finish(session: Session, volume: Volume, job: Job) -> bool:
    """Undone while the front shows the trial; once the primary was loaded it goes on to its end.

    Where a boot has left no front it is undone, too: a trial is given up by who asked for that. So
    is one that was to give up a commit which has come to its end since.
    """
    if volume.state not in (VolumeState.TRIAL, VolumeState.COMMITTING):
        return volume.state is VolumeState.PROTECTED
    if trial.is_loaded(volume, session.catalogue.areas(volume.id)):
        return False
    gives_up = any(step.name == "create-front" for step in job.steps)
    if not gives_up and not stack.exists(stack.front(volume)):
        return False
    give_up = bool(job.arguments.get("give_up", False))
    journal.run(session.catalogue, Revert(session, volume, give_up=give_up).plan())
    return True
