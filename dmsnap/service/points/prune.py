"""Pruning: by the policies of their sub-clients, volumes' points go that no rule keeps."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from dmsnap._native.label import Label, LabelState
from dmsnap.catalogue.model import SETTLED, Job, Volume, VolumeState
from dmsnap.errors import DmsnapError, ExitCode, NoSpaceError
from dmsnap.host import local_time
from dmsnap.policy.copying import still_to_copy
from dmsnap.policy.retention import SENTENCES, Action, Retention, Rule
from dmsnap.recovery import answering, removal, replica
from dmsnap.service import journal
from dmsnap.service.configuration import coherence
from dmsnap.service.configuration.declaration import CopyTable, Declarations, Make
from dmsnap.service.journal import Plan
from dmsnap.service.luns.luns import Wanted
from dmsnap.service.points import clock_record, pruning, waiting
from dmsnap.service.points.deletion import MERGE, Deletion, recorded_on_recovery
from dmsnap.service.points.keeping import is_marked
from dmsnap.service.points.point import label_of
from dmsnap.service.points.pruning import Clock, JudgedPoint, Side
from dmsnap.service.progress import Progress
from dmsnap.service.reaper import held
from dmsnap.service.schedules.hooks import NO_HOOKS, Hooks, hooks_of
from dmsnap.service.session import Session
from dmsnap.service.volumes import membership

log = logging.getLogger(__name__)

PLACES = {Side.PRIMARY: "on the primary", Side.HISTORY: "in the history"}


@dataclass(frozen=True, slots=True)
class PruneResult:
    """What became of one volume's points, or would; ``error``: not all was done, and why.

    ``policies`` are the names of those that decide, by side.
    """

    volume: str
    policies: Mapping[str, str] = field(default_factory=dict)
    points: tuple[JudgedPoint, ...] = ()
    notes: tuple[str, ...] = ()
    error: str | None = None
    exit_code: ExitCode = ExitCode.OK


def prune(
    session: Session,
    names: Sequence[str] = (),
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
    sides: Collection[Side] = tuple(Side),
) -> list[PruneResult]:
    """Prune the volumes named, or all. One that fails keeps no other from it. Needs root.

    Where only the primary is among the ``sides``, no data are moved.
    ``ConfigurationError`` when the configuration has any mistake: nothing goes by half a policy.
    """
    declared = membership.declared_now(session)
    volumes = [session.catalogue.volume(name) for name in dict.fromkeys(names)]
    volumes = volumes or session.catalogue.volumes()
    directory = session.configuration.state_directory
    clock = Clock(clock_record.trusted_now(directory, recording=not dry_run), local_time.zone())
    return [
        Pruning(session, volume.name, declared, clock, progress, sides).run(dry_run=dry_run)
        for volume in volumes
    ]


class Pruning:
    """The pruning of one volume."""

    def __init__(
        self,
        session: Session,
        name: str,
        declared: Declarations,
        clock: Clock,
        progress: Progress | None = None,
        sides: Collection[Side] = tuple(Side),
    ) -> None:
        self.session = session
        self.name = name
        self.sides = sides
        self.declared = declared
        self.clock = clock
        self.progress = progress
        self.policies = coherence.policies_of(declared, name)
        self.points: list[JudgedPoint] = []
        self.removed: set[UUID] = set()
        self.notes: list[str] = []
        # Why nobody can say what of the history would go.
        self.unjudged: DmsnapError | None = None

    def run(self, *, dry_run: bool) -> PruneResult:
        if not self.policies:
            self.notes.append(f"{self.name} is under no policy: it is left alone")
            return self._result()
        try:
            with held(self.session, self.name, self._wanted()) as volume:
                self._judge(volume)
                if not dry_run:
                    self._carry_out(volume)
        except DmsnapError as error:
            return self._failed(error)
        result, left = self._result(), self.unjudged
        return replace(result, error=str(left), exit_code=left.exit_code) if left else result

    def _wanted(self) -> Wanted:
        """Live points go whether the recovery volume is there or not, and what the history has goes
        whether the primary is; of both, what can be had.
        """
        near = Side.PRIMARY in self.sides and Side.PRIMARY in self.policies
        return Wanted.THERE if near else Wanted.REPLICA

    def _result(self) -> PruneResult:
        return PruneResult(self.name, self.policies, tuple(self.points), tuple(self.notes))

    def _failed(self, error: DmsnapError) -> PruneResult:
        """With the points that are there still, whatever was to become of them."""
        sentence = str(error)
        self.points = [
            point
            if point.stays or point.point in self.removed
            else replace(point, action=Action.STAY, reason=f"it could not go: {sentence}")
            for point in self.points
        ]
        return replace(self._result(), error=sentence, exit_code=error.exit_code)

    # what would go

    def _judge(self, volume: Volume) -> None:
        if volume.state not in SETTLED:
            self.notes.append(
                f"{self.name} is in state {volume.state}: nothing of it goes until that is over"
            )
            return
        used = pruning.points_in_use(self.session, volume)
        for side, retention in self._retentions():
            if side is Side.PRIMARY:
                self.points += self._judge_primary(volume, used, retention)
                continue
            try:
                self.points += self._judge_history(volume, used, retention)
            except DmsnapError as error:
                self.unjudged = error
        if any(Rule.CLOCK in point.rules for point in self.points):
            self.notes.append(f"nothing of {self.name} goes by its age: {SENTENCES[Rule.CLOCK]}")

    def _retentions(self) -> Iterator[tuple[Side, Retention]]:
        """Each side of which a policy says how long points stay there."""
        for side in self.sides:
            name = self.policies.get(side)
            if name is None:
                continue
            policy = self.declared.policy[name]
            table = policy.primary if side is Side.PRIMARY else policy.history
            if table is None:
                self.notes.append(
                    f"the policy {name} does not say how long points stay {PLACES[side]}: of "
                    f"{self.name} all stay there"
                )
            else:
                yield side, table.retention

    def _judge_primary(
        self, volume: Volume, used: Collection[UUID], retention: Retention
    ) -> list[JudgedPoint]:
        areas = self.session.catalogue.areas(volume.id)
        generations = {area.id: area.generation for area in areas}
        points = pruning.in_order(pruning.live_points(self.session, volume), generations)
        judged = pruning.of_primary(points, used, retention, self.clock)
        return pruning.with_waiting(judged, self._still_to_copy(volume))

    def _still_to_copy(self, volume: Volume) -> frozenset[UUID]:
        """Live points that the same policy copies later."""
        policy = self.declared.policy[self.policies[Side.PRIMARY]]
        is_synced = volume.state is VolumeState.PROTECTED and volume.recovery is not None
        if policy.make is not Make.BOTH or not is_synced or self.clock.now_ns is None:
            return frozenset()
        copying, now_ns = (policy.copy or CopyTable()).copying, self.clock.now_ns
        try:
            answering.require(volume)
            found = [waiting.waiting_points(self.session, volume)]
        except DmsnapError:  # said of the history
            found = waiting.possible(self.session, volume)
        return frozenset().union(*(still_to_copy(each, copying, now_ns) for each in found))

    def _judge_history(
        self, volume: Volume, used: Collection[UUID], retention: Retention
    ) -> list[JudgedPoint]:
        if volume.recovery is None or volume.state is VolumeState.PROMOTED:
            self.notes.append(f"{self.name} has no recovery volume now, and so no history")
            return []
        answering.require(volume)
        label = replica.label_of(volume)
        if label.state is not LabelState.CONSISTENT:
            self.notes.append(
                f"the recovery volume {volume.recovery} is {label.state.name.lower()}: nothing "
                f"goes from its history, and dmsnap sync {self.name} repairs it"
            )
            return []
        records = {point.id: point for point in self.session.catalogue.marked_points(volume.id)}
        return pruning.of_history(label, records, used, retention, self.clock)

    # having it go

    def _carry_out(self, volume: Volume) -> None:
        """The oldest first: that makes room for the merges, each of which is a job of its own.

        A live point that cannot go, and a merge that has no room, leave the others to be tried; the
        first failure is the volume's.
        """
        hooks = hooks_of(self.session, [self.name])
        failure = self._drop(volume, hooks)
        merging = self._going(Side.HISTORY, Action.MERGE)
        for passed in self._runs(volume, merging):
            try:
                self._merge(volume, passed, hooks)
            except DmsnapError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def _drop(self, volume: Volume, hooks: Hooks) -> DmsnapError | None:
        """Have go what is merged into nothing; what kept a live point from going is nothing to the
        history, nor the other way round.
        """
        live = self._going(Side.PRIMARY, Action.DROP)
        dropped = self._going(Side.HISTORY, Action.DROP)
        if not live and not dropped:
            return None
        try:
            self._remove(volume, live, dropped, hooks)
        except DmsnapError as error:
            stuck = self._stuck(volume, live)
            if not stuck:
                raise
            if dropped:
                try:
                    self._remove(volume, (), dropped, hooks)
                except DmsnapError:
                    if stuck == live:
                        self._remove_live(volume, live, hooks)
                    raise
            return error
        return None

    def _remove_live(self, volume: Volume, live: Collection[UUID], hooks: Hooks) -> None:
        """Where the history cannot be changed: that was asked before any live point was to go."""
        try:
            self._remove(volume, live, (), hooks)
        except DmsnapError as error:
            log.warning("not all live points of %s went: %s", volume.name, error)
            self._stuck(volume, live)

    def _stuck(self, volume: Volume, live: Collection[UUID]) -> set[UUID]:
        """Of live points that were to go those that are there still; the others count as gone."""
        there = {point.id for point in pruning.live_points(self.session, volume)}
        self.removed.update(set(live) - there)
        return there.intersection(live)

    def _going(self, side: Side, action: Action) -> set[UUID]:
        return {each.point for each in self.points if (each.side, each.action) == (side, action)}

    @staticmethod
    def _runs(volume: Volume, merging: Collection[UUID]) -> list[list[UUID]]:
        """Points that follow each other, newest first, so that their stores are merged at once."""
        if not merging:
            return []
        found = removal.groups(replica.label_of(volume).history, merging)
        return [[entry.point_uuid for entry in group[:-1]] for group in found if len(group) > 1]

    def _merge(self, volume: Volume, run: Sequence[UUID], hooks: Hooks) -> None:
        """All of a run at once; where that has no room, one after the other, the oldest first.

        Each makes room for what had none before.
        """
        left: list[Sequence[UUID]] = [run]
        while left:
            refused, failure = self._merge_each(volume, left, hooks)
            if failure is not None and refused == left:
                if len(refused[0]) == 1:
                    raise failure
                refused = [[point] for point in reversed(run)]
            left = refused

    def _merge_each(
        self, volume: Volume, parts: Sequence[Sequence[UUID]], hooks: Hooks
    ) -> tuple[list[Sequence[UUID]], NoSpaceError | None]:
        """What of the parts had no room."""
        refused: list[Sequence[UUID]] = []
        failure: NoSpaceError | None = None
        for part in parts:
            try:
                self._remove(volume, (), part, hooks)
            except NoSpaceError as error:
                refused.append(part)
                failure = error
        return refused, failure

    def _remove(
        self, volume: Volume, live: Collection[UUID], earlier: Collection[UUID], hooks: Hooks
    ) -> None:
        plan = removal_plan(self.session, volume, live, earlier, hooks, self.progress)
        journal.run(self.session.catalogue, plan)
        self.removed |= {*live, *earlier}


def removal_plan(
    session: Session,
    volume: Volume,
    live: Collection[UUID],
    earlier: Collection[UUID],
    hooks: Hooks = NO_HOOKS,
    progress: Progress | None = None,
) -> Plan:
    """The plan that takes points from the primary and from the history; what is left nowhere then
    is forgotten.
    """
    records = pruning.live_points(session, volume)
    label = label_of(volume)
    staying = {point.id for point in records if point.id not in live}
    if label is not None:
        staying |= points_of(label) - set(earlier)
    elif volume.recovery is not None:
        staying |= recorded_on_recovery(session, volume)
    deletion = Deletion(
        session,
        volume,
        live=[point for point in records if point.id in live],
        earlier=points_of(label) & set(earlier),
        gone=sorted({*live, *earlier} - staying),
        reason="prune",
        hooks=hooks,
        progress=progress,
    )
    arguments = {
        "name": volume.name,
        "live": sorted(map(str, live)),
        "earlier": sorted(map(str, earlier)),
    }
    return Plan("prune", (volume.id,), deletion.steps(), arguments)


def points_of(label: Label | None) -> set[UUID]:
    """The points that a label names."""
    if label is None:
        return set()
    replicas = {label.point_uuid} if label.point_uuid else set()
    return replicas | {entry.point_uuid for entry in label.history}


def finish(session: Session, volume: Volume, job: Job) -> bool:
    """Have the rest go, too. While stores were being merged nothing was given up yet.

    That may be long after it was begun: what was marked or given a time since, or is in use, stays.
    """
    if job.last_begun == MERGE:
        return False
    live, earlier = ({UUID(text) for text in _texts(job, key)} for key in ("live", "earlier"))
    staying = pruning.spared(session, volume)
    if earlier & pruning.points_in_use(session, volume):
        earlier = set()
    elif earlier:
        # It is raised here that it cannot be read: else they would count as gone.
        label = replica.label_of(volume)
        staying |= {each for each in earlier if is_marked(label, each)}
    live, earlier = live - staying, earlier - staying
    if live or earlier:
        journal.run(session.catalogue, removal_plan(session, volume, live, earlier))
    return True


def _texts(job: Job, key: str) -> list[str]:
    found = job.arguments.get(key)
    return [str(text) for text in found] if isinstance(found, list) else []


def again(session: Session, *, name: str, dry_run: bool, **_asked: object) -> object:
    """Prune the volume of a job that was cut off, by what the policies say now."""
    return prune(session, [name], dry_run=dry_run)
