"""Volumes."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dmsnap.cli.outcome import show_done, show_outcome
from dmsnap.cli.output import Output, Text
from dmsnap.cli.words import absolute
from dmsnap.errors import ExitCode, WrongWordError
from dmsnap.service.replicas import sync as syncing
from dmsnap.service.replicas import verify as verification
from dmsnap.service.replicas.audit import Audit, AuditResult
from dmsnap.service.replicas.history_check import HistoryCheck
from dmsnap.service.replicas.sampling import ONE_IN
from dmsnap.service.replicas.sync import SyncResult
from dmsnap.service.replicas.verify import VerifyResult
from dmsnap.service.session import Session
from dmsnap.service.volumes import assemble as assembling
from dmsnap.service.volumes import protect as protection
from dmsnap.service.volumes import unprotect as release
from dmsnap.service.volumes.admission import ProtectRequest
from dmsnap.service.volumes.assemble import AssembleResult
from dmsnap.service.volumes.protect import ProtectResult
from dmsnap.service.volumes.wanted_recovery import WantedRecovery
from dmsnap.units import format_size

if TYPE_CHECKING:
    from dmsnap.service.replicas.attach import AttachResult


def protect(
    output: Output,
    *,
    device: Path,
    name: str,
    recovery: str,
    pool: str,
    store: str | None,
    block_size: int,
    chunk: int,
    cow_percent: int | None,
    bandwidth: int,
    full: bool,
    live: bool,
    overwrite: bool,
    force: bool,
    units: tuple[str, ...],
    dry_run: bool,
) -> None:
    with Session.open() as session, output.progress(f"copying {name}") as progress:
        request = ProtectRequest(
            device=device,
            name=name,
            wanted=WantedRecovery(
                recovery=recovery,
                pool=pool,
                overwrite=overwrite,
                force=force,
                full=full,
                cow_percent=cow_percent or 0,
                bandwidth=bandwidth,
            ),
            store=absolute(store) if store else "",
            block_bytes=block_size,
            chunk_bytes=chunk,
            units=units,
            live=live,
        )
        result = protection.protect(session, request, dry_run=dry_run, progress=progress)
    show_outcome(output, result, describe_protected)


def describe_protected(result: ProtectResult) -> Iterator[Text]:
    if result.live:
        yield (
            f"{result.device} is protected as {result.volume}, and stays mounted as it is: from "
            f"the next boot on it is {result.front}"
        )
        yield (
            "until then lvs warns of it, and an lvextend or lvchange --refresh drops the layers, "
            f"which dmsnap sync {result.volume} puts back"
        )
    else:
        yield f"{result.device} is protected as {result.volume}: use {result.front} from now on"
    yield from describe_copied(result.recovery, result)


def describe_copied(what: str, result: "ProtectResult | AttachResult") -> Iterator[Text]:
    """What a first copy took, and what it left out; ``what`` is the recovery volume's name."""
    yield (
        f"{what} holds point {result.point}: {format_size(result.bytes_written)} of "
        f"{format_size(result.size_bytes)} written, window {milliseconds(result.window_seconds)}, "
        f"{result.seconds:.1f} s in all"
    )
    for each in result.passed_over:
        yield f"passed over in the pool {result.pool}: {each.device}: {each.reason}"
    if result.bytes_skipped:
        yield f"{format_size(result.bytes_skipped)} that its file system does not use were left out"


def unprotect(output: Output, *, name: str, forget: bool, give_up: bool, dry_run: bool) -> None:
    if forget and give_up:
        raise WrongWordError("--give-up leaves the recovery volume as it is: no --forget with it")
    with Session.open() as session:
        plan = release.unprotect(session, name, forget=forget, give_up=give_up, dry_run=dry_run)
    done = {"operation": "unprotect", "volume": name, "forgotten": forget}
    show_done(output, plan, done, f"{name} is not protected any more")


def assemble(
    output: Output,
    *,
    name: str | None,
    all: bool,  # noqa: A002 - the option's name
    boot: bool,
    shutdown: bool,
    dry_run: bool,
) -> ExitCode:
    if shutdown:
        if boot or dry_run:
            raise WrongWordError("--shutdown goes with neither --boot nor --dry-run")
        assembling.note_shutdown()
        return ExitCode.OK
    if (name is None) is not all:
        raise WrongWordError("either NAME or --all", hint="dmsnap status lists the volumes")
    if name is None:
        return assemble_all(output, boot=boot, dry_run=dry_run)
    with Session.open() as session:
        plan = assembling.assemble(session, name, dry_run=dry_run, at_boot=boot)
    done = {"operation": "assemble", "volume": name}
    show_done(output, plan, done, f"/dev/mapper/{name} is as it should be")
    return ExitCode.OK


