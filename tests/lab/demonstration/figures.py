"""The tables at the end."""

from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

WIDTH = 100
MIB = 1024 * 1024


@dataclass(slots=True)
class Recovery:
    """How long it took to have a volume back, and to copy it back instead."""

    volume: str
    disaster: str
    steps_seconds: float
    mounted_seconds: float
    first_commit_seconds: float
    copy_seconds: float = 0.0


def show(syncs: list[dict[str, Any]], recoveries: list[Recovery], size_bytes: int) -> None:
    """Print both tables."""
    console = Console(width=WIDTH, highlight=False)
    with console.capture() as captured:
        console.print()
        console.print(syncs_table(syncs))
        console.print(recoveries_table(recoveries, size_bytes))
    for line in captured.get().rstrip().splitlines():
        print(line.rstrip())
    print()


def table(title: str, *headings: str) -> Table:
    """The first columns hold words, the others numbers."""
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for heading in headings:
        made.add_column(heading.removeprefix("<"), justify="left" if heading[0] == "<" else "right")
    return made


def syncs_table(syncs: list[dict[str, Any]]) -> Table:
    made = table(
        "The syncs, in MiB",
        "<volume", "sync", "dirty", "compared", "written", "window ms", "seconds",
    )  # fmt: skip
    for name in dict.fromkeys(sync["volume"] for sync in syncs):
        own = [sync for sync in syncs if sync["volume"] == name]
        for number, sync in enumerate(own, start=1):
            made.add_row(
                name,
                str(number),
                mib(sync["bytes_dirty"]),
                mib(sync["bytes_compared"]),
                mib(sync["bytes_written"]),
                f"{sync['window_seconds'] * 1000:.1f}",
                f"{sync['seconds']:.2f}",
            )
    return made


def recoveries_table(recoveries: list[Recovery], size_bytes: int) -> Table:
    made = table(
        f"Seconds to have a volume of {size_bytes // MIB} MiB back",
        "<volume", "<disaster", "swap's steps", "command to mounted", "to first commit", "dd back",
    )  # fmt: skip
    for recovery in recoveries:
        made.add_row(
            recovery.volume,
            recovery.disaster,
            f"{recovery.steps_seconds:.2f}",
            f"{recovery.mounted_seconds:.2f}",
            f"{recovery.first_commit_seconds:.2f}",
            f"{recovery.copy_seconds:.2f}",
        )
    return made


def mib(size_bytes: int) -> str:
    return f"{size_bytes / MIB:.1f}"
