"""What schedules begin."""

import click

from dmsnap.cli.grammar import Command

RUN = Command(
    "run",
    "Do what a policy says is to be done now, as its schedule does.",
    "run.run",
    (
        click.Argument(["policy"]),
        click.Option(
            ["--copy", "copying_only"], is_flag=True, help="Take no points, copy what is due."
        ),
        click.Option(
            ["--points", "points_only"],
            is_flag=True,
            help="Take points, and have systemd begin the copies.",
        ),
    ),
    details="Takes points of the volumes of the policy's sub-clients, each volume once, and syncs "
    "those for which that is due. Copies wait for their disks and for a place among the jobs. "
    "When one volume fails the others go on; the exit code is the first failure's.",
    changes_devices=True,
)
