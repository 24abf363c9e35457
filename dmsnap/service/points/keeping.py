"""Marking points that are to be kept, and taking the mark away."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from uuid import UUID

from dmsnap._native.label import HistoryFlag, Label
from dmsnap.catalogue.model import Job, Volume
from dmsnap.recovery import history, replica
from dmsnap.service import journal
from dmsnap.service.journal import Plan, Step
from dmsnap.service.points.point import PointView, find, label_of
from dmsnap.service.reaper import held
from dmsnap.service.session import Session


def keep(session: Session, text: str, *, keep: bool, dry_run: bool = False) -> PointView | Plan:
    """Mark a point, or take the mark away; returns the point as it is then. Needs root.

    May be done while the point, or any other, is in use.
    """
    wanted = find(session, text)
    with held(session, wanted.volume) as volume:
        label = label_of(volume)
        if label is not None:
            replica.require_settled(volume, label, wanted.id)
        found = find(session, text)
        plan = Plan(
            "point keep",
            (volume.id,),
            steps(session, volume, label, found, keep=keep),
            {"text": str(found.id), "keep": keep},
        )
        if dry_run:
            return plan
        journal.run(session.catalogue, plan)
        return find(session, str(found.id))


def steps(
    session: Session, volume: Volume, label: Label | None, found: PointView, *, keep: bool
) -> list[Step]:
    """The label first: a sync that needs room goes by it."""
    what = "to be kept" if keep else "not to be kept"
    planned = []
    if label is not None and replica.holds(label, found.id):
        mark = partial(mark_on_label, volume, found.id)
        planned.append(
            _step(
                "mark", f"mark point {found.id} on {volume.recovery} as {what}", mark, found, keep
            )
        )
    note = partial(record, session, found.id)
    planned.append(_step("record", f"record point {found.id} as {what}", note, found, keep))
    return planned


def _step(
    name: str, description: str, marking: Callable[[bool], None], found: PointView, keep: bool
) -> Step:
    return Step(name, description, partial(marking, keep), partial(marking, found.keep))


def mark_on_label(volume: Volume, point_id: UUID, keep: bool) -> None:
    """Set or clear the mark of a point on the recovery volume; nothing where it is none."""
    with replica.opened_for_label(volume) as current:
        marked = with_mark(current.label, point_id, keep=keep)
        if marked != current.label:
            current.write_label(marked)


def with_mark(label: Label, point_id: UUID, *, keep: bool) -> Label:
    """The label with a point's mark set or cleared."""
    position = history.position_of(label, point_id)
    if position is None:
        return label
    if position == 0:
        return replace(label, flags=_flags(label.flags, keep=keep))
    entries = list(label.history)
    entry = entries[position - 1]
    entries[position - 1] = replace(entry, flags=_flags(entry.flags, keep=keep))
    return replace(label, history=tuple(entries))


def is_marked(label: Label, point_id: UUID) -> bool:
    """Whether a point of the label is marked to be kept."""
    position = history.position_of(label, point_id)
    if position is None:
        return False
    flags = label.flags if position == 0 else label.history[position - 1].flags
    return bool(flags & HistoryFlag.KEEP)


def _flags(flags: HistoryFlag, *, keep: bool) -> HistoryFlag:
    return flags | HistoryFlag.KEEP if keep else flags & ~HistoryFlag.KEEP


def record(session: Session, point_id: UUID, keep: bool) -> None:
    """In the catalogue; a point that only a label knows is in none."""
    known = session.catalogue.find_point(point_id)
    if known is not None:
        session.catalogue.update_point(replace(known, keep=keep))


def finish(session: Session, volume: Volume, job: Job) -> bool:
    """Mark it everywhere: each mark is as good a second time."""
    point_id, wanted = UUID(str(job.arguments["text"])), bool(job.arguments["keep"])
    label = label_of(volume)
    if label is not None and replica.holds(label, point_id):
        mark_on_label(volume, point_id, wanted)
    record(session, point_id, wanted)
    return True
