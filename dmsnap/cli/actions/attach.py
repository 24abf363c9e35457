"""New recovery volumes for volumes that have none."""

from collections.abc import Iterator

from dmsnap.cli.actions.volume import describe_copied
from dmsnap.cli.outcome import show_outcome
from dmsnap.cli.output import Output, Text
from dmsnap.service.replicas import attach as attaching
from dmsnap.service.replicas.attach import AttachResult
from dmsnap.service.session import Session
from dmsnap.service.volumes.wanted_recovery import WantedRecovery


def attach(
    output: Output,
    *,
    name: str,
    recovery: str,
    pool: str,
    cow_percent: int | None,
    bandwidth: int,
    full: bool,
    overwrite: bool,
    force: bool,
    dry_run: bool,
) -> None:
    wanted = WantedRecovery(
        recovery=recovery,
        pool=pool,
        overwrite=overwrite,
        force=force,
        full=full,
        cow_percent=cow_percent or 0,
        bandwidth=bandwidth,
    )
    with Session.open() as session, output.progress(f"copying {name}") as progress:
        result = attaching.attach(session, name, wanted, dry_run=dry_run, progress=progress)
    show_outcome(output, result, describe_attached)


def describe_attached(result: AttachResult) -> Iterator[Text]:
    yield f"{result.recovery} is the recovery volume of {result.volume} now"
    yield from describe_copied("it", result)
    if result.left_behind:
        yield f"{result.left_behind} is no part of it any more: dmsnap failback is not possible"
