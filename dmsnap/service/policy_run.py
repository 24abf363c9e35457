"""What a policy's schedule begins: points, copies to recovery volumes, and pruning behind them."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from uuid import UUID

from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import Volume
from dmsnap.errors import DmsnapError, ExitCode, NotFoundError
from dmsnap.host import local_time, systemd
from dmsnap.policy.chronology import NANOSECONDS
from dmsnap.policy.copying import Copying, WaitingPoint, next_copy
from dmsnap.recovery import replica
from dmsnap.service import coherence, configuration_check, discovery, point, sync
from dmsnap.service import prune as pruning
from dmsnap.service.declaration import CopyTable, Declarations, Make, Policy
from dmsnap.service.reaper import SETTLED
from dmsnap.service.session import Session
from dmsnap.service.turn import turn

log = logging.getLogger(__name__)

COPY_UNIT = "dmsnap-copy@{}.service"


@dataclass(slots=True)
class VolumeRun:
    """What a run did for one volume, and the first thing that failed of it.

    ``copy_due_ns``: when it is to be copied, if not yet; ``pruned``: the points that went.
    """

    volume: str
    point: UUID | None = None
    synced: UUID | None = None
    copy_due_ns: int | None = None
    pruned: tuple[UUID, ...] = ()
    error: str | None = None
    exit_code: int = 0

    def fail(self, sentence: str, exit_code: int) -> None:
        log.warning("%s: %s", self.volume, sentence, extra={"volume": self.volume})
        if not self.exit_code:
            self.error, self.exit_code = sentence, exit_code


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What ``--dry-run`` shows."""

    operation: str
    steps: Sequence[str]

    def descriptions(self) -> list[str]:
        return list(self.steps)


def groups(declared: Declarations, policy: str) -> list[tuple[str, list[str]]]:
    """The sub-clients under a policy with their volumes, each volume with the first that has it."""
    seen: set[str] = set()
    found = []
    for name, subclient in declared.subclient.items():
        if subclient.policy == policy:
            names = [
                each for each in coherence.volumes_of(declared.subclient, name) if each not in seen
            ]
            seen.update(names)
            found.append((name, names))
    return [(name, names) for name, names in found if names]


