"""What people say of a point later: whether it is kept, until when it stays, and a comment."""

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Self
from uuid import UUID

from dmsnap._native.label import Label
from dmsnap.catalogue.clock import format_time
from dmsnap.catalogue.model import Job, Point, Volume
from dmsnap.errors import WrongStateError
from dmsnap.recovery import replica
from dmsnap.service import journal
from dmsnap.service.journal import Plan, Step
from dmsnap.service.points import keeping
from dmsnap.service.points.point import PointView, find, label_of
from dmsnap.service.points.remarks import require_possible
from dmsnap.service.reaper import held
from dmsnap.service.session import Session


@dataclass(frozen=True, slots=True)
class Properties:
    """All of them, as they are recorded."""

    keep: bool
    expires_ns: int | None = None
    comment: str | None = None

    @classmethod
    def of(cls, point: Point, label: Label | None) -> Self:
        """Those of a record; a mark counts on the label, too."""
        marked = label is not None and keeping.is_marked(label, point.id)
        return cls(point.keep or marked, point.expires_ns, point.comment)


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be another; None: that stays.

    ``expires_ns`` 0: no time of its own any more, and an empty ``comment``: none.
    """

    keep: bool | None = None
    expires_ns: int | None = None
    comment: str | None = None

    def applied(self, before: Properties) -> Properties:
        return Properties(
            before.keep if self.keep is None else self.keep,
            before.expires_ns if self.expires_ns is None else self.expires_ns or None,
            before.comment if self.comment is None else self.comment or None,
        )


def change(
    session: Session, text: str, wanted: Change, *, dry_run: bool = False
) -> PointView | Plan:
    """Change properties of a point; returns the point as it is then. Needs root.

    May be done while the point, or any other, is in use.
    """
    require_possible(wanted.expires_ns, wanted.comment)
    found = find(session, text)
    with held(session, found.volume) as volume:
        point = _recorded(session, find(session, text), volume)
        label = label_of(volume)
        if label is not None:
            replica.require_settled(volume, label, point.id)
        before = Properties.of(point, label)
        after = wanted.applied(before)
        on_label = label is not None and replica.holds(label, point.id)
        marking = on_label and wanted.keep is not None
        steps = _steps(session, volume, point.id, before, after, marking=marking)
        plan = Plan("point set", (volume.id,), steps, {"text": str(point.id), **asdict(after)})
        if dry_run:
            return plan
        journal.run(session.catalogue, plan)
        return find(session, str(point.id))


def _recorded(session: Session, found: PointView, volume: Volume) -> Point:
    point = session.catalogue.find_point(found.id)
    if point is None:
        raise WrongStateError(
            f"only the label of {volume.recovery} knows point {found.id}: there is no record that "
            f"could say more of it",
            hint="dmsnap point keep marks it on the label",
        )
    return point


def _steps(
    session: Session,
    volume: Volume,
    point_id: UUID,
    before: Properties,
    after: Properties,
    *,
    marking: bool,
) -> list[Step]:
    """The label first, of which a sync that needs room asks for the mark."""
    steps = []
    if marking:
        mark = partial(keeping.mark_on_label, volume, point_id)
        what = "to be kept" if after.keep else "not to be kept"
        steps.append(
            Step(
                "mark",
                f"mark point {point_id} on {volume.recovery} as {what}",
                partial(mark, after.keep),
                partial(mark, before.keep),
            )
        )
    note = partial(record, session, point_id)
    sentence = f"record of point {point_id}: {described(after)}"
    return [*steps, Step("record", sentence, partial(note, after), partial(note, before))]


def described(properties: Properties) -> str:
    """All of them in words."""
    keep = "kept" if properties.keep else "not kept"
    expires = f"until {format_time(properties.expires_ns)}" if properties.expires_ns else "no end"
    comment = f"comment {properties.comment!r}" if properties.comment else "no comment"
    return f"{keep}, {expires}, {comment}"


def record(session: Session, point_id: UUID, properties: Properties) -> None:
    """In the catalogue, where the point is in it still."""
    known = session.catalogue.find_point(point_id)
    if known is not None:
        session.catalogue.update_point(replace(known, **asdict(properties)))


def finish(session: Session, volume: Volume, job: Job) -> bool:
    """Say it everywhere: it is as good a second time."""
    point_id, wanted = UUID(str(job.arguments["text"])), _asked(job)
    label = label_of(volume)
    if label is not None and replica.holds(label, point_id):
        keeping.mark_on_label(volume, point_id, wanted.keep)
    record(session, point_id, wanted)
    return True


def _asked(job: Job) -> Properties:
    expires_ns, comment = job.arguments["expires_ns"], job.arguments["comment"]
    return Properties(
        bool(job.arguments["keep"]),
        expires_ns if isinstance(expires_ns, int) else None,
        str(comment) if comment else None,
    )


def again(
    session: Session,
    *,
    text: str,
    keep: bool,
    expires_ns: int | None,
    comment: str | None,
    dry_run: bool,
) -> object:
    """Change again what a job that was cut off was to change."""
    return change(session, text, Change(keep, expires_ns or 0, comment or ""), dry_run=dry_run)
