"""The report: looks at every volume, and writes what there is to say of it as a page."""

from collections import defaultdict
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
from dmsnap.service.health.status import VolumeStatus
from dmsnap.service.points import point
from dmsnap.service.points.point import PointView
from dmsnap.service.schedules import lateness
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
    replacement.replace_name(path, text, MODE, keeping=True)
    return ReportResult(path, len(content.volumes), len(text))


def require_writable(path: Path) -> None:
    """Raise for what a page must not replace: links, devices, directories."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise WrongWordError(f"{path} is there, and is no regular file")
    if not path.parent.is_dir():
        raise NotFoundError(f"there is no directory {path.parent}")


def gathered(session: Session) -> Content:
    """What there is to say of all volumes."""
    recent = jobs.recent(session.catalogue, JOBS)
    volumes = session.catalogue.volumes()
    found = status.statuses(session, volumes, lateness.promises(session))
    listed: dict[str, list[PointView]] = defaultdict(list)
    for each in point.list_points(session):
        listed[each.volume].append(each)
    contents = [
        _volume(session, volume, seen, listed[volume.name], failed(recent, volume.id))
        for volume, (seen, _) in zip(volumes, found, strict=True)
    ]
    return Content(kernel.host_name(), now_ns(), contents)


def _volume(
    session: Session,
    volume: Volume,
    found: VolumeStatus,
    present: Sequence[PointView],
    failures: Sequence[FailedJob],
) -> VolumeContent:
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
            present,
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
        str(view.id),
        view.created_ns,
        lanes or (Lane.NOWHERE,),
        view.keep,
        view.invalid_reason,
        expires_ns=view.expires_ns,
        comment=view.comment,
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
        gone.point.expires_ns,
        gone.point.comment,
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
