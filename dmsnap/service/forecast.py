"""What would become of jobs: told from what is recorded of them. Nothing is held or cleared."""

from collections.abc import Collection
from dataclasses import dataclass

from dmsnap.catalogue import jobs as recorded
from dmsnap.catalogue.model import Job, JobState
from dmsnap.service import jobs, named_devices, operations
from dmsnap.service.jobs import Resumed
from dmsnap.service.session import Session


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a command about jobs would do, in sentences, as a plan has them."""

    operation: str
    steps: tuple[str, ...]

    def descriptions(self) -> list[str]:
        """For ``--dry-run``."""
        return list(self.steps)


def resuming(session: Session, job_id: int) -> Forecast | Resumed:
    """What :func:`jobs.resume` would do. One that is done stays as it is.

    What a job that is begun anew would do only its operation can say, and that holds the volume
    for it, by which whatever was cut off there is concluded.
    """
    job = recorded.job(session.catalogue, job_id)
    if job.state is JobState.DONE:
        return Resumed(jobs.viewed(session, job))
    if job.state is not JobState.RUNNING:
        jobs.require_known(job)
        named_devices.require_same(job.arguments)
        names = (*jobs.names_in(job, jobs.names_of_volumes(session)), job.arguments.get("name"))
        first = [conclusion(session, each) for each in _cut_off_on(session, names)]
        return Forecast("job resume", (*first, f"begin {job.operation} anew"))
    jobs.require_cut_off(session, job)
    steps = [conclusion(session, job)]
    if job.operation in operations.OPERATIONS and not operations.has_taken_effect(job):
        steps.append(f"begin {job.operation} anew, if it was taken back")
    return Forecast("job resume", tuple(steps))


def _cut_off_on(session: Session, names: Collection[object]) -> list[Job]:
    """What was cut off on volumes of those names, the oldest first."""
    found = [view for view in jobs.cut_off(session) if any(name in names for name in view.volumes)]
    return [recorded.job(session.catalogue, view.id) for view in found]


def resuming_all(session: Session) -> Forecast:
    """What :func:`jobs.resume_all` would do, the oldest job first."""
    found = [recorded.job(session.catalogue, view.id) for view in jobs.cut_off(session)]
    return Forecast("job resume", tuple(conclusion(session, job) for job in found))


def resuming_volume(session: Session, name: str) -> Forecast:
    """What :func:`jobs.resume_volume` would do, the oldest job first."""
    session.catalogue.volume(name)
    found = [conclusion(session, job) for job in _cut_off_on(session, (name,))]
    return Forecast("job resume", tuple(found))


def aborting(session: Session, job_id: int) -> Forecast:
    """What :func:`jobs.abort` would do."""
    job = recorded.job(session.catalogue, job_id)
    jobs.require_abortable(job)
    if jobs.runs(session, job, jobs.names_of_volumes(session)):
        step = (
            f"ask process {job.pid} to end, and wait until {_named(session, job)}, is undone; "
            f"past its way back it is finished"
        )
    else:
        step = conclusion(session, job)
    return Forecast("job abort", (step,))


def conclusion(session: Session, job: Job) -> str:
    """What would become of a job that was cut off, as far as what is recorded says it."""
    what = _named(session, job)
    if job.last_begun is None:
        return f"record {what}, as undone: it was cut off at its start"
    cut = f"{what}, which was cut off at {job.last_begun}"
    of_none = not job.volume_ids and operations.settle(job.operation) is not None
    if not of_none and not jobs.names_in(job, jobs.names_of_volumes(session)):
        return f"record {cut}, as abandoned: its volume is not protected"
    if operations.is_finished_by_looking(job.operation):
        return f"finish {cut}, or take it back, as labels and devices have it"
    if operations.has_taken_effect(job):
        return f"clear what is left of {cut}, and record it as done"
    return f"take back {cut}"


def _named(session: Session, job: Job) -> str:
    names = jobs.names_in(job, jobs.names_of_volumes(session))
    return f"job {job.id}, {job.operation}{' of ' * bool(names)}{' '.join(names)}"
