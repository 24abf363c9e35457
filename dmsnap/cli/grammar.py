"""Commands and nouns as data, and click's commands made of them."""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import click

from dmsnap.cli.imports import undisturbed
from dmsnap.cli.output import Output

ACTIONS = "dmsnap.cli.actions"
PARSER = "dmsnap.cli.parser"

# Both are taken out of the arguments before click sees them (program.Flags), wherever they stand;
# declared here, they are in every help text.
FLAGS = (
    click.Option(["--json"], is_flag=True, expose_value=False, help="Write results as JSON."),
    click.Option(
        ["--debug"], is_flag=True, expose_value=False, help="Log every step; show traces of errors."
    ),
)
DRY_RUN = click.Option(["--dry-run"], is_flag=True, help="Print the plan and change nothing.")


@dataclass(frozen=True, slots=True)
class Command:
    """One command; ``action`` is MODULE.FUNCTION in ``actions``, called with the parameters."""

    name: str
    summary: str
    action: str
    parameters: Sequence[click.Parameter] = ()
    details: str = ""
    changes_devices: bool = False


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """An entry of a module of ``parser`` (``place``: MODULE.NAME), imported when it is asked for.

    Who runs one command does not wait for the words of all others.
    """

    name: str
    place: str

    def entry(self) -> "Command | Noun":
        module, _, name = self.place.partition(".")
        found = getattr(undisturbed(f"{PARSER}.{module}"), name)
        assert isinstance(found, (Command, Noun))  # noqa: S101 - a mistake in our own tables
        return found


@dataclass(frozen=True, slots=True)
class Noun:
    """A word followed by verbs. ``plain`` is what runs when no verb follows it."""

    name: str
    summary: str
    commands: Sequence["Command | Noun | Elsewhere"]
    details: str = ""
    plain: Command | None = None

    def entries(self) -> "list[Command | Noun]":
        """All commands, wherever they stand."""
        return [each.entry() if isinstance(each, Elsewhere) else each for each in self.commands]


class Commands(Mapping[str, click.Command]):
    """click's commands of a noun, each made when it is asked for."""

    def __init__(self, entries: Sequence[Command | Noun | Elsewhere]) -> None:
        self._entries = {entry.name: entry for entry in entries}
        self._built: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._built:
            self._built[name] = build(self._entries[name])
        return self._built[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class NounGroup(click.Group):
    """A group whose first word may also be the first argument of its plain command."""

    plain: click.Command | None = None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        args = args or ["--help"]
        known = args[0] in self.commands or args[0] in self.get_help_option_names(ctx)
        if self.plain is not None and not known:
            args = [PLAIN, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click calls it
        return list(self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == PLAIN and self.plain is not None:
            return self.plain
        return super().get_command(ctx, cmd_name)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        if self.plain is None:
            return super().collect_usage_pieces(ctx)
        plain_pieces = self.plain.collect_usage_pieces(ctx)
        return [*plain_pieces, "|", *super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.plain is None:
            super().format_options(ctx, formatter)
        else:
            self.plain.format_options(ctx, formatter)
            self.format_commands(ctx, formatter)


# No word that could be typed: what stands for "no verb" where click wants a command's name.
PLAIN = ""


def build(entry: Command | Noun | Elsewhere) -> click.Command:
    """click's command for ``entry``."""
    if isinstance(entry, Elsewhere):
        return build(entry.entry())
    return build_command(entry) if isinstance(entry, Command) else build_noun(entry)


def build_command(command: Command) -> click.Command:
    parameters = [*command.parameters, *([DRY_RUN] if command.changes_devices else []), *FLAGS]
    return click.Command(
        command.name,
        params=parameters,
        callback=partial(call, command.action),
        help=f"{command.summary}\n\n{command.details}".strip(),
        short_help=command.summary,
    )


def build_noun(noun: Noun) -> NounGroup:
    group = NounGroup(
        noun.name,
        commands=cast(MutableMapping[str, click.Command], Commands(noun.commands)),  # only read
        help=f"{noun.summary}\n\n{noun.details}".strip(),
        short_help=noun.summary,
    )
    group.plain = build_command(noun.plain) if noun.plain is not None else None
    return group


def call(action: str, **values: object) -> int:
    """Import the action and run it; returns the exit code."""
    return int(resolve(action)(click.get_current_context().find_object(Output), **values) or 0)


def resolve(action: str) -> Any:
    """The function behind MODULE.FUNCTION."""
    module, _, function = action.partition(".")
    return getattr(undisturbed(f"{ACTIONS}.{module}"), function)
