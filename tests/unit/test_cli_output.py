"""JSON, tables and extents, for pipes and for terminals."""

import io
import json
import logging
import os
import pty
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum, IntEnum, IntFlag, StrEnum
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmsnap._native.extent_set import ExtentSet
from dmsnap._native.extent_text import BATCH
from dmsnap.cli import terminal_text
from dmsnap.cli.json_value import dumps, to_json
from dmsnap.cli.output import Output, Table, plain_table
from dmsnap.extent import Extent

TABLE = Table(("NAME", "SIZE>"), [("a", "1 KiB"), ("longer name", "12 MiB")])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Word(StrEnum):
    ERA = "era"


class Number(IntEnum):
    CONSISTENT = 2


class Mark(IntFlag):
    KEEP = 1
    LOCK = 4


class Kernel(Enum):
    INVALID = "Invalid"


@dataclass(frozen=True, slots=True)
class Value:
    id: UUID
    created_ns: int
    path: Path
    word: Word
    number: Number
    marks: Mark
    items: tuple[int, ...]
    missing: None = None


def test_values_become_json() -> None:
    value = Value(
        UUID(int=5), 1_790_000_000_000_000_000, Path("/srv"), Word.ERA, Number.CONSISTENT,
        Mark.KEEP | Mark.LOCK, (1, 2),
    )  # fmt: skip
    assert to_json(value) == {
        "id": "00000000-0000-0000-0000-000000000005",
        "created_ns": 1_790_000_000_000_000_000,
        "created": "2026-09-21T14:13:20Z",
        "path": "/srv",
        "word": "era",
        "number": "consistent",
        "marks": ["keep", "lock"],
        "items": [1, 2],
        "missing": None,
    }
    assert to_json({"a": [value.path], 3: {Kernel.INVALID}}) == {"a": ["/srv"], "3": ["Invalid"]}
    assert to_json(Mark(0)) == []
    assert to_json({"point_time_ns": 0}) == {"point_time_ns": 0, "point_time": None}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet="abc"), inner),
    )
)
def test_what_is_json_already_stays_as_it_is(value: object) -> None:
    assert json.loads(dumps(value)) == value


def test_a_table_for_a_pipe_is_aligned_text() -> None:
    assert list(plain_table(TABLE)) == [
        "NAME           SIZE",
        "a             1 KiB",
        "longer name  12 MiB",
    ]
    assert list(plain_table(Table(("A", "B"), []))) == ["A  B"]


def test_a_table_for_a_terminal_has_the_same_cells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    Output().text(TABLE)
    shown = terminal.getvalue()
    for cell in ("NAME", "SIZE", "longer name", "12 MiB"):
        assert cell in shown


EXTENTS = [(number * 131072, 65536) for number in range(2 * BATCH + 7)]


def extents(count: int) -> ExtentSet:
    return ExtentSet.from_extents(Extent(*pair) for pair in EXTENTS[:count])


@pytest.mark.parametrize("count", [0, 1, BATCH, BATCH + 1, len(EXTENTS)])
def test_extents_follow_the_other_members(count: int) -> None:
    out = io.StringIO()
    output = Output(json=True, stdout=out)
    output.show_extents({"since": 3, "held": None}, extents(count), [])
    assert out.getvalue().count("\n") == 1
    assert json.loads(out.getvalue()) == {
        "since": 3,
        "held": None,
        "extents": [list(extent) for extent in EXTENTS[:count]],
    }


def test_extents_for_people_are_two_columns() -> None:
    out = io.StringIO()
    Output(stdout=out).show_extents({"since": 3}, extents(2), ["written since 3"])
    first, *lines = out.getvalue().splitlines()
    assert first == "written since 3"
    assert [line.split() for line in lines] == [["0", "65536"], ["131072", "65536"]]


@pytest.mark.parametrize("output", [Output(stderr=io.StringIO()), Output(True, stderr=Terminal())])
def test_no_progress_where_nobody_watches(output: Output) -> None:
    with output.progress("copying") as progress:
        assert progress is None
    assert output.err.getvalue() == ""  # type: ignore[attr-defined]


PROGRESS = """
import threading
from dmsnap.cli.output import Output
with Output().progress("copying srv") as progress:
    for done, total in ((0, 100), (50, 100), (100, 100), (10, 200)):
        progress(done, total)
        assert threading.active_count() == 1
"""


def test_progress_on_a_terminal() -> None:
    """Drawn by the calls alone, without a thread; a new total begins anew."""
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm"}  # whatever the tests themselves run on
    argv = [sys.executable, "-c", PROGRESS]
    with subprocess.Popen(argv, stderr=follower, env=environment) as process:
        os.close(follower)
        shown = b"".join(iter(partial(read_terminal, leader), b""))
    os.close(leader)
    assert process.returncode == 0, shown
    for words in (b"copying srv", b"100/100", b"10/200"):
        assert words in shown


def read_terminal(leader: int) -> bytes:
    """What was written to it, or nothing when its other side was closed."""
    try:
        return os.read(leader, 4096)
    except OSError:
        return b""


HOSTILE = "a\x1b]0;b\x07c\rd\x9be\udcfff"


def test_names_that_others_chose_command_no_terminal() -> None:
    """Nor does a byte that is no UTF-8 end a command, whose output is strict."""
    shown = r"a\x1b]0;b\x07c\x0dd\x9be\xfff"
    out, err = io.BytesIO(), io.BytesIO()
    output = Output(
        stdout=io.TextIOWrapper(out, encoding="utf-8", write_through=True),
        stderr=io.TextIOWrapper(err, encoding="utf-8", write_through=True),
    )
    output.line(f"{HOSTILE}\tü")
    output.text(Table(("NAME",), [(HOSTILE,)]))
    output.notice(HOSTILE)
    assert out.getvalue().decode().splitlines() == [f"{shown}\tü", "NAME", shown]
    assert err.getvalue().decode() == f"dmsnap: {shown}\n"
    record = logging.LogRecord("x", logging.WARNING, "x", 1, "%s", (HOSTILE,), None)
    assert terminal_text.Formatter("%(message)s").format(record) == shown


def test_json_keeps_such_names_as_they_are() -> None:
    text = dumps([HOSTILE, "ü"])
    assert "ü" in text.encode().decode()
    assert "\x9b" not in text
    assert json.loads(text) == [HOSTILE, "ü"]
