"""Every command that begins a job or writes to a device has a dry run: found by reading the code.

What a function mentions it may call, and of a class that it mentions any method. What is
found by name only when it runs, as providers are, is not found here.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from test_cli_grammar import COMMANDS

import dmsnap
from dmsnap.cli import grammar
from dmsnap.service import operations

PACKAGE = Path(dmsnap.__file__).parent
# Running a plan; clearing what was cut off, which holding a volume does; the backup of the
# catalogue, on recovery volumes.
BEGINS = {
    "dmsnap.service.journal.run",
    "dmsnap.service.reaper.reap",
    "dmsnap.service.records.backup.write",
}
# What every command has: its methods are others' to mention.
EVERYWHERE = {
    "dmsnap.catalogue.store.Catalogue",
    "dmsnap.cli.output.Output",
    "dmsnap.service.session.Session",
}


class Module:
    """What a module defines and what it has of others, by name."""

    def __init__(self, path: Path) -> None:
        tree = ast.parse(path.read_text())
        self.defined = {
            node.name: node
            for node in tree.body
            if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        }
        self.imported: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    self.imported[alias.asname or alias.name] = f"{node.module}.{alias.name}"


def dotted(path: Path) -> str:
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {dotted(path): Module(path) for path in PACKAGE.rglob("*.py")}


def mentioned(name: str) -> Iterator[str]:
    """What of dmsnap's own a function or a class mentions, as dotted names."""
    place, _, last = name.rpartition(".")
    module = MODULES[place]
    for node in ast.walk(module.defined[last]):
        if isinstance(node, ast.Name):
            yield module.imported.get(node.id, f"{place}.{node.id}")
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{module.imported.get(node.value.id, '')}.{node.attr}"


def definition(name: str) -> str | None:
    """Where what is called so is defined; None: it is nothing of ours."""
    place, _, last = name.rpartition(".")
    if place not in MODULES:
        return None
    if last in MODULES[place].defined:
        return name
    elsewhere = MODULES[place].imported.get(last)
    return definition(elsewhere) if elsewhere else None


@cache
def reached(action: str) -> frozenset[str]:
    """All that an action may come to."""
    found: set[str] = set()
    left = [f"{grammar.ACTIONS}.{action}"]
    while left:
        name = left.pop()
        if name in found or name in EVERYWHERE:
            continue
        found.add(name)
        left += [each for each in map(definition, mentioned(name)) if each is not None]
    return frozenset(found)


def test_what_is_looked_for_is_there() -> None:
    assert all(definition(name) == name for name in BEGINS | EVERYWHERE)


@pytest.mark.parametrize("words", COMMANDS)
def test_what_begins_something_can_be_tried_dry(words: str) -> None:
    command = COMMANDS[words]
    begins = reached(command.action) & BEGINS
    assert command.changes_devices or not begins, f"dmsnap {words} comes to {', '.join(begins)}"


@pytest.mark.parametrize("operation", operations.OPERATIONS)
def test_an_operation_is_a_command_that_can_be_tried_dry(operation: str) -> None:
    noun = operation.removesuffix(" from-label")
    (words,) = {noun, f"{noun} start"} & COMMANDS.keys()
    assert COMMANDS[words].changes_devices
