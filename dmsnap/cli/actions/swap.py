"""Swap. Each command imports what it alone needs: users wait for the one that recovers."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dmsnap.cli.outcome import show_outcome
from dmsnap.cli.output import Output, Table, Text
from dmsnap.cli.words import absolute
from dmsnap.errors import WrongWordError
from dmsnap.service.session import Session
from dmsnap.service.swaps.trial import SwapResult
from dmsnap.units import format_size

if TYPE_CHECKING:
    from dmsnap.service.swaps.extension import ExtendResult
    from dmsnap.service.swaps.failback import FailbackResult


def start(
    output: Output,
    *,
    name: str | None,
    to: str | None,
    trial: bool,
    from_label: Path | None,
    mount: Path | None,
    store: str | None,
    kill: bool,
    fail_primary: bool,
    force: bool,
    dry_run: bool,
) -> None:
    assert trial  # noqa: S101 - the parser knows nothing else
    if (name is None) == (from_label is None):
        raise WrongWordError("give the name of a volume, or --from-label DEVICE")
    if name is not None and (mount or store):
        raise WrongWordError("--mount and --store are for --from-label")
    if name is None and (kill or fail_primary):
        raise WrongWordError("--kill and --fail-primary are not for --from-label")
    with Session.open() as session:
        if from_label is not None:
            from dmsnap.service.swaps import from_label as recovery
            from dmsnap.service.swaps.label_admission import LabelRequest

            place = absolute(store) if store else session.configuration.default_store
            request = LabelRequest(from_label, place, to, mount, force)
            result = recovery.recover(session, request, dry_run=dry_run)
        else:
            from dmsnap.service.swaps import swap as swapping

            assert name is not None  # noqa: S101 - one of the two is given
            result = swapping.swap(
                session,
                name,
                to=to,
                kill=kill,
                fail_primary=fail_primary,
                force=force,
                dry_run=dry_run,
            )
    show_outcome(output, result, describe_started)


def revert(output: Output, *, name: str, kill: bool, give_up: bool, dry_run: bool) -> None:
    from dmsnap.service.swaps import revert as reverting

    with Session.open() as session:
        result = reverting.revert(session, name, kill=kill, give_up=give_up, dry_run=dry_run)
    show_outcome(output, result, describe_reverted)


def commit(output: Output, *, name: str, drop_points: bool, dry_run: bool) -> None:
    from dmsnap.service.swaps import promotion

    with Session.open() as session:
        result = promotion.commit(session, name, drop_points=drop_points, dry_run=dry_run)
    show_outcome(output, result, describe_committed)


def extend(output: Output, *, name: str, size: int | None, dry_run: bool) -> None:
    from dmsnap.service.swaps import extension

    with Session.open() as session:
        result = extension.extend(session, name, size_bytes=size, dry_run=dry_run)
    show_outcome(output, result, describe_extended)


def describe_extended(result: "ExtendResult") -> Iterator[Text]:
    yield (
        f"the overlay of {result.volume} has {format_size(result.total_bytes)}, "
        f"{format_size(result.used_bytes)} of it used"
    )


def failback(output: Output, *, name: str, audit: str, dry_run: bool) -> None:
    from dmsnap.service.swaps import failback as returning

    with Session.open() as session, output.progress(f"copying {name} back") as progress:
        result = returning.failback(session, name, audit=audit, dry_run=dry_run, progress=progress)
    show_outcome(output, result, describe_returned)


def describe_returned(result: "FailbackResult") -> Iterator[Text]:
    tracked = f"by {result.tracker}" + (f" ({result.reason})" if result.reason else "")
    yield f"{result.volume} is back on {result.device}; {result.recovery} is its recovery volume"
    yield (
        f"{format_size(result.bytes_copied)} of {format_size(result.bytes_volume)} copied, found "
        f"{tracked}; {result.unmounted_seconds:.2f} s without mount, {result.seconds:.1f} s in all"
    )
    if result.audit.bytes_compared:
        yield f"{format_size(result.audit.bytes_compared)} read back and compared, all equal"


def describe_started(result: SwapResult) -> Iterator[Text]:
    yield f"/dev/mapper/{result.volume} shows point {result.point}, in trial"
    yield from _steps(result)
    yield f"dmsnap swap commit {result.volume} keeps it, dmsnap swap revert {result.volume} ends it"


def describe_reverted(result: SwapResult) -> Iterator[Text]:
    yield f"/dev/mapper/{result.volume} shows the volume as it was left"
    if result.given_up is not None:
        yield result.given_up
    yield from _steps(result)


def describe_committed(result: SwapResult) -> Iterator[Text]:
    if result.state == "protected":
        yield f"{result.volume} is what the trial showed, on its own device"
    else:
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