def assemble_all(output: Output, *, boot: bool, dry_run: bool) -> ExitCode:
    """One volume that fails does not stop the others: its exit code is the command's."""
    if dry_run:
        raise WrongWordError("--dry-run wants a NAME, not --all")
    with Session.open() as session:
        found = assembling.assemble_all(session, at_boot=boot)
    output.show(found, describe_assembled)
    return next((result.exit_code for result in found if result.error), ExitCode.OK)


def describe_assembled(found: list[AssembleResult]) -> Iterator[Text]:
    for result in found:
        yield result.error or f"/dev/mapper/{result.volume} is as it should be"


def sync(
    output: Output,
    *,
    name: str,
    audit: str,
    source: str | None,
    cow_percent: int | None,
    bandwidth: int,
    force: bool,
    dry_run: bool,
) -> None:
    with Session.open() as session, output.progress(f"syncing {name}") as progress:
        result = syncing.sync(
            session,
            name,
            audit=Audit(audit),
            dry_run=dry_run,
            cow_percent=cow_percent or 0,
            bandwidth=bandwidth,
            source=source,
            force=force,
            progress=progress,
        )
    show_outcome(output, result, describe_synced)


def describe_synced(result: SyncResult) -> Iterator[Text]:
    tracked = f"by {result.tracker}" + (f" ({result.reason})" if result.reason else "")
    copied = f", a copy of live point {result.copied}" if result.copied else ""
    yield f"{result.volume}: the recovery volume holds point {result.point}{copied}"
    yield (
        f"{format_size(result.bytes_dirty)} dirty {tracked}, "
        f"{format_size(result.bytes_compared)} compared, "
        f"{format_size(result.bytes_written)} written, "
        f"window {milliseconds(result.window_seconds)}, {result.seconds:.1f} s in all"
    )
    if result.given_up:
        count = f"{len(result.given_up)} points" if len(result.given_up) > 1 else "one point"
        yield (
            f"the history is too small for the policy: {count} went that it keeps "
            f"({', '.join(map(str, result.given_up))})"
        )
    if result.audit.kind is not Audit.NONE:
        yield from describe_audit(result.audit)


def describe_audit(audit: AuditResult) -> Iterator[Text]:
    yield (
        f"audit ({audit.kind}): {audit.blocks_compared} of {audit.blocks} blocks, "
        f"{format_size(audit.bytes_compared)} compared, all equal"
    )
    if audit.bytes_skipped:
        yield (
            f"{format_size(audit.bytes_skipped)} were not compared: the first copy left them out, "
            f"as the file system did not use them"
        )
    if audit.blocks_compared < audit.blocks:
        yield (
            f"one wrong block in {min(ONE_IN, audit.blocks)} would have been found with a "
            f"probability of {percent(audit.detection_probability)}"
        )


def percent(probability: float) -> str:
    """Never rounded up to certainty."""
    return f"{min(probability * 100, 99.99):.2f} %" if probability < 1 else "100 %"


def verify(
    output: Output,
    *,
    name: str,
    sample: int,
    full: bool,
    with_history: bool,
    cow_percent: int | None,
    dry_run: bool,
) -> None:
    with Session.open() as session, output.progress(f"verifying {name}") as progress:
        result = verification.verify(
            session,
            name,
            kind=Audit.FULL if full else Audit.SAMPLE,
            sample_bytes=sample,
            with_history=with_history,
            dry_run=dry_run,
            cow_percent=cow_percent or 0,
            progress=progress,
        )
    show_outcome(output, result, describe_verified)


def describe_verified(result: VerifyResult) -> Iterator[Text]:
    yield f"{result.volume}: the recovery volume holds point {result.point}"
    yield (
        f"{format_size(result.bytes_dirty)} were written since and not compared, "
        f"window {milliseconds(result.window_seconds)}, {result.seconds:.1f} s in all"
    )
    yield from describe_audit(result.audit)
    if result.history is not None:
        yield from describe_history(result.history)


def describe_history(checked: HistoryCheck) -> Iterator[Text]:
    yield f"{checked.stores} undo stores ({format_size(checked.bytes_read)}) hold what was written"
    if checked.unsealed:
        yield f"{checked.unsealed} of them cannot say: they were written before there were seals"


def milliseconds(seconds: float) -> str:
    """A window's length."""
    return f"{seconds * 1000:.1f} ms"
