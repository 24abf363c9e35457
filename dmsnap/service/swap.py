"""Swap: put the recovery volume, at its newest or an earlier point, under the front, on trial.

A trial leaves the primary and the replica untouched: what is written goes to an overlay.
``revert`` (service.revert) drops the overlay, ``commit`` (service.promotion) merges it.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

from dmsnap._native.label import Label, LabelState
from dmsnap.catalogue.clock import format_time
from dmsnap.catalogue.model import AreaRole, Job, Volume, VolumeState
from dmsnap.errors import NotFoundError, PointInvalidError, WrongStateError
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.recovery import chain, history, replica
from dmsnap.service import assembly, boot, journal, mounting, trial
from dmsnap.service.journal import Plan, Step
from dmsnap.service.point import find
from dmsnap.service.reaper import held
from dmsnap.service.revert import Revert
from dmsnap.service.session import Session
from dmsnap.service.spare import NextMetadata
from dmsnap.service.trial import SwapResult
from dmsnap.snapshot import stack


class Trial:
    """The plan that puts a point of the recovery volume under the front, under an overlay."""

    def __init__(self, session: Session, volume: Volume, wanted: UUID | None) -> None:
        if volume.state is not VolumeState.PROTECTED:
            raise WrongStateError(
                f"{volume.name} is in state {volume.state}: it cannot be swapped",
                hint="dmsnap swap revert ends a trial",
            )
        # Its tables need not be right: what is below may be what was lost.
        stack.require(stack.front(volume))
        repair(volume)
        self.session = session
        self.before = volume
        # Looked up now: undoing must not depend on a catalogue whose disk is full.
        self.before_metadata = stack.era_area(volume, session.catalogue.areas(volume.id))
        self.label: Label = replica.label_of(volume)
        replica.require_usable(replica.recovery_path(volume), self.label)
        self.point, self.steps_back = choose_point(volume, self.label, wanted)
        self.volume = replace(
            volume,
            state=VolumeState.TRIAL,
            generation=volume.generation + 1,
            trial_point=self.point,
        )
        self.recovery = BlockDevice.probe(replica.recovery_path(volume))
        self.chain = chain.levels(volume, self.label, self.steps_back, chain.TRIAL)
        self.overlay = session.plan_cow(self.volume, AreaRole.OVERLAY, point_id=self.point)
        self.metadata = NextMetadata(session, self.volume)

    def plan(self) -> Plan:
        name = self.volume.name
        state_directory = self.session.configuration.state_directory
        steps = [
            Step(
                "create-overlay",
                f"create the overlay and new era metadata of {name} in {self.volume.store}",
                self._create_areas,
                self._release_areas,
            ),
            Step(
                "show-point",
                f"show point {self.point} of {self.recovery.path} under the overlay",
                self._show,
                self._hide,
            ),
            *self.metadata.steps(),
            Step("unmount", f"unmount /dev/mapper/{name}", self._unmount, self._mount_before),
            Step("record", f"record that {name} is in trial", self._record, self._unrecord),
            *boot.network_steps(self.before, self.volume, state_directory),
            Step("load-front", f"put it under /dev/mapper/{name}", self._load, self._unload),
            Step(
                "mount",
                f"mount /dev/mapper/{name}",
                partial(assembly.mount_front, self.volume),
                self._unmount,
            ),
        ]
        arguments = {"name": name, "to": str(self.point)}
        return Plan("swap", (self.volume.id,), steps, arguments)

    def _create_areas(self) -> None:
        self.session.create_area(self.volume, self.overlay)
        self.metadata.create()

    def _release_areas(self) -> None:
        self.session.release_area(self.volume, self.overlay)
        self.metadata.release()

    def _show(self) -> None:
        below = chain.build(self.volume, self.label, self.recovery, self.chain)
        cow = stack.attach_area(self.volume, self.overlay)
        table = trial.overlay_table(self.volume, below, cow)
        device = stack.origin(self.volume)
        dm.create(device.name, device.uuid, table)

    def _hide(self) -> None:
        trial.hide(self.volume, self.chain)

    def _unmount(self) -> None:
        """The users of a spoiled volume are stopped here; who stays is named in the error."""
        info = dm.info(uuid=stack.front(self.volume).uuid)
        if info is None:
            return
        mounted = mounting.records(info.devno)
        if mounted:
            self.before = replace(self.before, mounts=mounted)
            self.volume = replace(self.volume, mounts=mounted)
            self.session.catalogue.update_volume(self.before)
        mounting.unmount(info.devno, self.session.configuration.unmount_wait_seconds)
        trial.require_unopened(self.volume)

    def _mount_before(self) -> None:
        assembly.mount_front(self.before)

    def _record(self) -> None:
        self.session.catalogue.update_volume(self.volume)

    def _unrecord(self) -> None:
        self.session.catalogue.update_volume(self.before)

    def _load(self) -> None:
        trial.load_front(self.volume, stack.attach_area(self.volume, self.metadata.area))

    def _unload(self) -> None:
        trial.load_front(self.before, stack.attach_area(self.before, self.before_metadata))


def repair(volume: Volume) -> None:
    """Roll an interrupted sync back: the recovery volume must hold a point to be swapped in."""
    if replica.label_of(volume).state is LabelState.APPLYING:
        with replica.opened(volume) as current:
            current.roll_back()


def choose_point(volume: Volume, label: Label, wanted: UUID | None) -> tuple[UUID, int]:
    """The point to show and how many steps back it is; the newest when none is wanted."""
    if label.state is not LabelState.CONSISTENT or label.point_uuid is None:
        raise PointInvalidError(
            f"the recovery volume of {volume.name} holds no point: it is {label.state.name.lower()}"
        )
    if wanted is None:
        return label.point_uuid, 0
    position = history.position_of(label, wanted)
    if position is None:
        raise NotFoundError(
            f"point {wanted} is not on the recovery volume of {volume.name}",
            hint=f"its newest is {label.point_uuid} of {format_time(label.point_time_ns)}",
        )
    return wanted, position


def swap(session: Session, name: str, *, to: str | None, dry_run: bool) -> SwapResult | Plan:
    """Put the newest or the chosen point of the recovery volume under the front, in trial."""
    with held(session, name) as volume:
        wanted = find(session, to, [name]).id if to else None
        putting = Trial(session, volume, wanted)
        plan = putting.plan()
        if dry_run:
            return plan
        return trial.result(putting.volume, journal.run(session.catalogue, plan))


def again(session: Session, arguments: Mapping[str, Any]) -> object:
    """Begin a swap anew that was cut off."""
    return swap(session, **arguments, dry_run=False)


def finish(session: Session, volume: Volume, _job: Job) -> bool:
    """Done once the front shows the trial; recorded and not loaded, it is taken back."""
    if volume.state is not VolumeState.TRIAL:
        return False
    if trial.is_loaded(volume, session.catalogue.areas(volume.id)):
        return True
    journal.run(session.catalogue, Revert(session, volume).plan())
    return False