@dataclass(slots=True)
class PolicyRun:
    """One run of a policy, with its fellows all volumes in the end: one that fails stops none."""

    session: Session
    name: str
    policy: Policy
    groups: list[tuple[str, list[str]]]
    zone: tzinfo
    volumes: dict[str, VolumeRun] = field(init=False)

    def __post_init__(self) -> None:
        names = [each for _, names in self.groups for each in names]
        self.volumes = {each: VolumeRun(each) for each in names}

    def steps(self, *, copying_only: bool) -> Iterator[str]:
        if self.policy.make is not Make.RECOVERY_VOLUME and not copying_only:
            for subclient, names in self.groups:
                yield f"take one point of {', '.join(names)} (sub-client {subclient})"
        if self.policy.make is not Make.SNAPSHOT:
            for name in self.volumes:
                yield f"sync {name}, once that is due"
        for name in self.volumes:
            yield f"prune {name}"

    def take_points(self) -> None:
        """One moment for all of a sub-client: that is what it is a set for."""
        for _, names in self.groups:
            ready = [name for name in names if self._is_takeable(name)]
            if not ready:
                continue
            try:
                taken = point.create(self.session, ready, keep=False, dry_run=False)
                for each in taken if isinstance(taken, list) else ():
                    self.volumes[each.volume].point = each.id
            except DmsnapError as error:
                for name in ready:
                    self.volumes[name].fail(str(error), error.exit_code)

    def _is_takeable(self, name: str) -> bool:
        volume = self.session.catalogue.find_volume(name)
        if volume is None:
            self.volumes[name].fail(f"{name} is not protected", ExitCode.NOT_FOUND)
        elif volume.state not in SETTLED:
            sentence = f"{name} is in state {volume.state}: no point was taken"
            self.volumes[name].fail(sentence, ExitCode.WRONG_STATE)
        return volume is not None and volume.state in SETTLED

    def copy(self) -> None:
        """Sync each volume for which that is due, when it is its turn."""
        for run in self.volumes.values():
            volume = self.session.catalogue.find_volume(run.volume)
            if volume is None or run.exit_code:
                continue
            try:
                self._copy(volume, run)
            except DmsnapError as error:
                run.fail(str(error), error.exit_code)

    def _copy(self, volume: Volume, run: VolumeRun) -> None:
        due_ns = self._due_ns(volume)
        if due_ns is None or due_ns > now_ns():
            run.copy_due_ns = due_ns
            return
        with turn(self.session, volume):
            done = sync.sync(
                self.session,
                volume.name,
                audit=self.policy.audit,
                bandwidth=int(self.policy.bandwidth or 0),
            )
        if isinstance(done, sync.SyncResult):
            run.synced = done.point

    def _due_ns(self, volume: Volume) -> int | None:
        """When the next copy is due; None: more points must be taken before."""
        copying = (self.policy.copy or CopyTable()).copying
        now = now_ns()
        waiting = waiting_points(self.session, volume)
        if self.policy.make is Make.RECOVERY_VOLUME:
            # There are no points that could wait: what is copied is taken for it.
            waiting, copying = [WaitingPoint(volume.id, now)], Copying(hours=copying.hours)
        found = next_copy(waiting, copying, now, self.zone)
        return found.due_ns if found else None

    def prune(self) -> None:
        """Have go what no rule keeps any more, also behind what failed: that may want room."""
        for run in self.volumes.values():
            volume = self.session.catalogue.find_volume(run.volume)
            if volume is None:
                continue
            try:
                self._prune(volume, run)
            except DmsnapError as error:
                run.fail(str(error), error.exit_code)

    def _prune(self, volume: Volume, run: VolumeRun) -> None:
        with turn(self.session, volume):
            (result,) = pruning.prune(self.session, [volume.name])
        run.pruned = tuple({each.point: None for each in result.points if not each.stays})
        if result.error is not None:
            run.fail(result.error, result.exit_code)

    def next_copy_ns(self) -> int | None:
        """The first moment at which a volume is to be copied that was not yet."""
        found = [run.copy_due_ns for run in self.volumes.values() if run.copy_due_ns is not None]
        return min(found, default=None)


def waiting_points(session: Session, volume: Volume) -> list[WaitingPoint]:
    """The live points that are newer than what the recovery volume holds, the oldest first."""
    label = replica.label_of(volume)
    return [
        WaitingPoint(each.id, each.created_ns)
        for each in pruning.live_points(session, volume)
        if each.invalid_reason is None and each.created_ns > label.point_time_ns
    ]


def run(
    session: Session, name: str, *, copying_only: bool, dry_run: bool
) -> list[VolumeRun] | RunPlan:
    """Do what a policy says is to be done now. Needs root.

    What is to be copied later has a timer of its own begin ``copying_only``. Raises
    ``ConfigurationError``, and ``NotFoundError`` for a policy that is not declared; what fails of
    one volume is in its result.
    """
    declared = configuration_check.require().declared
    if name not in declared.policy:
        raise NotFoundError(f"there is no policy {name!r}", hint="dmsnap config show shows all")
    running = PolicyRun(
        session, name, declared.policy[name], groups(declared, name), local_time.zone()
    )
    if dry_run:
        return RunPlan(f"run {name}", list(running.steps(copying_only=copying_only)))
    if running.policy.make is not Make.RECOVERY_VOLUME and not copying_only:
        running.take_points()
    if running.policy.make is not Make.SNAPSHOT:
        running.copy()
    running.prune()
    if not copying_only and looks_around(declared, name):
        discovery.tell(session)
    due_ns = running.next_copy_ns()
    if due_ns is not None and systemd.is_running():
        unit = COPY_UNIT.format(systemd.escape(name))
        systemd.begin_at(unit, due_ns // NANOSECONDS + 1)
    return list(running.volumes.values())


def looks_around(declared: Declarations, policy: str) -> bool:
    """Whether runs of a policy look for volumes that joined its sub-client: the default one."""
    default = coherence.default_of(declared)
    return default is not None and declared.subclient[default].policy == policy


def exit_code(runs: Sequence[VolumeRun]) -> ExitCode:
    """That of the first volume that failed."""
    return ExitCode(next((run.exit_code for run in runs if run.exit_code), 0))
