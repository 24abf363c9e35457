"""Taking, listing and showing points."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from string import hexdigits
from uuid import UUID, uuid4

from dmsnap._native.label import HistoryFlag, Label
from dmsnap.catalogue.model import SETTLED, Area, AreaRole, Deletion, Point, Volume
from dmsnap.errors import DmsnapError, NotFoundError, WrongStateError, of_volume
from dmsnap.recovery import answering, history, replica
from dmsnap.service import journal
from dmsnap.service.journal import Plan, Step
from dmsnap.service.luns.luns import Wanted
from dmsnap.service.points.remarks import require_possible
from dmsnap.service.reaper import reap, seen_to
from dmsnap.service.schedules.hooks import NO_HOOKS, Hooks, Phase, hooks_of
from dmsnap.service.session import Session
from dmsnap.snapshot import live, stack, suspension
from dmsnap.snapshot.live import PreparedPoint
from dmsnap.snapshot.window_count import WriteCounts

log = logging.getLogger(__name__)

MIN_PREFIX = 4


class PointSet:
    """The steps that take one point of each of several volumes, at one moment."""

    def __init__(
        self,
        session: Session,
        volumes: Sequence[Volume],
        *,
        keep: bool = False,
        expires_ns: int | None = None,
        comment: str | None = None,
        temporary: bool = False,
        cow_percent: int = 0,
        hooks: Hooks = NO_HOOKS,
    ) -> None:
        self.session = session
        self.volumes = {volume.id: volume for volume in volumes}
        self.keep = keep
        self.expires_ns = expires_ns
        self.comment = comment
        self.temporary = temporary
        self.planned = [self._plan(volume, cow_percent) for volume in volumes]
        self.hooks = hooks.bracket(Phase.PRESNAPSHOT)
        self.points: list[Point] = []
        self.counts: list[WriteCounts | None] = []  # at the moment of each
        self._prepared: list[PreparedPoint] = []

    def _plan(self, volume: Volume, cow_percent: int) -> tuple[UUID, Area]:
        point_id = uuid4()
        return point_id, self.session.plan_cow(volume, AreaRole.COW, cow_percent, point_id)

    def steps(self) -> list[Step]:
        names = ", ".join(volume.name for volume in self.volumes.values())
        return [
            Step("create-cow", f"create COW stores for {names}", self._create, self._release),
            Step("prepare-point", f"load snapshots of {names}", self._prepare, self._remove),
            *self.hooks.opening(),
            Step("window", f"take the point of {names}", self._take, self._forget),
            *self.hooks.closing(),
        ]

    def _create(self) -> None:
        for _, area in self.planned:
            volume = self.volumes[area.volume_id]
            with of_volume(volume.name):
                self.session.create_area(volume, area)

    def _release(self) -> None:
        for _, area in self.planned:
            self.session.release_area(self.volumes[area.volume_id], area)

    def _prepare(self) -> None:
        for point_id, area in self.planned:
            volume = self.volumes[area.volume_id]
            with of_volume(volume.name):
                self._prepared.append(live.prepare(volume, point_id, area))

    def _remove(self) -> None:
        for point_id, area in self.planned:
            live.remove(self.volumes[area.volume_id], point_id)

    def _take(self) -> None:
        deadline_ms = self.session.configuration.window_deadline_ms
        taken = live.take(self._prepared, deadline_ms, keep=self.keep, temporary=self.temporary)
        self.points = [
            replace(each.point, expires_ns=self.expires_ns, comment=self.comment) for each in taken
        ]
        self.counts = [each.counts for each in taken]
        self.session.catalogue.add_points(self.points)
        self._note_clock()

    def _note_clock(self) -> None:
        """By what it says now the ages of the points will be told."""
        # Imported when the window is over: commands that take no point have no use for policies.
        from dmsnap.service.points import clock_record

        clock_record.note(self.session.configuration.state_directory)

    def _forget(self) -> None:
        for point_id, _ in self.planned:
            self.session.catalogue.delete_point(point_id, "taking it was undone")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a point can be recovered from: ``live``, ``replica`` or ``history`` (steps back)."""

    kind: str
    device: str
    steps_back: int = 0


@dataclass(frozen=True, slots=True)
class PointView:
    """A point as people see it: the catalogue's record and the places it lives in now, or did."""

    id: UUID
    volume: str
    created_ns: int
    keep: bool
    window_seconds: float | None
    places: tuple[Place, ...]
    invalid_reason: str | None
    deletion: Deletion | None = None
    expires_ns: int | None = None
    comment: str | None = None


def require_takeable(session: Session, volume: Volume) -> None:
    """Raise unless a point of this volume can be taken now."""
    if volume.state not in SETTLED:
        raise WrongStateError(
            f"{volume.name} is in state {volume.state}: no point can be taken",
            hint="dmsnap swap revert or dmsnap swap commit ends a trial",
        )
    session.require_stack(volume)
    suspension.resumable_era(stack.require(stack.front(volume)))


