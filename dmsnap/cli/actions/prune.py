"""Pruning."""

from collections.abc import Iterator, Sequence

from dmsnap.catalogue.clock import format_time
from dmsnap.cli.output import Output, Table, Text
from dmsnap.errors import ExitCode
from dmsnap.service.points import prune as pruning
from dmsnap.service.points.prune import PLACES, PruneResult
from dmsnap.service.session import Session

# By whether it is done, and by the action's name.
VERBS = {
    False: {"drop": "would be dropped", "merge": "would be merged away"},
    True: {"drop": "dropped", "merge": "merged away"},
}


def prune(output: Output, *, names: tuple[str, ...], dry_run: bool) -> ExitCode:
    with Session.open() as session, output.progress("merging undo stores") as progress:
        found = pruning.prune(session, names, dry_run=dry_run, progress=progress)
    output.show(found, lambda results: describe_pruned(results, done=not dry_run))
    return next((result.exit_code for result in found if result.error), ExitCode.OK)


def describe_pruned(results: Sequence[PruneResult], *, done: bool) -> Iterator[Text]:
    if not results:
        yield "no volume is protected"
    for result in results:
        yield from result.notes
        if result.error:
            yield f"{result.volume}: {result.error}"
        if result.points:
            yield from describe_points(result, done=done)


def describe_points(result: PruneResult, *, done: bool) -> Iterator[Text]:
    """Those that go, each with its reason; how many stay."""
    going = [point for point in result.points if not point.stays]
    staying = len(result.points) - len(going)
    policies = ", ".join(sorted(set(result.policies.values())))
    yield f"{result.volume}, policy {policies}: {len(going)} of {staying + len(going)} points go"
    if going:
        rows = [
            (
                str(point.point),
                format_time(point.created_ns),
                f"{VERBS[done][point.action]} {PLACES[point.side]}",
                point.reason,
            )
            for point in going
        ]
        yield Table(("POINT", "CREATED", "WHAT", "WHY"), rows)
