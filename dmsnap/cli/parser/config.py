"""The configuration: /etc/dmsnap/*.toml."""

import click

from dmsnap.cli.grammar import Command, Noun
from dmsnap.cli.parser.volume import PATH

PLACE = click.Argument(["path"], type=PATH, required=False)

CHECK = Command(
    "check",
    "Find every mistake in the configuration.",
    "config.check",
    (PLACE,),
    details="Each with its file, line and key, with what is allowed there and what was probably "
    "meant. PATH is a directory or a single file, by default what all commands read. Needs no "
    "root. Exit code 21 when there is a mistake.",
)

SHOW = Command(
    "show",
    "Show the configuration as it is in force, with every default.",
    "config.show",
    (PLACE,),
    details="What is shown is TOML: the settings first, as in dmsnap.toml, then the tables.",
)

APPLY = Command(
    "apply",
    "Have systemd follow the schedules of the policies.",
    "config.apply",
    details="Writes a timer for each policy with a schedule that a sub-client is under, and takes "
    "away those of others. What differs is shown first, and with --dry-run that is all.",
    changes_devices=True,
)

CONFIG = Noun("config", "Check, show and apply the configuration.", (CHECK, SHOW, APPLY))
