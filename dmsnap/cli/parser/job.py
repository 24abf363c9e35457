"""Jobs: what was begun, and what became of it."""

import click

from dmsnap.cli.grammar import Command, Noun

ID = click.Argument(["job"], type=int)

LIST = Command(
    "list",
    "List the last jobs, and all that are under way or were cut off.",
    "job.list_jobs",
    (
        click.Option(
            ["--count"], type=click.IntRange(min=1), default=20, show_default=True, metavar="N"
        ),
    ),
)

SHOW = Command("show", "Show a job and how far each of its steps came.", "job.show", (ID,))

RESUME = Command(
    "resume",
    "Bring a job that was cut off to its end.",
    "job.resume",
    (
        click.Argument(["job"], type=int, required=False),
        click.Option(
            ["--all", "every"],
            is_flag=True,
            help="Finish or take back whatever was cut off; begin nothing anew.",
        ),
        click.Option(
            ["--volume"],
            metavar="NAME",
            help="The same on one volume, and have go on what was left suspended there.",
        ),
    ),
    details="What only goes forward is finished; the rest is taken back and begun anew with what "
    "it was asked for. A job that was undone or that failed can be begun anew, too.",
    changes_devices=True,
)

ABORT = Command(
    "abort",
    "Have a job undone: ask its process to end, or take back what it left.",
    "job.abort",
    (ID,),
    changes_devices=True,
)

JOB = Noun(
    "job",
    "List, resume and abort jobs.",
    (LIST, SHOW, RESUME, ABORT),
    details="Every command that changes devices is a job of named steps. One whose process or "
    "machine died is finished, or taken back, by the next command on its volume and at boot.",
)
