"""Swap."""

from collections.abc import Callable, Iterator

from dmsnap.cli.output import Output, Table, Text
from dmsnap.service import promotion
from dmsnap.service import revert as reverting
from dmsnap.service import swap as swapping
from dmsnap.service.journal import Plan
from dmsnap.service.session import Session
from dmsnap.service.trial import SwapResult


def start(output: Output, *, name: str, to: str | None, trial: bool, dry_run: bool) -> None:
    assert trial  # noqa: S101 - the parser knows nothing else
    with Session.open() as session:
        result = swapping.swap(session, name, to=to, dry_run=dry_run)
    _show(output, result, describe_started)


def revert(output: Output, *, name: str, dry_run: bool) -> None:
    with Session.open() as session:
        result = reverting.revert(session, name, dry_run=dry_run)
    _show(output, result, describe_reverted)


def commit(output: Output, *, name: str, drop_points: bool, dry_run: bool) -> None:
    with Session.open() as session:
        result = promotion.commit(session, name, drop_points=drop_points, dry_run=dry_run)
    _show(output, result, describe_committed)


def _show(
    output: Output,
    result: SwapResult | Plan,
    describe: Callable[[SwapResult], Iterator[Text]],
) -> None:
    if isinstance(result, Plan):
        output.show_plan(result)
    else:
        output.show(result, describe)


def describe_started(result: SwapResult) -> Iterator[Text]:
    yield f"/dev/mapper/{result.volume} shows point {result.point}, in trial"
    yield from _steps(result)
    yield f"dmsnap swap commit {result.volume} keeps it, dmsnap swap revert {result.volume} ends it"


def describe_reverted(result: SwapResult) -> Iterator[Text]:
    yield f"/dev/mapper/{result.volume} shows the volume as it was left"
    yield from _steps(result)


def describe_committed(result: SwapResult) -> Iterator[Text]:
    yield f"the recovery volume is the primary of {result.volume} now"
    yield from _steps(result)


def _steps(result: SwapResult) -> Iterator[Text]:
    yield Table(
        ("STEP", "SECONDS>"),
        [
            *((step, f"{seconds:.3f}") for step, seconds in result.steps.items()),
            ("in all", f"{result.seconds:.3f}"),
        ],
    )
