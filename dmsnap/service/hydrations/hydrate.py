"""Hydrate: a volume's data to another device, online; the device that it leaves is free then."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dmsnap._native import label
from dmsnap._native.label import Label
from dmsnap.catalogue.model import Hydration, Job, Volume, VolumeState
from dmsnap.errors import DmsnapError, InterruptedBySignal, WrongStateError
from dmsnap.host import lun, signature
from dmsnap.host.blockdev import BlockDevice
from dmsnap.recovery import history, replica
from dmsnap.service import journal
from dmsnap.service.health import boot
from dmsnap.service.hydrations import destination, hydration
from dmsnap.service.hydrations.hydration import Copying
from dmsnap.service.journal import Plan, Step, StepTimes
from dmsnap.service.pools import pool_return
from dmsnap.service.progress import Progress
from dmsnap.service.reaper import held
from dmsnap.service.replicas import rolling
from dmsnap.service.replicas.audit import Audit, AuditResult
from dmsnap.service.session import Session
from dmsnap.service.swaps import failback
from dmsnap.service.volumes import admission, identity, spare
from dmsnap.snapshot import stack

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HydrateRequest:
    """What the user asked for. ``onto`` None: go on with what was begun.

    ``bandwidth`` in bytes a second, 0: no limit. ``force``: the data of the catalogue's server lie
    elsewhere.
    """

    onto: Path | None = None
    bandwidth: int = 0
    overwrite: bool = False
    drop_points: bool = False
    force: bool = False
    audit: Audit = Audit.NONE


@dataclass(frozen=True, slots=True)
class HydrateResult:
    """Where the volume is now. ``held_seconds`` is how long its users had to wait at the end."""

    volume: str
    device: str
    left_behind: str
    bytes_volume: int
    resumed_at_bytes: int
    bytes_copied: int
    bytes_compared: int
    passes: int
    bytes_held: int
    held_seconds: float
    seconds: float
    steps: dict[str, float]
    audit: AuditResult


class Moving:
    """The plan of one run; its checks are made when it is built.

    Nothing is undone: what was copied stays, and the next run goes on from there.
    """

    def __init__(
        self, session: Session, volume: Volume, request: HydrateRequest, progress: Progress | None
    ) -> None:
        destination.require_settled(session, volume)
        destination.require_catalogue_elsewhere(session, volume, given=request.force)
        target = destination.choose(volume, request.onto)
        self.session = session
        self.volume = volume
        self.live = destination.require_points(session, volume, drop=request.drop_points)
        self.primary: Label | None = None
        if volume.state is VolumeState.PROMOTED:
            self.primary = failback.require_primary(volume)
        self.target = destination.admit(session, volume, target, overwrite=request.overwrite)
        if self.primary is not None:
            self.primary = fitted(self.primary, self.target)
        record = volume.hydration or Hydration(
            source=volume.backing,
            target=admission.stable_path(target),
            position_bytes=0,
            since=0,
            tracking_id=volume.tracking_id,
            surplus_sectors=0,
        )
        self.arguments = {
            "name": volume.name,
            "onto": record.target,
            "bandwidth": request.bandwidth,
            "overwrite": request.overwrite,
            "drop_points": request.drop_points,
            "force": request.force,
            "audit": request.audit,
        }
        self.audit = request.audit
        self.copying = Copying(
            session,
            volume,
            self.target,
            record,
            bandwidth=request.bandwidth,
            progress=progress,
        )

    def plan(self) -> Plan:
        name, device, copying = self.volume.name, self.target.path, self.copying
        steps = [
            Step(
                "claim",
                f"record that {name} moves to {device}, and hold that",
                copying.claim,
                check=self._require_untaken,
            ),
            Step("copy", f"copy {name} to {device}", copying.copy),
            Step("catch-up", f"copy to {device} what was written meanwhile", copying.catch_up),
        ]
        if self.audit is not Audit.NONE:
            what = f"read {device} back and compare ({self.audit})"
            steps.append(Step("audit", what, partial(copying.audit, self.audit)))
        if self.live:
            dropped = f"drop the {len(self.live)} live points, which lie on {self.volume.backing}"
            steps.append(Step("drop-points", dropped, self._drop_points, final=True))
        steps += [
            Step(
                "switch",
                f"hold {name}, copy the rest, and go on over {device}",
                self._switch,
                final=True,
            ),
            Step("release", f"let go of {self.volume.backing}", self._release, final=True),
        ]
        return Plan("hydrate", (self.volume.id,), steps, self.arguments)

    def _require_untaken(self) -> None:
        if self.volume.hydration is not None:
            destination.require_untaken(self.volume, self.target)

    def _drop_points(self) -> None:
        for point in self.live:
            self.session.drop_live_point(self.volume, point, "hydrate moved the volume away")

    def _switch(self) -> None:
        with rolling.giving_up_marks(self.session, self.volume):
            self.copying.switch(self.primary)

    def _release(self) -> None:
        after = self.session.catalogue.volume_by_id(self.volume.id)
        # Two devices with one label: the one that is the volume keeps it.
        pool_return.leave(self.session, after, self.volume.backing, offer=True)
        hydration.tidy(self.session, after)

    def result(self, times: StepTimes) -> HydrateResult:
        done = self.copying.done
        return HydrateResult(
            volume=self.volume.name,
            device=self.copying.record.target,
            left_behind=self.volume.backing,
            bytes_volume=self.volume.size_bytes,
            resumed_at_bytes=done.resumed_at_bytes,
            bytes_copied=done.bytes_copied,
            bytes_compared=done.bytes_compared,
            passes=done.passes,
            bytes_held=done.bytes_held,
            held_seconds=done.held_seconds,
            seconds=times.total,
            steps=times.seconds,
            audit=self.copying.audited,
        )


def fitted(primary: Label, target: BlockDevice) -> Label:
    """The label of a promoted volume for a device of another size, where its history can lie."""
    region = history.region(primary.size_bytes, label.offset(target.size_bytes))
    return replace(
        primary,
        history_offset_bytes=region.offset_bytes,
        history_length_bytes=region.length_bytes,
    )


def abandon(session: Session, volume: Volume) -> Plan:
    """The plan that gives up what was begun: the new device is free, and holds nothing."""
    begun = volume.hydration
    if begun is None:
        raise WrongStateError(f"no move of {volume.name} was begun")
    after = replace(volume, hydration=None)

    def wipe() -> None:
        """A part of a file system must not be found by its UUID beside the whole one."""
        stack.remove(stack.hydrated(volume))
        target = Path(begun.target)
        if target.exists():
            found = BlockDevice.probe(target)
            # Nobody else is to be given it between the look at what is on it and its wiping.
            with session.locked([admission.device_lock(found)]):
                wipe_unless_taken(volume, found)

    def forget() -> None:
        session.catalogue.update_volume(after)
        boot.hide(after)

    steps = [
        Step("wipe", f"let go of {begun.target}, and wipe what makes it a file system", wipe),
        Step("record", f"record that {volume.name} stays on {volume.backing}", forget),
    ]
    arguments = {"name": volume.name, "abandon": True}
    return Plan("hydrate", (volume.id,), steps, arguments)


def wipe_unless_taken(volume: Volume, target: BlockDevice) -> None:
    """Leave nothing of the volume on a device that it will not move to.

    What somebody else made of that meanwhile is theirs; one that fails is no reason to go on.
    """
    try:
        taken = destination.taken_by(volume, target)
    except DmsnapError as error:
        log.warning("%s cannot be read, and is not wiped: %s", target.path, error)
        return
    if taken is not None:
        log.warning("%s is left as it is: it %s", target.path, taken)
        return
    signature.wipe(target.path)
    if replica.read_label(target.path) is not None:
        replica.wipe_label(target.path)


def hydrate(
    session: Session,
    name: str,
    request: HydrateRequest,
    *,
    dry_run: bool,
    progress: Progress | None = None,
) -> HydrateResult | Plan:
    """Move a volume's data to another device while it is used. Needs root."""
    with held(session, name) as volume, _locked(session, volume, request):
        moving = Moving(session, volume, request, progress)
        plan = moving.plan()
        if dry_run:
            return plan
        try:
            times = journal.run(session.catalogue, plan)
        except InterruptedBySignal as signalled:
            raise InterruptedBySignal(
                signalled.signal_number,
                f"interrupted; {name} goes on over {volume.backing}, what was copied is kept, "
                f"dmsnap hydrate {name} goes on from there",
            ) from signalled
        spare.keep(session, name)
        return moving.result(times)


