"""The report."""

from pathlib import Path

import click

from dmsnap.cli.grammar import Command

REPORT = Command(
    "report",
    "Write a page about all volumes: their points over time, what syncs wrote, what failed.",
    "report.report",
    (
        click.Option(
            ["--html"],
            # Whether it can be written is for the command to say, with an exit code of its own.
            type=click.Path(path_type=Path),
            required=True,
            metavar="FILE",
            help="The file to write, or to replace as a whole.",
        ),
    ),
    details="One file that needs nothing else, for any browser. It says how old points are "
    "against what policies promise. A new file is for root alone to read.",
)
