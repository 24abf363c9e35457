"""New recovery volumes for volumes that have none."""

from collections.abc import Iterator

from dmsnap.cli.actions.volume import milliseconds
from dmsnap.cli.output import Output, Text
from dmsnap.service.journal import Plan
from dmsnap.service.replicas import attach as attaching
from dmsnap.service.replicas.attach import AttachRequest, AttachResult
from dmsnap.service.session import Session
from dmsnap.units import format_size


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
    request = AttachRequest(
        name=name,
        recovery=recovery,
        pool=pool,
        overwrite=overwrite,
        force=force,
        full=full,
        cow_percent=cow_percent or 0,
        bandwidth=bandwidth,
    )
    with Session.open() as session, output.progress(f"copying {name}") as progress:
        result = attaching.attach(session, request, dry_run=dry_run, progress=progress)
    if isinstance(result, Plan):
        output.show_plan(result)
    else:
        output.show(result, describe_attached)


def describe_attached(result: AttachResult) -> Iterator[Text]:
    yield f"{result.recovery} is the recovery volume of {result.volume} now"
    yield (
        f"it holds point {result.point}: {format_size(result.bytes_written)} of "
        f"{format_size(result.size_bytes)} written, window {milliseconds(result.window_seconds)}, "
        f"{result.seconds:.1f} s in all"
    )
    for each in result.passed_over:
        yield f"passed over in the pool {result.pool}: {each.device}: {each.reason}"
    if result.bytes_skipped:
        yield f"{format_size(result.bytes_skipped)} that its file system does not use were left out"
    if result.left_behind:
        yield f"{result.left_behind} is no part of it any more: dmsnap failback is not possible"
