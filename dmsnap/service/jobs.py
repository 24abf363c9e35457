"""Jobs as people see them: listed, and, when they were cut off, begun anew or taken back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from uuid import UUID

from dmsnap.catalogue import hook_runs, jobs
from dmsnap.catalogue.hook_runs import HookRecord
from dmsnap.catalogue.model import Job, JobState, JobStep
from dmsnap.errors import DmsnapError, ExitCode, WrongStateError
from dmsnap.host import ending
from dmsnap.host.children import in_children
from dmsnap.service import named_devices, operations
from dmsnap.service.luns.luns import Wanted
from dmsnap.service.reaper import reap, seen_to
from dmsnap.service.records import catalogue_backup
from dmsnap.service.session import Session

# What a process that was asked to end may take to undo what it began.
UNDO_SECONDS = 600.0

CUT_OFF = "cut off"

Names = Mapping[UUID, str]


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as people see it. It is in state ``cut off`` when its process ended before it did.

    ``hooks`` are what they did and wrote; None where that was not asked for, as in lists.
    """

    id: int
    operation: str
    arguments: Mapping[str, object]
    volumes: tuple[str, ...]
    pid: int
    started_ns: int
    finished_ns: int | None
    state: str
    outcome: str | None
    at: str | None
    steps: tuple[JobStep, ...]
    hooks: tuple[HookRecord, ...] | None = None


@dataclass(frozen=True, slots=True)
class Resumed:
    """What became of a job that was cut off. ``result`` is there when it was begun anew.

    ``error``: why it could not be brought to its end yet.
    """

    job: JobView
    result: object | None = None
    error: str | None = None
    exit_code: ExitCode = ExitCode.OK


def list_jobs(session: Session, count: int) -> list[JobView]:
    """The last jobs and all that are under way or cut off, the newest first."""
    known = names_of_volumes(session)
    return [view(session, job, known) for job in jobs.recent(session.catalogue, count)]


def show(session: Session, job_id: int) -> JobView:
    """One job, with its steps and what its hooks wrote."""
    found = viewed(session, jobs.job(session.catalogue, job_id))
    return replace(found, hooks=hook_runs.of_job(session.catalogue, job_id))


def names_of_volumes(session: Session) -> Names:
    """What the volumes that are protected are called."""
    return {volume.id: volume.name for volume in session.catalogue.volumes()}


def viewed(session: Session, job: Job) -> JobView:
    """One job as people see it."""
    return view(session, job, names_of_volumes(session))


def view(session: Session, job: Job, known: Names) -> JobView:
    """A job, with the names of its volumes."""
    is_cut_off = job.state is JobState.RUNNING and not runs(session, job, known)
    return JobView(
        id=job.id,
        operation=job.operation,
        arguments=named_devices.asked(job.arguments),
        volumes=names_in(job, known),
        pid=job.pid,
        started_ns=job.started_ns,
        finished_ns=job.finished_ns,
        state=CUT_OFF if is_cut_off else str(job.state),
        outcome=job.outcome,
        at=job.last_begun,
        steps=job.steps,
    )


def names_in(job: Job, known: Names) -> tuple[str, ...]:
    """The volumes of a job that are protected still."""
    return tuple(known[each] for each in job.volume_ids if each in known)


def runs(session: Session, job: Job, known: Names) -> bool:
    """Whether the process that began a job lives and works on it: it holds the volume's lock."""
    names = names_in(job, known)
    if not names and isinstance(job.arguments.get("name"), str):
        names = (str(job.arguments["name"]),)  # a protect that has not recorded its volume yet
    return any(session.is_held_by(name, job.pid) for name in names)


def resume(session: Session, job_id: int) -> Resumed:
    """Bring a job to its end: finish it, or take back what is left of it and begin it anew.

    A job that was undone, or that failed, is begun anew with what it was asked for. What is in the
    way of one that is neither yet is told by whoever tried.
    """
    job = conclude(session, job_id)
    if job.state is JobState.RUNNING:
        raise WrongStateError(f"job {job_id} could not be brought to its end yet", job=job_id)
    if job.state is JobState.DONE:
        return Resumed(viewed(session, job))
    require_known(job)
    named_devices.require_same(job.arguments)
    asked = named_devices.asked(job.arguments)
    begun = operations.again(job.operation)(session, **asked, dry_run=False)
    return Resumed(viewed(session, job), begun)


