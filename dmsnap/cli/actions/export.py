"""Exports."""

from collections.abc import Iterator

from dmsnap.cli.outcome import show_done, show_outcome
from dmsnap.cli.output import Output, Table, Text
from dmsnap.errors import ExitCode
from dmsnap.service.exports import export as publishing
from dmsnap.service.exports import export_list as listing
from dmsnap.service.exports import export_restore as restoring
from dmsnap.service.exports import unexport as withdrawing
from dmsnap.service.exports.export import ExportRequest
from dmsnap.service.exports.export_list import ExportView
from dmsnap.service.exports.export_restore import RestoreResult
from dmsnap.service.session import Session


def start(
    output: Output,
    *,
    what: str,
    portal: tuple[str, int],
    initiators: tuple[str, ...],
    read_only: bool,
    dry_run: bool,
) -> None:
    address, port = portal
    request = ExportRequest(what, address, port, initiators, read_only)
    with Session.open() as session:
        result = publishing.export(session, request, dry_run=dry_run)
    show_outcome(output, result, describe_exported)


def describe_exported(result: ExportView) -> Iterator[Text]:
    yield (
        f"{result.exported} is LUN {result.lun} of {result.target} at {result.portal}"
        f"{', read-only' * result.read_only}"
    )
    yield (
        f"there: iscsiadm -m discovery -t sendtargets -p {result.portal} && "
        f"iscsiadm -m node -T {result.target} -p {result.portal} --login"
    )


def list_exports(output: Output) -> ExitCode:
    with Session.open() as session:
        found = listing.list_exports(session)
    output.show(found, describe_list)
    return ExitCode.UNHEALTHY if any(export.problem for export in found) else ExitCode.OK


def describe_list(found: list[ExportView]) -> Iterator[Text]:
    if not found:
        yield "nothing is exported"
        return
    yield Table(
        ("EXPORTED", "TARGET", "LUN>", "PORTAL", "ACCESS", "INITIATORS", "LOGGED IN"),
        [
            (
                export.exported,
                export.target,
                str(export.lun),
                export.portal,
                "read" if export.read_only else "read, write",
                ", ".join(export.initiators),
                ", ".join(export.sessions) or "-",
            )
            for export in found
        ],
    )
    for export in found:
        if export.problem:
            yield f"{export.problem}: dmsnap export restore"


def restore(output: Output, *, dry_run: bool) -> ExitCode:
    with Session.open() as session:
        found = restoring.forecast(session) if dry_run else restoring.restore(session)
    output.show(found, describe_restored)
    return next((result.exit_code for result in found if result.error), ExitCode.OK)


def describe_restored(found: list[RestoreResult]) -> Iterator[Text]:
    for result in found:
        if result.would:
            yield f"{result.exported}, exported by {result.target}: this would be done"
            yield from (f"  {number}. {step}" for number, step in enumerate(result.would, start=1))
        else:
            yield result.error or f"{result.exported} is exported by {result.target}"


def unexport(output: Output, *, what: str, force: bool, dry_run: bool) -> None:
    with Session.open() as session:
        plan = withdrawing.unexport(session, what, force=force, dry_run=dry_run)
    done = {"operation": "unexport", "exported": what}
    show_done(output, plan, done, f"{what} is not exported any more")
