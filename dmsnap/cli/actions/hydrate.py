"""Moving a volume's data to another device."""

from collections.abc import Iterator
from pathlib import Path

from dmsnap.cli.outcome import show_done, show_outcome
from dmsnap.cli.output import Output, Text
from dmsnap.errors import WrongWordError
from dmsnap.service.hydrations import hydrate as moving
from dmsnap.service.hydrations.hydrate import HydrateRequest, HydrateResult
from dmsnap.service.replicas.audit import Audit
from dmsnap.service.session import Session
from dmsnap.units import format_size


def hydrate(
    output: Output,
    *,
    name: str,
    onto: Path | None,
    bandwidth: int,
    audit: str,
    overwrite: bool,
    drop_points: bool,
    force: bool,
    abandon: bool,
    dry_run: bool,
) -> None:
    if abandon:
        if onto is not None:
            raise WrongWordError("either --onto or --abandon")
        give_up(output, name, dry_run=dry_run)
        return
    request = HydrateRequest(onto, bandwidth, overwrite, drop_points, force, Audit(audit))
    with Session.open() as session, output.progress(f"moving {name}") as progress:
        result = moving.hydrate(session, name, request, dry_run=dry_run, progress=progress)
    show_outcome(output, result, describe_moved)


def give_up(output: Output, name: str, *, dry_run: bool) -> None:
    with Session.open() as session:
        plan = moving.give_up(session, name, dry_run=dry_run)
    done = {"operation": "hydrate abandon", "volume": name}
    show_done(output, plan, done, f"{name} stays where it is")


def describe_moved(result: HydrateResult) -> Iterator[Text]:
    yield f"{result.volume} is on {result.device} now; {result.left_behind} is free"
    yield (
        f"{format_size(result.bytes_copied)} copied, the last {format_size(result.bytes_held)} of "
        f"it while {result.volume} was held for {result.held_seconds:.3f} s; "
        f"{result.seconds:.1f} s in all"
    )
    if result.audit.kind is not Audit.NONE:
        yield f"{format_size(result.audit.bytes_compared)} read back and compared, all equal"
