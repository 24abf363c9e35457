"""Jobs."""

from collections.abc import Iterator

from dmsnap.catalogue.clock import format_time
from dmsnap.cli.output import Output, Table, Text
from dmsnap.errors import ExitCode, WrongWordError
from dmsnap.service import forecast, jobs
from dmsnap.service.forecast import Forecast
from dmsnap.service.jobs import JobView, Resumed
from dmsnap.service.session import Session


def list_jobs(output: Output, *, count: int) -> None:
    with Session.open() as session:
        views = jobs.list_jobs(session, count)
    output.show(views, describe_list)


def show(output: Output, *, job: int) -> None:
    with Session.open() as session:
        view = jobs.show(session, job)
    output.show(view, describe_one)


def resume(
    output: Output, *, job: int | None, every: bool, volume: str | None, dry_run: bool
) -> ExitCode:
    if [every, job is not None, volume is not None].count(True) != 1:
        raise WrongWordError("give the number of a job, --volume NAME or --all")
    with Session.open() as session:
        if dry_run:
            return show_forecast(output, would_resume(session, job, volume))
        if job is not None:
            output.show(jobs.resume(session, job), describe_resumed)
            return ExitCode.OK
        found = jobs.resume_all(session) if every else jobs.resume_volume(session, str(volume))
        output.show(found, describe_all)
        return next((each.exit_code for each in found if each.error), ExitCode.OK)


def would_resume(session: Session, job: int | None, volume: str | None) -> Forecast | Resumed:
    if job is not None:
        return forecast.resuming(session, job)
    if volume is not None:
        return forecast.resuming_volume(session, volume)
    return forecast.resuming_all(session)


def abort(output: Output, *, job: int, dry_run: bool) -> None:
    with Session.open() as session:
        if dry_run:
            output.show_plan(forecast.aborting(session, job))
        else:
            output.show(jobs.abort(session, job), lambda ended: [sentence(ended)])


def show_forecast(output: Output, found: Forecast | Resumed) -> ExitCode:
    if isinstance(found, Resumed):
        output.show(found, describe_resumed)
    else:
        output.show_plan(found)
    return ExitCode.OK


def describe_list(views: list[JobView]) -> Iterator[Text]:
    yield Table(
        ("JOB>", "BEGUN", "OPERATION", "VOLUMES", "STATE", "STEP"),
        [
            (
                str(view.id),
                format_time(view.started_ns),
                view.operation,
                " ".join(view.volumes),
                view.state,
                view.at or "",
            )
            for view in views
        ],
    )


def describe_one(job: JobView) -> Iterator[Text]:
    yield f"job {job.id}: {job.operation} of {' '.join(job.volumes) or 'no volume'}"
    yield f"{job.state}{': ' + job.outcome if job.outcome else ''}"
    yield f"begun {format_time(job.started_ns)} by process {job.pid}" + (
        f", ended {format_time(job.finished_ns)}" if job.finished_ns else ""
    )
    yield Table(
        ("STEP", "STATE", "SECONDS>"),
        [
            (step.name, step.state, "" if step.seconds is None else f"{step.seconds:.3f}")
            for step in job.steps
        ],
    )
    for run in job.hooks or ():
        lasted = "" if run.seconds is None else f" after {run.seconds:.3f} s"
        yield f"the {run.phase} hook {run.hook} {run.outcome}{lasted}"
        yield from (f"  {line}" for line in run.output.splitlines())


def describe_all(every: list[Resumed]) -> Iterator[Text]:
    if not every:
        yield "nothing was cut off"
    for resumed in every:
        reason = f"; {resumed.error}" if resumed.error else ""
        yield f"{sentence(resumed.job)}{reason}"


def describe_resumed(resumed: Resumed) -> Iterator[Text]:
    if resumed.result is None:
        yield sentence(resumed.job)
    else:
        yield f"{resumed.job.operation} was begun anew, and is done"


def sentence(job: JobView) -> str:
    return f"job {job.id}, {job.operation}, is {job.state}" + (
        f": {job.outcome}" if job.outcome else ""
    )
