"""Recovery by a label alone: a recovery volume under its volume's name, on this or another host.

Neither the catalogue nor the volume's own device is needed. What is shown is a trial like any
other; where the volume's device is not certain to be there, there is no way back to it, and the
trial ends with ``unprotect`` or ``commit``.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from dmsnap._native import label as labels
from dmsnap._native.label import Label
from dmsnap.catalogue import recall
from dmsnap.catalogue.model import Area, AreaRole, Job, Volume, VolumeState
from dmsnap.catalogue.statements import Statements
from dmsnap.errors import ForeignDeviceError
from dmsnap.host import placeholder
from dmsnap.host.blockdev import BlockDevice, open_exclusive
from dmsnap.recovery import chain, lease, replica
from dmsnap.recovery.replica import Replica
from dmsnap.service import journal
from dmsnap.service.health import boot
from dmsnap.service.journal import Plan, Step
from dmsnap.service.records import backup, recollection, reconstruction
from dmsnap.service.records.backup import Recalled
from dmsnap.service.session import Session
from dmsnap.service.swaps import label_admission, trial
from dmsnap.service.swaps.label_admission import PRIMARY_GENERATION, LabelRequest, Meant
from dmsnap.service.swaps.source import choose_point
from dmsnap.service.swaps.trial import SwapResult
from dmsnap.service.swaps.withdrawal import Withdrawal, is_cut_off
from dmsnap.service.volumes import admission, assembly
from dmsnap.snapshot import stack
from dmsnap.snapshot.space import era_metadata_bytes, plan_area

log = logging.getLogger(__name__)


class LabelTrial:
    """The plan that puts a point of a recovery volume under the name that its label says."""

    def __init__(self, session: Session, request: LabelRequest, found: Label) -> None:
        self.session = session
        self.request = request
        self.recovery = BlockDevice.probe(request.device)
        self.found = found
        self.label = replica.settled(self.recovery.path, found)
        label_admission.admit(session, request, self.recovery, found)
        wanted = label_admission.find_point(self.label, request.to) if request.to else None
        patience_seconds = session.configuration.primary_wait_seconds
        draft = label_admission.new_volume(request, self.recovery, found, patience_seconds)
        self.point, self.steps_back = choose_point(draft, self.label, wanted)
        is_torn = self.label is not found
        chain.require_recoverable(self.recovery, found.history[: self.steps_back + is_torn])
        self.volume = replace(draft, trial_point=self.point)
        self.chain = chain.levels(draft, self.label, self.steps_back, chain.TRIAL)
        self.recalled = backup.read(self.recovery, found)
        self.areas = self._plan_areas()
        label_admission.require_room(request.store, self.recovery, self.areas)
        self._claimed = False

    def _plan_areas(self) -> list[Area]:
        """The overlay and the era metadata; a primary that is there gets metadata to go back to."""
        size_bytes = era_metadata_bytes(self.volume.size_bytes, self.volume.block_bytes)
        generations = [self.volume.generation]
        generations += [PRIMARY_GENERATION] if self.volume.backing else []
        return [
            self.session.plan_cow(self.volume, AreaRole.OVERLAY, point_id=self.point),
            *(
                plan_area(self.volume, AreaRole.ERA_METADATA, size_bytes, generation)
                for generation in generations
            ),
        ]

    def plan(self) -> Plan:
        name, device, session = self.volume.name, self.recovery.path, self.session
        steps = [
            # In this order: what is recorded is given up with all that it took.
            Step("record", f"record {name} in the catalogue", self._record, self._forget),
            Step("claim", f"claim {device} for this host", self._claim, self._unclaim),
            Step(
                "create-overlay",
                f"create the overlay and era metadata of {name} in {self.volume.store}",
                self._create_areas,
                self._release_areas,
            ),
            Step(
                "show-point",
                f"show point {self.point} of {device} under the overlay",
                self._show,
                partial(trial.hide, self.volume, self.chain),
            ),
            Step(
                "create-front",
                f"put it under /dev/mapper/{name}",
                self._create_front,
                partial(stack.remove, stack.front(self.volume)),
            ),
        ]
        if self.volume.mounts:
            place = self.volume.mounts[0].mount_point
            steps.append(
                Step(
                    "mount",
                    f"mount /dev/mapper/{name} on {place}",
                    partial(assembly.mount_front, self.volume),
                    self._unmount,
                )
            )
        steps += [
            Step(
                "prepare-boot",
                f"have {name} assembled at boot",
                partial(boot.prepare, self.volume, session.configuration.state_directory),
                partial(boot.withdraw, self.volume),
            ),
            Step(
                "hide-twins",
                f"keep {device} out of /dev/disk/by-uuid and by-label",
                partial(boot.hide, self.volume),
                partial(boot.show, self.volume, forget=False),
            ),
            Step("record-trial", f"record that {name} is in trial", self._finish, final=True),
        ]
        arguments = {**asdict(self.request), "device": str(self.request.device.absolute())}
        arguments["mount"] = str(self.request.mount.absolute()) if self.request.mount else None
        arguments["name"] = name  # by which it is known who works on it before it is recorded
        arguments["recovery_id"] = str(self.found.recovery_uuid)
        return Plan("swap from-label", (self.volume.id,), steps, arguments)

    def _claim(self) -> None:
        """What an interrupted sync left is rolled back by the first label that is ours.

        Another host may have claimed it since it was looked at, or, where it is taken from that
        host, have gone on writing to it.
        """
        with self._opened() as current:
            if not self.request.force:
                lease.require_ours(self.recovery.path, current.label)
            label_admission.require_same(self.recovery.path, self.found, current.label)
            self._claimed = True
            current.write_label(current.label)
            current.settle()

    def _unclaim(self) -> None:
        """Where it came to that: another host's claim is not ours to take back, nor what it gave
        up meanwhile to be claimed for it again.
        """
        former = self.found
        with self._opened() as current:
            if not self._claimed or not lease.is_ours(current.label):
                return
            new = replace(
                current.label,
                host=former.host,
                host_uuid=former.host_uuid,
                lease_time_ns=former.lease_time_ns,
                block_size=former.block_size,
                chunk_size=former.chunk_size,
                device=former.device,
                store=former.store,
                mount_point=former.mount_point,
                mount_options=former.mount_options,
            )
            size_bytes = self.recovery.size_bytes
            labels.write(current.fd, size_bytes, new, str(self.recovery.path))

    @contextmanager
    def _opened(self) -> Iterator[Replica]:
        path = self.recovery.path
        with open_exclusive(path, write=True) as fd:
            current = labels.read(fd, self.recovery.size_bytes, str(path))
            replica.check_identity(self.volume, self.recovery, current)
            yield Replica(self.recovery, fd, current, self.volume)

    def _record(self) -> None:
        """As being built: what a command leaves that is killed is taken back by the next one."""
        self.session.catalogue.add_volume(replace(self.volume, state=VolumeState.BUILDING))

    def _finish(self) -> None:
        record_trial(self.session, self.volume, self.label, self.recalled)

    def _forget(self) -> None:
        self.session.catalogue.remove_volume(self.volume.id)

    def _create_areas(self) -> None:
        for area in self.areas:
            self.session.create_area(self.volume, area)

    def _release_areas(self) -> None:
        for area in self.areas:
            self.session.release_area(self.volume, area)

    def _show(self) -> None:
        below = chain.build(self.volume, self.label, self.recovery, self.chain)
        cow = stack.attach_area(self.volume, self.areas[0])
        trial.create_overlay(self.volume, below, cow)

    def _create_front(self) -> None:
        trial.create_front(self.session, self.volume, stack.era_area(self.volume, self.areas))

    def _unmount(self) -> None:
        wait_seconds = self.session.configuration.unmount_wait_seconds
        assembly.unmount_front(self.volume, wait_seconds)


def record_trial(session: Session, volume: Volume, label: Label, recalled: Recalled) -> None:
    """In trial, with its points, and what the backup of the catalogue says of its past."""
    past = recalled.excerpt
    points = recollection.points(past, reconstruction.points_of(volume, label))

    def also(statements: Statements) -> None:
        if past is not None:
            recall.history(statements, past)

    areas = session.catalogue.areas(volume.id)
    session.catalogue.add_whole(volume, areas, points, also)
    session.note_replica(volume)
    if recalled.reason:
        log.warning("%s", recalled.reason)


def recover(
    session: Session, request: LabelRequest, *, dry_run: bool, meant: Meant | None = None
) -> SwapResult | Plan:
    """Put a point of a recovery volume under the volume's name, in trial. Needs root.

    ``meant``: what is to be on the device, when somebody else gave its name before.
    """
    found = replica.read_label(request.device)
    if found is None:
        raise ForeignDeviceError(f"{request.device} carries no label: it is no recovery volume")
    admission.check_name(found.name)
    if meant is not None:
        meant.require(request.device, found)
    with session.locked([found.name]):
        leftover = session.catalogue.find_volume(found.name)
        if leftover is not None and is_cut_off(leftover) and leftover.id == found.volume_uuid:
            journal.run(session.catalogue, Withdrawal(session, leftover).plan())
            found = replica.read_label(request.device) or found
        placeholder.remove([found.name])  # what lies below one that is left is asked for
        putting = LabelTrial(session, request, found)
        plan = putting.plan()
        if dry_run:
            return plan
        return trial.result(putting.volume, journal.run(session.catalogue, plan))


def again(
    session: Session,
    *,
    device: str,
    mount: str | None,
    dry_run: bool,
    name: str | None = None,
    recovery_id: str | None = None,
    **rest: Any,
) -> object:
    """Begin a recovery anew that was cut off: of the same, as kernel names are given anew."""
    request = LabelRequest(Path(device), mount=Path(mount) if mount else None, **rest)
    return recover(session, request, dry_run=dry_run, meant=Meant(name, recovery_id))


def finish(session: Session, volume: Volume, _job: Job) -> bool:
    """Done once the trial is recorded, by itself or by the boot; until then it is taken back.

    The boot, which has to have it mounted, records no more than that it is one.
    """
    if is_cut_off(volume):
        journal.run(session.catalogue, Withdrawal(session, volume).plan())
        return False
    if not session.catalogue.points(volume.id):
        recovery = BlockDevice.probe(replica.recovery_path(volume))
        label = replica.settled(recovery.path, replica.label_of(volume))
        record_trial(session, volume, label, backup.read(recovery, label))
    boot.prepare(volume, session.configuration.state_directory)
    boot.hide(volume)
    return True
