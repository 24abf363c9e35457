"""Tables and progress bars on a terminal. The only module that imports rich, 0.1 s of it."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table as RichTable
from rich.text import Text as RichText

from dmsnap.cli.output import Table
from dmsnap.cli.terminal_text import shown

_REFRESHES_PER_SECOND = 10


def print_table(table: Table) -> None:
    """Draw ``table`` on standard output."""
    drawn = RichTable(box=None, pad_edge=False, header_style="bold")
    for heading, right in table.columns():
        drawn.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(RichText(shown(cell)) for cell in row))
    Console().print(drawn)


class Bar:
    """A bar on standard error.

    It is drawn by the calls alone: a thread of its own could write to a terminal while a window
    holds file systems frozen.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
            refresh_per_second=_REFRESHES_PER_SECOND,
        )
        self._task: TaskID | None = None
        self._total_bytes = 0

    def __call__(self, done_bytes: int, total_bytes: int) -> None:
        if self._task is None:
            self._progress.start()
            self._task = self._progress.add_task(self._label, total=total_bytes)
        elif total_bytes != self._total_bytes:
            self._progress.reset(self._task, total=total_bytes)
        self._total_bytes = total_bytes
        self._progress.update(self._task, completed=done_bytes, refresh=True)

    def close(self) -> None:
        self._progress.stop()


def progress_bar(label: str) -> Bar:
    """A bar that appears with the first report."""
    return Bar(label)