def require_known(job: Job) -> None:
    """Raise :class:`WrongStateError` unless it is known how to begin a job anew."""
    if job.operation not in operations.OPERATIONS:
        raise WrongStateError(f"{job.operation} cannot be begun anew", job=job.id)


def cut_off(session: Session) -> list[JobView]:
    """What is not at its end and has no process any more, the oldest first."""
    known = names_of_volumes(session)
    views = [view(session, job, known) for job in reversed(jobs.running(session.catalogue))]
    return [each for each in views if each.state == CUT_OFF]


def resume_all(session: Session) -> list[Resumed]:
    """Finish or take back whatever was cut off on any volume; nothing is begun anew.

    One that cannot be, as its volume is locked or a device is missing, keeps no other from it; nor
    does one that hangs with its disk: what has no volume in common is done beside each other.
    Backups that the boot put off are made then.
    """
    found = _resume_all(session)
    catalogue_backup.catch_up(session)
    return found


def resume_volume(session: Session, name: str) -> list[Resumed]:
    """Hold a volume once, as the next command on it does: finish or take back what was cut off, and
    have go on what was left suspended; nothing is begun anew. Other volumes are not waited for.
    """
    session.catalogue.volume(name)
    found = [view for view in cut_off(session) if name in view.volumes]
    obstacles = _hold_once(session, name)
    ended = [settled(session, jobs.job(session.catalogue, view.id)) for view in found]
    return [_resumed(session, job, obstacles.get(job.id)) for job in ended]


def _resumed(session: Session, job: Job, obstacle: DmsnapError | None) -> Resumed:
    if obstacle is None:
        return Resumed(viewed(session, job))
    return Resumed(viewed(session, job), error=str(obstacle), exit_code=obstacle.exit_code)


def _resume_all(session: Session) -> list[Resumed]:
    groups = _apart(cut_off(session))
    if len(groups) < 2:
        return [_concluded(session, job.id) for group in groups for job in group]
    session.catalogue.close()
    given = in_children([partial(_concluded_all, session, group) for group in groups])
    found = [
        each
        for group, done in zip(groups, given, strict=True)
        for each in done or [_left(session, job.id) for job in group]
    ]
    return sorted(found, key=lambda each: each.job.id)


def _apart(cut: Sequence[JobView]) -> list[list[JobView]]:
    """Jobs with the volumes of one group are in no other; those of none are one, too."""
    groups: list[tuple[set[str], list[JobView]]] = []
    for job in cut:
        names = set(job.volumes) or {""}
        same = [group for group in groups if group[0] & names]
        groups = [group for group in groups if group not in same]
        names = names.union(*(group[0] for group in same))
        groups.append((names, [*(each for group in same for each in group[1]), job]))
    return [sorted(group, key=lambda job: job.id) for _, group in groups]


def _concluded_all(session: Session, group: Sequence[JobView]) -> list[Resumed]:
    """In a process of its own: connections are made anew there, and closed."""
    try:
        return [_concluded(session, job.id) for job in group]
    finally:
        session.catalogue.close()


def _left(session: Session, job_id: int) -> Resumed:
    sentence = "the process that was to conclude it died"
    view = viewed(session, jobs.job(session.catalogue, job_id))
    return Resumed(view, error=sentence, exit_code=ExitCode.FAILURE)


def _concluded(session: Session, job_id: int) -> Resumed:
    try:
        return Resumed(viewed(session, conclude(session, job_id)))
    except DmsnapError as error:
        return _resumed(session, jobs.job(session.catalogue, job_id), error)


class NotConcludedError(DmsnapError):
    """Of a job of several volumes: what is in the way, of each in whose way something is."""

    def __init__(self, obstacles: Mapping[str, DmsnapError]) -> None:
        super().__init__("; ".join(f"{name}: {error}" for name, error in obstacles.items()))
        self.exit_code = next(error.exit_code for error in obstacles.values())