def create(
    session: Session,
    names: Sequence[str],
    *,
    keep: bool,
    dry_run: bool,
    cow_percent: int = 0,
    expires_ns: int | None = None,
    comment: str | None = None,
) -> list[PointView] | Plan:
    """Take one point of every volume named, all at the same moment. Needs root.

    What can be said of points later can be said of them now: see ``properties``. What fails of one
    volume has its name in the field ``volume``.
    """
    require_possible(expires_ns, comment)
    unique = list(dict.fromkeys(names))
    for name in unique:
        session.catalogue.volume(name)
    with session.locked(unique), ExitStack() as ends:
        for name in unique:
            with of_volume(name):
                volume = session.catalogue.volume(name)
                reaped = reap(session, volume, Wanted.SERVING)
                ends.enter_context(seen_to(session, volume, reaped))
        # As they are by now: what was cut off may have been taken back.
        volumes = [session.catalogue.volume(name) for name in unique]
        for volume in volumes:
            with of_volume(volume.name):
                require_takeable(session, volume)
        taken = PointSet(
            session,
            volumes,
            keep=keep,
            expires_ns=expires_ns,
            comment=comment,
            cow_percent=cow_percent,
            hooks=hooks_of(session, unique),
        )
        arguments = {
            "names": unique,
            "keep": keep,
            "cow_percent": cow_percent,
            "expires_ns": expires_ns,
            "comment": comment,
        }
        plan = Plan("point create", [each.id for each in volumes], taken.steps(), arguments)
        if dry_run:
            return plan
        journal.run(session.catalogue, plan)
        # No label knows of them yet: the recovery volume is not asked, which may hang.
        return [view(taken.volumes[point.volume_id], point, None) for point in taken.points]


def list_points(session: Session, names: Sequence[str] = ()) -> list[PointView]:
    """All points of all volumes, or of those named, oldest first."""
    volumes = [session.catalogue.volume(name) for name in names] or session.catalogue.volumes()
    labels = labels_of(volumes)
    points = session.catalogue.points(volumes[0].id if len(volumes) == 1 else None)
    return _views(volumes, labels, points)


def find(session: Session, text: str, names: Sequence[str] = ()) -> PointView:
    """The point whose id is ``text`` or begins with it, among all or those of some volumes."""
    wanted = text.lower().replace("-", "")
    found = _beginning(session, wanted, names)
    if len(found) == 1 and len(wanted) >= MIN_PREFIX:
        return found[0]
    if found:
        raise NotFoundError(f"{text!r} fits {len(found)} points; give more of the id")
    raise NotFoundError(
        f"there is no point {text!r}", hint="dmsnap point list shows the points", point=text
    )


def _beginning(session: Session, wanted: str, names: Sequence[str]) -> list[PointView]:
    """Points whose ids begin so: only these are looked at, and the labels, which may have more."""
    if len(wanted) < MIN_PREFIX or not set(wanted) <= set(hexdigits):
        return [item for item in list_points(session, names) if item.id.hex.startswith(wanted)]
    volumes = [session.catalogue.volume(name) for name in names] or session.catalogue.volumes()
    labels = labels_of(volumes)
    found = _views(volumes, labels, session.catalogue.points_beginning(wanted))
    return [item for item in found if item.id.hex.startswith(wanted)]


def _views(
    volumes: Sequence[Volume], labels: Sequence[Label | None], points: Sequence[Point]
) -> list[PointView]:
    """Those of ``points`` that are of these volumes, and what only the labels know."""
    recorded: dict[UUID, dict[UUID, Point]] = {volume.id: {} for volume in volumes}
    for point in points:
        if point.volume_id in recorded:
            recorded[point.volume_id][point.id] = point
    views = []
    for volume, label in zip(volumes, labels, strict=True):
        known = recorded[volume.id]
        views += [view(volume, point, label) for point in known.values()]
        views += [unknown for unknown in _only_in_label(volume, label) if unknown.id not in known]
    return sorted(views, key=lambda item: item.created_ns)


def view(volume: Volume, point: Point, label: Label | None) -> PointView:
    """A point and its places. A place that is not good any more is not listed.

    Nothing is recorded: who only looks holds no lock, and would undo what a command records.
    """
    checked = live.with_validity(volume, point)
    places = []
    if checked.area_id is not None and checked.invalid_reason is None:
        places.append(Place("live", f"/dev/mapper/{stack.live_point(volume, point.id).name}"))
    places += _places_in_label(volume, label, point.id)
    return PointView(
        id=point.id,
        volume=volume.name,
        created_ns=point.created_ns,
        keep=point.keep,
        window_seconds=point.window_seconds,
        places=tuple(places),
        invalid_reason=checked.invalid_reason,
        expires_ns=point.expires_ns,
        comment=point.comment,
    )


def label_of(volume: Volume) -> Label | None:
    """The label, or None where there is no recovery volume or it cannot be read."""
    return labels_of([volume])[0]


def labels_of(volumes: Sequence[Volume]) -> list[Label | None]:
    """The same of several; those that do not answer are told of, and not waited for."""
    silent = answering.silent(volumes)
    for volume in volumes:
        if volume.id in silent:
            log.warning("the recovery volume %s does not answer", volume.recovery)
    return [None if volume.id in silent else _label_of(volume) for volume in volumes]


def _label_of(volume: Volume) -> Label | None:
    try:
        return replica.label_of(volume) if volume.recovery else None
    except DmsnapError:
        return None


def _places_in_label(volume: Volume, label: Label | None, point_id: UUID) -> list[Place]:
    if label is None or volume.recovery is None or not replica.holds(label, point_id):
        return []
    position = history.position_of(label, point_id)
    kind = "history" if position else "replica"
    return [Place(kind, volume.recovery, position or 0)]


def _only_in_label(volume: Volume, label: Label | None) -> list[PointView]:
    """Points that the label knows; the catalogue may have been lost."""
    if label is None or label.point_uuid is None:
        return []
    moments = [(label.point_uuid, label.point_time_ns, label.flags)]
    moments += [(each.point_uuid, each.point_time_ns, each.flags) for each in label.history]
    return [
        PointView(
            point_id,
            volume.name,
            time_ns,
            bool(flags & HistoryFlag.KEEP),
            None,
            tuple(_places_in_label(volume, label, point_id)),
            None,
        )
        for point_id, time_ns, flags in moments
    ]
