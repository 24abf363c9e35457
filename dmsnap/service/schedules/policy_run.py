"""What a policy's schedule begins: points, copies to recovery volumes, and pruning behind them."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from enum import StrEnum
from uuid import UUID

from dmsnap._native.io_priority import lowered
from dmsnap.catalogue import job_upkeep
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import SETTLED, Volume
from dmsnap.errors import DmsnapError, ExitCode, NotFoundError, PointInvalidError
from dmsnap.host import local_time, reach, systemd
from dmsnap.policy.chronology import NANOSECONDS
from dmsnap.policy.copying import Copying, NextCopy, WaitingPoint, next_copy
from dmsnap.service.configuration import coherence
from dmsnap.service.configuration.declaration import CopyTable, Declarations, Make, Policy
from dmsnap.service.health import silence
from dmsnap.service.points import clock_record, copyable, point, waiting
from dmsnap.service.points import prune as pruning
from dmsnap.service.points.prune import PruneResult
from dmsnap.service.points.pruning import Side
from dmsnap.service.replicas import sync
from dmsnap.service.replicas.audit import SYNC_SAMPLE_BYTES
from dmsnap.service.schedules import welcome
from dmsnap.service.schedules.turn import turn
from dmsnap.service.session import Session
from dmsnap.service.volumes import membership

log = logging.getLogger(__name__)

COPY_UNIT = "dmsnap-copy@{}.service"
# What a disk is given before a copy: one that slept takes longer than one that is at work.
WAKING_SECONDS = 30.0
# What a point is taken of.
PRIMARY = (silence.Part.SERVING, silence.Part.STORE)


@dataclass(slots=True)
class VolumeRun:
    """What a run did for one volume, and the first thing that failed of it.

    ``synced`` is what the recovery volume holds then, if it was synced. ``copy_due_ns``: when the
    next point is to be copied, if not yet; ``pruned``: the points that went, ``notes`` why others
    did not that might have.
    """

    volume: str
    point: UUID | None = None
    synced: UUID | None = None
    copy_due_ns: int | None = None
    pruned: tuple[UUID, ...] = ()
    notes: tuple[str, ...] = ()
    error: str | None = None
    exit_code: int = 0

    def fail(self, sentence: str, exit_code: int) -> None:
        log.warning("%s: %s", self.volume, sentence, extra={"volume": self.volume})
        if not self.exit_code:
            self.error, self.exit_code = sentence, exit_code


class Part(StrEnum):
    """What of a run is to be done: a copy may take days, and the next points do not wait for it."""

    ALL = "all"
    POINTS = "points"
    COPIES = "copies"


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
    welcome_due_ns: int | None = None

    def __post_init__(self) -> None:
        names = [each for _, names in self.groups for each in names]
        self.volumes = {each: VolumeRun(each) for each in names}

    @property
    def copy_unit(self) -> str:
        """The unit that does what comes after the points."""
        return COPY_UNIT.format(systemd.escape(self.name))

    def steps(self, part: Part) -> Iterator[str]:
        if self.policy.make is not Make.RECOVERY_VOLUME and part is not Part.COPIES:
            for subclient, names in self.groups:
                yield f"take one point of {', '.join(names)} (sub-client {subclient})"
        if part is Part.POINTS:
            yield f"begin {self.copy_unit}, which copies and prunes"
            return
        if self.policy.make is not Make.SNAPSHOT:
            for name in self.volumes:
                yield f"sync {name} with each point that is due"
        for name in self.volumes:
            yield f"prune {name}"

    def take_points(self) -> None:
        """One moment for all of a sub-client: that is what it is a set for."""
        for _, names in self.groups:
            left = [name for name in names if self._is_takeable(name)]
            while left:
                left = self._take(left)

    def _take(self, names: list[str]) -> list[str]:
        """Take a point of all; returns those that are left to be tried again, without the volume
        that it failed of, where it is known which that is.
        """
        try:
            taken = point.create(self.session, names, keep=False, dry_run=False)
        except DmsnapError as error:
            at_fault = [name for name in names if name == error.fields.get("volume")] or names
            for name in at_fault:
                self.volumes[name].fail(str(error), error.exit_code)
            return [name for name in names if name not in at_fault]
        for each in taken if isinstance(taken, list) else ():
            self.volumes[each.volume].point = each.id
        return []

    def _is_takeable(self, name: str) -> bool:
        """One that hangs would keep those from a point that are taken at the same moment."""
        volume = self.session.catalogue.find_volume(name)
        if volume is None:
            self.volumes[name].fail(f"{name} is not protected", ExitCode.NOT_FOUND)
            return False
        if volume.state not in SETTLED:
            sentence = f"{name} is in state {volume.state}: no point was taken"
            self.volumes[name].fail(sentence, ExitCode.WRONG_STATE)
            return False
        return self._answers(volume, reach.ANSWER_SECONDS, *PRIMARY)

    def _answers(self, volume: Volume, seconds: float, *parts: silence.Part) -> bool:
        """Whether what is needed of a volume does; what does not is said of it."""
        try:
            silence.require(self.session, volume, seconds, *parts)
        except DmsnapError as error:
            self.volumes[volume.name].fail(str(error), error.exit_code)
            return False
        return True

    def _is_there(self, volume: Volume) -> bool:
        """Whether all of a volume answers: a disk that sleeps is given the time to wake up."""
        return self._answers(volume, WAKING_SECONDS, *silence.Part)

    def copy(self) -> None:
        """Sync each volume for which that is due, when it is its turn, if no point was taken, too:
        earlier ones may wait.
        """
        for run in self.volumes.values():
            volume = self.session.catalogue.find_volume(run.volume)
            if volume is None or not self._is_there(volume):
                continue
            try:
                self._copy(volume, run)
            except DmsnapError as error:
                run.fail(str(error), error.exit_code)

    def _copy(self, volume: Volume, run: VolumeRun) -> None:
        """The oldest point that is due, then the next one: each becomes one of the history."""
        while self._is_due(volume, run):
            with turn(self.session, volume):
                # Waiting for that may have taken hours, and another run may have copied meanwhile.
                found = self._next_copy(volume)
                if found is None or found.due_ns > now_ns():
                    continue
                if not self._is_there(volume):
                    return
                source = self._source(volume, found.point)
                done = sync.sync(
                    self.session,
                    volume.name,
                    audit=self.policy.audit,
                    sample_bytes=int(self.policy.audit_size or SYNC_SAMPLE_BYTES),
                    bandwidth=int(self.policy.bandwidth or 0),
                    io_priority=self.policy.io_priority,
                    source=source,
                )
            if isinstance(done, sync.SyncResult):
                run.synced = done.point
            if source is None:
                return

    def _is_due(self, volume: Volume, run: VolumeRun) -> bool:
        """Whether something is to be copied now; what has its time later gets that noted."""
        found = self._next_copy(volume)
        if found is not None and found.due_ns > now_ns():
            run.copy_due_ns = found.due_ns
            return False
        return found is not None

    def _next_copy(self, volume: Volume) -> NextCopy | None:
        """What is to be copied next, and when; None: more points must be taken before."""
        copying = (self.policy.copy or CopyTable()).copying
        now = now_ns()
        if self.policy.make is Make.RECOVERY_VOLUME:
            # There are no points that could wait: what is copied is taken for it.
            return next_copy(
                [WaitingPoint(volume.id, now)], Copying(hours=copying.hours), now, self.zone
            )
        return next_copy(waiting.waiting_points(self.session, volume), copying, now, self.zone)

    def _source(self, volume: Volume, point_id: UUID) -> str | None:
        """The live point to copy; None: the volume as it is now."""
        if self.policy.make is Make.RECOVERY_VOLUME:
            return None
        try:
            copyable.require_nothing_beside(self.session, volume, point_id)
        except PointInvalidError as error:
            log.warning("%s is copied as it is now: %s", volume.name, error)
            return None
        return str(point_id)

    def prune(self) -> None:
        """Have go what no rule keeps any more, also behind what failed: that may want room."""
        for run in self.volumes.values():
            self._prune(run, PolicyRun._prune_in_turn)

    def prune_live(self) -> None:
        """The same of live points alone, which moves no data, and so waits for nobody's turn: they
        would fill the store while a copy lasts. What got no new one is left alone.
        """
        for run in self.volumes.values():
            if run.point is not None:
                self._prune(run, PolicyRun._prune_at_once)

    def _prune(
        self, run: VolumeRun, how: Callable[["PolicyRun", Volume], list[PruneResult]]
    ) -> None:
        volume = self.session.catalogue.find_volume(run.volume)
        if volume is None:
            return
        try:
            (result,) = how(self, volume)
        except DmsnapError as error:
            run.fail(str(error), error.exit_code)
            return
        run.notes = result.notes
        run.pruned = tuple({each.point: None for each in result.points if not each.stays})
        if result.error is not None:
            run.fail(result.error, result.exit_code)

    def _prune_in_turn(self, volume: Volume) -> list[PruneResult]:
        silence.require(self.session, volume, reach.ANSWER_SECONDS, *silence.Part)
        with turn(self.session, volume), lowered(self.policy.io_priority):
            return pruning.prune(self.session, [volume.name])

    def _prune_at_once(self, volume: Volume) -> list[PruneResult]:
        return pruning.prune(self.session, [volume.name], sides=[Side.PRIMARY])

    def welcome(self, declared: Declarations) -> None:
        """Look around, which is behind all else; what is protected for the first time is listed."""
        found = welcome.welcome(self.session, declared, self.policy, self.zone)
        self.welcome_due_ns = found.due_ns
        if found.protected is not None:
            name = found.protected.volume
            self.volumes[name] = VolumeRun(name, synced=found.protected.point)

    def next_copy_ns(self) -> int | None:
        """The first moment at which a volume is to be copied that was not yet."""
        dues = [run.copy_due_ns for run in self.volumes.values()]
        return min(
            (each for each in [*dues, self.welcome_due_ns] if each is not None), default=None
        )


def run(
    session: Session, name: str, *, part: Part = Part.ALL, dry_run: bool
) -> list[VolumeRun] | RunPlan:
    """Do what a policy says is to be done now, or a part of it. Needs root.

    Behind points alone systemd begins the rest. What is to be copied later has a timer of its own
    begin the copies. Raises ``ConfigurationError``, and ``NotFoundError`` for a policy that is not
    declared; what fails of one volume is in its result.
    """
    declared = membership.declared_now(session)
    if name not in declared.policy:
        raise NotFoundError(f"there is no policy {name!r}", hint="dmsnap config show shows all")
    running = PolicyRun(
        session, name, declared.policy[name], groups(declared, name), local_time.zone()
    )
    looking = part is not Part.POINTS and looks_around(declared, name)
    if dry_run:
        steps = list(running.steps(part))
        joining = welcome.planned(session, running.policy) if looking else []
        return RunPlan(f"run {name}", [*steps, *joining])
    if running.policy.make is not Make.RECOVERY_VOLUME and part is not Part.COPIES:
        running.take_points()
    if part is Part.POINTS:
        running.prune_live()
        if systemd.is_running():
            systemd.begin(running.copy_unit)
    else:
        _copy(running, declared if looking else None)
    return list(running.volumes.values())


def _copy(running: PolicyRun, looking: Declarations | None) -> None:
    """Copies, what is behind them, and a time for those that are due later."""
    if running.policy.make is not Make.SNAPSHOT:
        running.copy()
    running.prune()
    _forget_old_jobs(running.session)
    if looking is not None:
        running.welcome(looking)
    due_ns = running.next_copy_ns()
    if due_ns is not None and systemd.is_running():
        systemd.begin_at(running.copy_unit, due_ns // NANOSECONDS + 1)


def _forget_old_jobs(session: Session) -> None:
    """By a clock that is believed: one that jumped ahead would take all of them."""
    try:
        now = clock_record.trusted_now(session.configuration.state_directory, recording=False)
        if now is not None:
            job_upkeep.forget_old(session.catalogue, now)
    except DmsnapError as error:
        log.warning("old jobs are not forgotten: %s", error)


def looks_around(declared: Declarations, policy: str) -> bool:
    """Whether runs of a policy look for volumes that joined its sub-client: the default one."""
    default = coherence.default_of(declared)
    return default is not None and declared.subclient[default].policy == policy


def exit_code(runs: Sequence[VolumeRun]) -> ExitCode:
    """That of the first volume that failed."""
    return ExitCode(next((run.exit_code for run in runs if run.exit_code), 0))
