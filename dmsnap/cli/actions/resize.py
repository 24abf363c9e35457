"""Following devices that others made larger."""

from collections.abc import Iterator

from dmsnap.cli.outcome import show_outcome
from dmsnap.cli.output import Output, Text
from dmsnap.service.resizing import resize as resizing
from dmsnap.service.resizing.aim import ResizeRequest
from dmsnap.service.resizing.resize import ResizeResult
from dmsnap.service.session import Session
from dmsnap.units import format_size


def resize(
    output: Output,
    *,
    name: str,
    drop_points: bool,
    keep_size: bool,
    give_up_former: bool,
    dry_run: bool,
) -> None:
    request = ResizeRequest(drop_points, keep_size, give_up_former)
    with Session.open() as session, output.progress(f"resizing {name}") as progress:
        result = resizing.resize(session, name, request, dry_run=dry_run, progress=progress)
    show_outcome(output, result, describe_resized)


def describe_resized(result: ResizeResult) -> Iterator[Text]:
    size = format_size(result.size_bytes)
    if not result.steps:
        yield f"{result.volume} has {size} on {result.device}: nothing is to be done"
        return
    if result.label_moved:
        yield f"the label of {result.recovery or result.device} is at the end that it has now"
    if result.points_dropped:
        yield f"{len(result.points_dropped)} points were dropped"
    if result.size_bytes != result.size_bytes_before:
        before = format_size(result.size_bytes_before)
        yield f"{result.volume} has {size} now, it had {before}; the next sync compares in full"
    if result.given_up:
        yield f"{result.given_up} is given up: there is no failback any more"
    if result.grow_file_system:
        yield f"what is on it keeps its size until: {result.grow_file_system}"
