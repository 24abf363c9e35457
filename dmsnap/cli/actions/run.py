"""Policies that are run."""

from collections.abc import Iterator, Sequence

from dmsnap.catalogue.clock import format_time
from dmsnap.cli.output import Output, Table, Text
from dmsnap.errors import ExitCode, WrongWordError
from dmsnap.service.schedules import policy_run
from dmsnap.service.schedules.policy_run import Part, RunPlan, VolumeRun
from dmsnap.service.session import Session


def run(
    output: Output, *, policy: str, copying_only: bool, points_only: bool, dry_run: bool
) -> ExitCode:
    if copying_only and points_only:
        raise WrongWordError("--copy and --points exclude each other: without either all is done")
    part = Part.COPIES if copying_only else Part.POINTS if points_only else Part.ALL
    with Session.open() as session:
        done = policy_run.run(session, policy, part=part, dry_run=dry_run)
    if isinstance(done, RunPlan):
        output.show_plan(done)
        return ExitCode.OK
    output.show(done, describe)
    return policy_run.exit_code(done)


def describe(runs: Sequence[VolumeRun]) -> Iterator[Text]:
    yield Table(
        ("VOLUME", "POINT", "SYNCED", "PRUNED", "OTHERWISE"),
        [
            (
                run.volume,
                _short(run.point),
                _short(run.synced),
                str(len(run.pruned)),
                run.error or _due(run),
            )
            for run in runs
        ],
    )
    for run in runs:
        yield from run.notes


def _short(value: object) -> str:
    return "" if value is None else str(value)[:8]


def _due(run: VolumeRun) -> str:
    return "" if run.copy_due_ns is None else f"to be copied at {format_time(run.copy_due_ns)}"
