"""LUNs."""

from collections.abc import Iterator

from dmsnap.cli.outcome import show_outcome
from dmsnap.cli.output import Output, Text
from dmsnap.service.exports import lun_swap
from dmsnap.service.exports.export_list import ExportView
from dmsnap.service.session import Session


def swap(output: Output, *, what: str, to: str, force: bool, dry_run: bool) -> None:
    with Session.open() as session:
        result = lun_swap.swap_lun(session, what, to, force=force, dry_run=dry_run)
    show_outcome(output, result, describe_swapped)


def describe_swapped(result: ExportView) -> Iterator[Text]:
    yield f"LUN {result.lun} of {result.target} shows {result.exported}, its serial number stays"
    yield "there: delete the disk (echo 1 >/sys/block/sdX/device/delete) and scan for it again"
