"""The report: looks at every volume, and writes what there is to say of it as a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from dmsnap._native.label import Label, LabelState
from dmsnap.catalogue import jobs, past
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import Job, JobState, PastPoint, Volume
from dmsnap.errors import NotFoundError, WrongWordError
from dmsnap.host import kernel, replacement
from dmsnap.policy.chronology import NANOSECONDS
from dmsnap.report.content import Content, FailedJob, Lane, Overwritten, PlottedPoint, VolumeContent
from dmsnap.report.page import page
from dmsnap.service.health import status
from dmsnap.service.points import point
from dmsnap.service.points.point import PointView
from dmsnap.service.schedules import lateness
from dmsnap.service.schedules.promises import Promises
from dmsnap.service.session import Session

# It says which volumes there are, where they are mounted and what failed.
MODE = 0o600
# Deleted points of so long ago, and so many of a volume, are shown.
DELETED_NS = 90 * 86400 * NANOSECONDS
DELETED = 5000
# Failed jobs of a volume, among the last jobs of the host.
FAILED, JOBS = 10, 200


@dataclass(frozen=True, slots=True)
class ReportResult:
    """What was written."""

    file: Path
    volumes: int
    size_bytes: int


def write(session: Session, path: Path) -> ReportResult:
    """Look at every volume, and put the page in the place of a file. Needs root."""
    require_writable(path)
    content = gathered(session)
    text = page(content)
    replacement.replace_file(path, text, MODE)
    return ReportResult(path, len(content.volumes), len(text))


def require_writable(path: Path) -> None:
    """Raise for what a page must not replace: links, devices, directories."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise WrongWordError(f"{path} is there, and is no regular file")
    if not path.parent.is_dir():
        raise NotFoundError(f"there is no directory {path.parent}")


def gathered(session: Session) -> Content:
    """What there is to say of all volumes."""
    promises = lateness.promises(session)
    recent = jobs.recent(session.catalogue, JOBS)
    volumes = [
        _volume(session, each, promises, failed(recent, each.id))
        for each in session.catalogue.volumes()
    ]
    return Content(kernel.host_name(), now_ns(), volumes)


def _volume(
    session: Session, volume: Volume, promises: Promises | None, failures: Sequence[FailedJob]
) -> VolumeContent:
    found = status.volume_status(session, volume, promises)
    newest_ns = found.newest.created_ns if found.newest else None
    return VolumeContent(
        name=volume.name,
        state=str(volume.state),
        device=volume.backing,
        recovery=volume.recovery,
        size_bytes=volume.size_bytes,
        newest_ns=newest_ns,
        recovery_seconds=found.recovery_seconds,
        punctuality=found.punctuality,
        points=points(
            point.list_points(session, [volume.name]),
            past.deleted_since(session.catalogue, volume.id, now_ns() - DELETED_NS, DELETED),
        ),
        overwritten=overwritten(point.label_of(volume)),
        problems=found.problems,
        failed=failures,
    )


def points(present: Sequence[PointView], deleted: Sequence[PastPoint]) -> list[PlottedPoint]:
    """All of them by time. One that a label has still is there, whatever was recorded of it."""
    known = {each.id for each in present}
    found = [_present(each) for each in present]
    found += [_deleted(each) for each in deleted if each.point.id not in known]
    return sorted(found, key=lambda each: each.created_ns)


def _present(view: PointView) -> PlottedPoint:
    lanes = tuple(Lane(place.kind) for place in view.places)
    return PlottedPoint(
        str(view.id), view.created_ns, lanes or (Lane.NOWHERE,), view.keep, view.invalid_reason
    )


def _deleted(gone: PastPoint) -> PlottedPoint:
    """In the lane in which it was last."""
    lane = Lane(gone.places[-1].kind) if gone.places else Lane.NOWHERE
    deletion = gone.deletion
    return PlottedPoint(
        str(gone.point.id),
        gone.point.created_ns,
        (lane,),
        gone.point.keep,
        gone.point.invalid_reason,
        deletion.deleted_ns if deletion else None,
        deletion.deleted_reason if deletion else None,
    )


def overwritten(label: Label | None) -> list[Overwritten]:
    """Of each undo store: its size, and the point whose sync wrote it, the oldest first."""
    if label is None or label.state is not LabelState.CONSISTENT:
        return []
    newer_ns = [label.point_time_ns, *(entry.point_time_ns for entry in label.history)]
    found = [
        Overwritten(point_ns, entry.store_length_bytes)
        for point_ns, entry in zip(newer_ns, label.history, strict=False)
    ]
    return found[::-1]


def failed(recent: Sequence[Job], volume_id: UUID) -> list[FailedJob]:
    """The last jobs of a volume that did not end well, the newest first."""
    found = [
        FailedJob(job.operation, job.finished_ns, str(job.state), job.outcome or "")
        for job in recent
        if job.state in (JobState.FAILED, JobState.UNDONE)
        and volume_id in job.volume_ids
        and job.finished_ns is not None
    ]
    return found[:FAILED]
