"""Deleting points: live snapshots are removed, undo stores dropped, or merged in the middle."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from uuid import UUID

from dmsnap._native.label import HistoryEntry
from dmsnap.catalogue.model import Job, PlaceKind, Point, Volume
from dmsnap.errors import DmsnapError, WrongStateError
from dmsnap.recovery import removal, replica
from dmsnap.service import journal
from dmsnap.service.exports import exported
from dmsnap.service.journal import Plan, Step
from dmsnap.service.luns.luns import Wanted
from dmsnap.service.points import browse, keeping, pruning
from dmsnap.service.points.point import PointView, find, label_of, list_points
from dmsnap.service.progress import Progress, of_total
from dmsnap.service.reaper import held
from dmsnap.service.schedules.hooks import NO_HOOKS, Hooks, Phase, hooks_of
from dmsnap.service.session import Session

MERGE = "merge-history"


class Deletion:
    """The steps that take points of one volume from some of their places.

    ``live`` are given up on the primary, ``earlier`` in the history, and all that are ``gone`` then
    are forgotten, with the ``reason``. Merging comes first, because it can be taken back: what it
    writes lies in free space until the label names it.
    """

    def __init__(
        self,
        session: Session,
        volume: Volume,
        *,
        live: Sequence[Point] = (),
        earlier: Collection[UUID] = (),
        gone: Collection[UUID] = (),
        reason: str,
        hooks: Hooks = NO_HOOKS,
        progress: Progress | None = None,
    ) -> None:
        self.session = session
        self.volume = volume
        self.live = live
        self.earlier = frozenset(earlier)
        self.gone = gone
        self.reason = reason
        self.hooks = hooks
        self.progress = progress
        self.before: Sequence[HistoryEntry] = replica.label_of(volume).history if earlier else ()
        self.after: removal.Entries | None = None

    def steps(self) -> list[Step]:
        steps = []
        if removal.needs_merging(self.before, self.earlier):
            steps.append(
                Step(
                    MERGE,
                    f"merge the undo stores around {self._points(self.earlier)} on "
                    f"{self.volume.recovery}",
                    self._merge,
                    check=self._require_changeable,
                )
            )
        if self.live:
            ids = [point.id for point in self.live]
            steps.append(
                Step(
                    "remove-live",
                    f"remove the live snapshot of {self._points(ids)}",
                    self._remove_live,
                    final=True,
                    report=self.hooks.report,
                )
            )
            steps += self.hooks.step(Phase.UNSNAP)
        if self.earlier:
            steps.append(
                Step(
                    "drop-history",
                    f"drop {self._points(self.earlier)} from the history of {self.volume.recovery}",
                    self._relabel,
                    final=True,
                    check=self._require_changeable,
                )
            )
        if self.gone:
            what = f"mark {self._points(self.gone)} as deleted"
            steps.append(Step("forget", what, self._forget, final=True))
        return steps

    @staticmethod
    def _points(ids: Collection[UUID]) -> str:
        return f"{len(ids)} points" if len(ids) > 1 else f"point {next(iter(ids))}"

    def _require_changeable(self) -> None:
        replica.require_changeable(self.volume)

    def _merge(self) -> None:
        with replica.opened(self.volume) as current:
            self.before = current.label.history
            total_bytes = removal.bytes_to_merge(self.before, self.earlier)
            progress = of_total(self.progress, total_bytes)
            self.after = removal.merged(current, self.earlier, progress)

    def _relabel(self) -> None:
        with replica.opened(self.volume) as current:
            after = self.after
            if after is None:
                after = removal.shortened(self.before, self.earlier)
            removal.relabel(current, self.before, after)
        self.session.note_replica(self.volume)

    def _remove_live(self) -> None:
        """One that cannot go keeps no other; the first failure is raised when the rest is through.

        The steps behind this are not done then, but what they are for is so: who waits for a
        snapshot to go is told, and of a point that is gone the record says so.
        """
        removed: list[Point] = []
        failure: DmsnapError | None = None
        for point in self.live:
            try:
                self.session.remove_live_point(self.volume, point)
            except DmsnapError as error:
                failure = failure or error
            else:
                removed.append(point)
        # Where it is not all done, what the history has of them is there still.
        gone = set(self.gone) - (self.earlier if failure is not None else set())
        for point in removed:
            if point.id not in gone:
                self.session.catalogue.update_point(replace(point, area_id=None))
        if removed:
            self.session.undivide_writes(self.volume, removed)
        if failure is None:
            return
        if removed:
            forgotten = [point.id for point in removed if point.id in gone]
            self.session.catalogue.delete_points(forgotten, self.reason)
            self.hooks.after(Phase.UNSNAP, "done")
        raise failure

    def _forget(self) -> None:
        self.session.catalogue.delete_points(self.gone, self.reason)


def delete(
    session: Session, text: str, *, dry_run: bool, progress: Progress | None = None
) -> Plan | None:
    """Delete a point everywhere it lives; earlier ones stay what they are. Needs root."""
    wanted = find(session, text)
    with held(session, wanted.volume, needed_luns(session, wanted)) as volume:
        # Where it lives is known for certain with the recovery volume attached.
        plan = deletion(
            session, volume, find(session, text), hooks_of(session, [wanted.volume]), progress
        )
        if dry_run:
            return plan
        journal.run(session.catalogue, plan)
    return None


def needed_luns(session: Session, wanted: PointView) -> Wanted:
    """A point that is live and nowhere else goes whether its recovery volume is there or not, one
    that has nothing on the primary whether that is.
    """
    volume = session.catalogue.volume(wanted.volume)
    looked = volume.recovery is None or label_of(volume) is not None
    kinds = {PlaceKind(place.kind) for place in wanted.places}
    if not looked:
        kinds = recorded_kinds(session, volume, wanted.id)
    if kinds == {PlaceKind.LIVE}:
        return Wanted.SERVING
    recorded = session.catalogue.find_point(wanted.id)
    # A snapshot that is lost is no place, and is removed with its point.
    on_primary = recorded is not None and recorded.area_id is not None
    return Wanted.REPLICA if kinds and not on_primary else Wanted.ALL


def recorded_kinds(session: Session, volume: Volume, point_id: UUID) -> set[PlaceKind]:
    """What the catalogue says of a recovery volume that cannot be looked at."""
    # Imported where nothing else says so: it loads all of SQLAlchemy.
    from dmsnap.catalogue.past import of_present

    found = [past for past in of_present(session.catalogue, volume.id)
             if past.point.id == point_id]  # fmt: skip
    return {place.kind for past in found for place in past.places}


def recorded_on_recovery(session: Session, volume: Volume) -> set[UUID]:
    """The points of a recovery volume that cannot be looked at, by what the catalogue says."""
    from dmsnap.catalogue.past import of_present

    return {
        past.point.id
        for past in of_present(session.catalogue, volume.id)
        if any(place.kind is not PlaceKind.LIVE for place in past.places)
    }


def finish_deletion(session: Session, volume: Volume, job: Job) -> bool:
    """Delete the point from where it still is: of what was deleted nothing comes back.

    While stores were being merged nothing was given up yet: then it is as it was before. So it
    stays what is left of it, once somebody has marked it to be kept since, or uses it.
    """
    if job.last_begun == MERGE:
        return False
    point_id = UUID(str(job.arguments["text"]))
    if _is_wanted_since(session, volume, point_id, job):
        return False
    found = [item for item in list_points(session, [volume.name]) if item.id == point_id]
    for item in found:
        journal.run(session.catalogue, deletion(session, volume, item))
    return True


def _is_wanted_since(session: Session, volume: Volume, point_id: UUID, job: Job) -> bool:
    """Whether a point is in use, or was marked after it was to be deleted: that may be long ago."""
    if point_id in pruning.points_in_use(session, volume):
        return True
    label = label_of(volume)
    on_label = label is not None and keeping.is_marked(label, point_id)
    return not job.arguments.get("keep") and (on_label or _is_marked(session, point_id))


def _is_marked(session: Session, point_id: UUID) -> bool:
    recorded = session.catalogue.find_point(point_id)
    return recorded is not None and recorded.keep


def again(session: Session, *, text: str, dry_run: bool, **_asked: object) -> object:
    """Delete the point of a job that was cut off, whether it is marked now or not."""
    return delete(session, text, dry_run=dry_run)


def deletion(
    session: Session,
    volume: Volume,
    wanted: PointView,
    hooks: Hooks = NO_HOOKS,
    progress: Progress | None = None,
) -> Plan:
    """The plan that deletes a point from each of its places."""
    require_deletable(session, volume, wanted)
    recorded = session.catalogue.find_point(wanted.id)
    steps = Deletion(
        session,
        volume,
        live=[recorded] if recorded is not None and recorded.area_id is not None else [],
        earlier=[wanted.id] if any(place.kind == "history" for place in wanted.places) else [],
        gone=[wanted.id],
        reason="point delete",
        hooks=hooks,
        progress=progress,
    ).steps()
    arguments = {"text": str(wanted.id), "keep": wanted.keep}
    return Plan("point delete", (volume.id,), steps, arguments)


def require_deletable(session: Session, volume: Volume, wanted: PointView) -> None:
    """Raise while a point is in use, or is what the recovery volume holds."""
    if volume.trial_point == wanted.id:
        raise WrongStateError(
            f"the front of {volume.name} shows this point: revert or commit first"
        )
    exported.require_point_unexported(session, volume, wanted.id)
    browse.require_point_unmounted(session, volume, wanted.id)
    if any(place.kind == "replica" for place in wanted.places):
        raise WrongStateError(
            f"point {wanted.id} is what the recovery volume of {volume.name} holds now",
            hint="it becomes an earlier point with the next dmsnap sync",
        )
    label = label_of(volume)
    if label is not None:
        replica.require_settled(volume, label, wanted.id)
