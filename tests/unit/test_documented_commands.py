"""What README and manual tell people to type is understood; the manual leaves no command out."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from dmsnap.cli import grammar, program
from dmsnap.cli.grammar import Command, Noun
from dmsnap.cli.parser import ROOT

CHECKOUT = Path(__file__).parents[2]
PAGES = {name: (CHECKOUT / name).read_text() for name in ("README.md", "docs/MANUAL.md")}
MANUAL = PAGES["docs/MANUAL.md"]

BLOCK = re.compile(r"^ *```\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
LINE = re.compile(r"^ *dmsnap +(.*?)(?: +#.*)?$", re.MULTILINE)
SPAN = re.compile(r"`dmsnap ([^`]+)`")
NOUNS = [entry.name for entry in ROOT.entries() if isinstance(entry, Noun)]
HEADING = re.compile(r"^### dmsnap (.*)$", re.MULTILINE)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The actions that commands come to, in place of doing them."""
    found: list[str] = []

    def call(action: str, **_values: object) -> int:
        found.append(action)
        return 0

    monkeypatch.setattr(grammar, "call", call)
    return found


def lines() -> list[str]:
    """Whole command lines: those in blocks, as they are typed."""
    return [
        line
        for page in PAGES.values()
        for block in BLOCK.findall(page)
        for line in LINE.findall(block)
    ]


def spans() -> list[str]:
    """Commands within sentences, which may leave out what they are not about."""
    return sorted(
        {span.replace("… ", "") for page in PAGES.values() for span in SPAN.findall(page)}
    )


def leaves(entry: Command | Noun = ROOT, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command; a noun that is a command by itself is one, too."""
    words = before if entry is ROOT else (*before, entry.name)
    if isinstance(entry, Command):
        yield words
        return
    if entry.plain is not None:
        yield words
    for below in entry.entries():
        yield from leaves(below, words)


def headed() -> Iterator[list[str]]:
    """The commands that the manual's headings name: behind a comma the noun is not said again."""
    for heading in HEADING.findall(MANUAL):
        noun = heading.split()[0]
        for piece in heading.split(", "):
            words = piece.split()
            yield words if words[0] == noun else [noun, *words]


def parse(words: list[str]) -> None:
    program.command().main(words, prog_name="dmsnap", standalone_mode=False, obj=None)


def test_there_is_something_to_look_at() -> None:
    assert len(lines()) > 25
    assert len(spans()) > 15


@pytest.mark.parametrize("line", lines())
def test_a_line_to_be_typed_is_understood(called: list[str], line: str) -> None:
    parse(shlex.split(line))
    assert len(called) == 1


@pytest.mark.parametrize("span", spans())
def test_a_command_in_a_sentence_is_one(called: list[str], span: str) -> None:
    """Its words and its options are known, whatever it leaves out; a noun stands for its verbs."""
    try:
        parse(shlex.split(span.replace("JOB", "1")))
    except (click.MissingParameter, click.BadOptionUsage):
        assert called == []
    else:
        assert len(called) == 1 or span in NOUNS


def test_every_command_is_in_the_manual() -> None:
    """In a heading of its own, or among what is typed."""
    named = list(headed())
    for words in leaves():
        has_heading = any(heading[: len(words)] == list(words) for heading in named)
        assert has_heading or f"dmsnap {' '.join(words)} " in MANUAL, words


def test_every_heading_is_of_a_command() -> None:
    known = set(leaves())
    for heading in headed():
        assert any(tuple(heading[:count]) in known for count in (1, 2)), heading


def options(entry: Command | Noun = ROOT) -> Iterator[str]:
    """Every option that there is, by its long name."""
    commands = [entry] if isinstance(entry, Command) else [entry.plain] if entry.plain else []
    for command in commands:
        for parameter in command.parameters:
            if isinstance(parameter, click.Option):
                yield from parameter.opts
    if isinstance(entry, Noun):
        for below in entry.entries():
            yield from options(below)


def test_every_option_is_in_the_manual() -> None:
    missing = {option for option in options() if not re.search(rf"{option}(?![\w-])", MANUAL)}
    assert missing == set()
