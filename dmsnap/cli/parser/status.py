"""What can be recovered, and what is wrong."""

import click

from dmsnap.cli.grammar import Command

STATUS = Command(
    "status",
    "Show what can be recovered, how old it is and what is wrong.",
    "status.status",
    (click.Argument(["names"], nargs=-1, metavar="[NAME]..."),),
    details="Looks at the devices as they are. Without a NAME a line for each volume, and below "
    "them what is wrong and what to do. Exit code 24 when anything is wrong.",
)