def conclude(session: Session, job_id: int) -> Job:
    """Hold the volumes of a job once: that finishes what was cut off, or takes it back.

    One on which that cannot be done keeps none of the others from it. What was in the way is raised
    when all were tried.
    """
    job = jobs.job(session.catalogue, job_id)
    if job.state is not JobState.RUNNING:
        return job
    names = sorted(names_in(job, require_cut_off(session, job)))
    obstacles: dict[str, DmsnapError] = {}
    for name in names:
        try:
            left = _hold_once(session, name).get(job.id)
        except DmsnapError as error:
            left = error
        if left is not None:
            obstacles[name] = left
    ended = settled(session, job)
    if obstacles:
        raise NotConcludedError(obstacles) if len(names) > 1 else obstacles[names[0]]
    return ended


def _hold_once(session: Session, name: str) -> Mapping[int, DmsnapError]:
    """Conclude what was cut off on a volume, and do what is left of those operations; why each of
    the jobs that are left could not be concluded.

    Of all: concluding the first one concludes the others, for which nobody comes here again. Its
    LUNs need not be there: what was left suspended goes on, and what can be concluded is.
    """
    obstacles: dict[int, DmsnapError] = {}
    with session.locked([name]):
        recorded = session.catalogue.find_volume(name)
        if recorded is None:
            return obstacles
        cut_off = [job.operation for job in jobs.unfinished(session.catalogue, recorded.id)]
        reaped = reap(session, recorded, Wanted.THERE, obstacles=obstacles)
        # Where that cannot be done the job has come to its end, and its caller is told why.
        with seen_to(session, recorded, reaped):
            for mend in filter(None, map(operations.mend, dict.fromkeys(cut_off))):
                mend(session.catalogue.volume_by_id(recorded.id))
    return obstacles


def require_cut_off(session: Session, job: Job) -> Names:
    """Raise :class:`WrongStateError` while the process of a job works on it; gives the volumes."""
    known = names_of_volumes(session)
    if runs(session, job, known):
        raise WrongStateError(
            f"job {job.id} is under way, in process {job.pid}",
            hint=f"dmsnap job abort {job.id} has it undone",
        )
    return known


def settled(session: Session, job: Job) -> Job:
    """The job as it is by now; one whose volumes are all gone is over, too."""
    left = names_in(job, names_of_volumes(session))
    now = jobs.job(session.catalogue, job.id)
    settle = operations.settle(now.operation)
    if now.state is JobState.RUNNING and not now.volume_ids and settle is not None:
        state = JobState.DONE if settle(session, now) else JobState.UNDONE
        jobs.end(session.catalogue, job.id, state, f"cut off at {now.last_begun}")
        return jobs.job(session.catalogue, job.id)
    if now.state is JobState.RUNNING and not left:
        jobs.end(session.catalogue, job.id, JobState.ABANDONED, "its volume is not protected now")
        return jobs.job(session.catalogue, job.id)
    return now


def abort(session: Session, job_id: int) -> JobView:
    """Have a job undone: one under way is asked to end, one that was cut off is taken back.

    What goes only forward is finished instead, and the error says so.
    """
    job = jobs.job(session.catalogue, job_id)
    require_abortable(job)
    known = names_of_volumes(session)
    if runs(session, job, known):
        ending.terminate(job.pid, lambda: runs(session, job, known), UNDO_SECONDS)
    job = conclude(session, job_id)
    if job.state is JobState.RUNNING:
        raise WrongStateError(f"job {job_id} could not be taken back yet", job=job_id)
    if job.state is JobState.DONE:
        raise WrongStateError(f"job {job_id} was past its way back: it is done", job=job_id)
    return viewed(session, job)


def require_abortable(job: Job) -> None:
    """Raise :class:`WrongStateError` when a job is at its end."""
    if job.state is not JobState.RUNNING:
        raise WrongStateError(f"job {job.id} is {job.state}: there is nothing to abort")
