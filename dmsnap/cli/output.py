"""Where results go: JSON, or text and tables for people. rich draws on a terminal only."""

import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from json import dumps
from pathlib import Path
from typing import Protocol, TextIO, TypeVar, cast

from dmsnap.cli import json_value, terminal_text

Result = TypeVar("Result")
Progress = Callable[[int, int], None]

BATCH = 16384


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings. Columns whose heading ends in ``>`` are right-aligned."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]

    def columns(self) -> list[tuple[str, bool]]:
        """Each heading and whether its column is right-aligned."""
        return [(heading.removesuffix(">"), heading.endswith(">")) for heading in self.headings]


Text = str | Table


class PlanLike(Protocol):
    """What ``--dry-run`` gives: service.journal.Plan, known here by its shape."""

    @property
    def operation(self) -> str: ...

    def descriptions(self) -> list[str]: ...


class Extents(Protocol):
    """Extents that write themselves: the core's sets, known here by their shape."""

    def texts(self, *, json: bool) -> Iterator[str]: ...


@dataclass(frozen=True, slots=True)
class Rows:
    """Extents each of which has something more to say: ``[offset_bytes,length_bytes,more]``."""

    rows: Iterator[tuple[int, int, int | str]]

    def texts(self, *, json: bool) -> Iterator[str]:
        """A batch of them in each."""
        while batch := list(islice(self.rows, BATCH)):
            if json:
                yield dumps(batch, separators=(",", ":"))[1:-1]
            else:
                yield "".join(f"{row[0]:>20} {row[1]:>16} {row[2]}\n" for row in batch)


class Rich(Protocol):
    """The module ``rich_terminal``: imported only where it is needed."""

    def print_table(self, table: Table) -> None: ...

    def progress_bar(self, label: str) -> "ProgressBar": ...


class ProgressBar(Protocol):
    """A bar that appears with the first report."""

    def __call__(self, done_bytes: int, total_bytes: int) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Output:
    """The two streams and what to write on them."""

    json: bool = False
    stdout: TextIO | None = None
    stderr: TextIO | None = None

    @property
    def out(self) -> TextIO:
        return self.stdout or sys.stdout

    @property
    def err(self) -> TextIO:
        return self.stderr or sys.stderr

    def show(self, result: Result, describe: Callable[[Result], Iterable[Text]]) -> None:
        """Write a result: as JSON, or as ``describe`` puts it."""
        if self.json:
            self.line(json_value.dumps(result))
            return
        for item in describe(result):
            self.text(item)

    def show_plan(self, plan: PlanLike) -> None:
        """Write what would be done."""
        steps = plan.descriptions()
        if self.json:
            self.line(json_value.dumps({"operation": plan.operation, "steps": steps}))
            return
        self.line(f"{plan.operation} would:")
        for number, step in enumerate(steps, start=1):
            self.line(f"  {number}. {step}")

    def show_extents(
        self,
        members: Mapping[str, object],
        extents: Extents,
        description: Iterable[Text],
    ) -> None:
        """Write ``members`` and any number of extents, never more than a batch of them in memory.

        In JSON they follow the members as ``"extents": [[offset_bytes,length_bytes],…]``.
        """
        if self.json:
            head = json.dumps(json_value.to_json(members))[:-1]
            self.out.write(f'{head}, "extents": [')
            separator = ""
            for text in extents.texts(json=True):
                self.out.writelines((separator, text))
                separator = ","
            self.line("]}")
            return
        for item in description:
            self.text(item)
        self.out.writelines(extents.texts(json=False))

    def text(self, item: Text) -> None:
        if isinstance(item, str):
            self.line(item)
        elif self.out.isatty():
            _rich().print_table(item)
        else:
            for line in plain_table(item):
                self.line(line)

    def line(self, text: str) -> None:
        self.out.write(f"{terminal_text.shown(text)}\n")

    def notice(self, text: str) -> None:
        """A sentence beside the result."""
        self.warn(f"dmsnap: {text}")

    def warn(self, text: str) -> None:
        """A line on standard error."""
        self.err.write(f"{terminal_text.shown(text)}\n")

    @contextmanager
    def progress(self, label: str) -> Iterator[Progress | None]:
        """A progress bar, where somebody watches."""
        if self.json or not self.err.isatty():
            yield None
            return
        bar = _rich().progress_bar(label)
        try:
            yield bar
        finally:
            bar.close()


def whole(stream: TextIO | None) -> TextIO:
    """``stream``, or one over the same file that goes on where a write comes short.

    Without a standard output Python has None in its place: what is written then goes nowhere.
    With PYTHONUNBUFFERED set Python writes each text by one write(2) and forgets what that leaves,
    which is much when a signal comes, as it does from an io_uring that was closed.
    """
    if stream is None:
        return Path(os.devnull).open("w", encoding="utf-8")
    raw = getattr(stream, "buffer", None)
    if not isinstance(raw, io.RawIOBase):
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=True,
    )


def plain_table(table: Table) -> Iterator[str]:
    """The table in aligned columns, for pipes and files."""
    columns = table.columns()
    rows = [[heading for heading, _ in columns], *table.rows]
    widths = [max(len(row[index]) for row in rows) for index in range(len(columns))]
    for row in rows:
        cells = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, (_, right) in zip(row, widths, columns, strict=True)
        )
        yield "  ".join(cells).rstrip()


def _rich() -> Rich:
    return cast(Rich, import_module("dmsnap.cli.rich_terminal"))
