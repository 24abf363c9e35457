"""What volumes the host has."""

from collections.abc import Iterator

from dmsnap.cli.output import Output, Table, Text
from dmsnap.errors import ExitCode
from dmsnap.service.session import Session
from dmsnap.service.volumes import discovery
from dmsnap.service.volumes.discovery import Discovered, Discovery
from dmsnap.units import format_size


def discover(output: Output) -> ExitCode:
    with Session.open() as session:
        found = discovery.discover(session)
    output.show(found, describe)
    return ExitCode.UNHEALTHY if found.findings else ExitCode.OK


def describe(found: Discovery) -> Iterator[Text]:
    yield Table(
        ("DEVICE", "KIND", "HOLDS", "SIZE>", "MOUNTED ON", "IS"),
        [_row(each) for each in found.volumes],
    )
    yield from found.findings


def _row(each: Discovered) -> list[str]:
    role = f"{each.role} ({each.volume})" if each.volume else str(each.role)
    marks = [word for word, is_so in (("new", each.new), ("left out", each.left_out)) if is_so]
    if each.joins_as:
        which = "the next run" if each.by_next_run else "a later run"
        marks.append(f"will be protected by {which} as {each.joins_as}")
    return [
        each.device,
        str(each.kind),
        each.fs_type,
        format_size(each.size_bytes),
        ", ".join(each.mount_points) or "-",
        ", ".join([role, *marks]),
    ]