@contextmanager
def _locked(session: Session, volume: Volume, request: HydrateRequest) -> Iterator[None]:
    """Nobody else may admit the new device meanwhile: it is recorded with the first step."""
    target = BlockDevice.probe(destination.choose(volume, request.onto))
    with session.locked([admission.device_lock(target)]):
        yield


def give_up(session: Session, name: str, *, dry_run: bool) -> Plan | None:
    """Give up a move that was begun and not finished. Needs root."""
    with held(session, name) as volume:
        plan = abandon(session, volume)
        if dry_run:
            return plan
        journal.run(session.catalogue, plan)
    return None


def again(
    session: Session,
    *,
    name: str,
    dry_run: bool,
    onto: str = "",
    abandon: bool = False,
    audit: str = Audit.NONE,
    **asked: Any,
) -> object:
    """Go on with a move that was cut off, or begin it anew."""
    if abandon:
        return give_up(session, name, dry_run=dry_run)
    request = HydrateRequest(onto=Path(onto), audit=Audit(audit), **asked)
    return hydrate(session, name, request, dry_run=dry_run)


def finish(session: Session, volume: Volume, job: Job) -> bool:
    """A move goes on when it is asked for; one that was being given up is given up."""
    if not job.arguments.get("abandon", False):
        done = volume.hydration is None and volume.backing == job.arguments["onto"]
        for left in volume.left_behind[-1:]:
            if done and lun.is_present(left):
                # Until the disks have the names that they had, it is not done.
                identity.require_led_to(volume, left, BlockDevice.probe(lun.node(left)))
                # Whether somebody uses it meanwhile nobody knows: no pool has it back.
                pool_return.leave(session, volume, left, offer=False)
        return done
    if volume.hydration is not None:
        journal.run(session.catalogue, abandon(session, volume))
    return True
