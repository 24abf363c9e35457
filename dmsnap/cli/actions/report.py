"""The report."""

from collections.abc import Iterator
from pathlib import Path

from dmsnap.cli.output import Output, Text
from dmsnap.service.health import report as service
from dmsnap.service.health.report import ReportResult
from dmsnap.service.session import Session
from dmsnap.units import format_size


def report(output: Output, *, html: Path) -> None:
    with Session.open() as session:
        result = service.write(session, html)
    output.show(result, describe_report)


def describe_report(result: ReportResult) -> Iterator[Text]:
    yield f"{result.file}: {result.volumes} volumes, {format_size(result.size_bytes)}"
