"""Swap: the recovery volume in the volume's place."""

import click

from dmsnap.cli import words
from dmsnap.cli.grammar import Command, Noun
from dmsnap.cli.parser.volume import NAME, PATH, READ_BACK

KILL = click.Option(
    ["--kill"],
    is_flag=True,
    help="End the processes that have files of the volume open: SIGTERM, later SIGKILL.",
)

START = Command(
    "start",
    "Put the recovery volume in the volume's place, in trial.",
    "swap.start",
    (
        click.Argument(["name"], required=False),
        click.Option(
            ["--to"],
            default=None,
            metavar="POINT",
            help="An earlier point than the newest, or a live one on the volume itself.",
        ),
        click.Option(
            ["--trial"],
            is_flag=True,
            default=True,
            help="Write to an overlay, so that revert can drop it: the default.",
        ),
        click.Option(
            ["--kill"],
            is_flag=True,
            help="End the processes that have files of the volume open, and a copy of it that is "
            "under way: SIGTERM, later SIGKILL.",
        ),
        click.Option(
            ["--fail-primary"],
            is_flag=True,
            help="Fail what a suspended device below the volume holds back.",
        ),
        click.Option(
            ["--force"],
            is_flag=True,
            help="Show a point that a verification found wrong, too. With --from-label: take the "
            "recovery volume over from another host.",
        ),
        click.Option(
            ["--from-label"],
            type=PATH,
            metavar="DEVICE",
            help="Instead of NAME: recover from this recovery volume what its label says, on a "
            "host that does not know the volume.",
        ),
        click.Option(
            ["--mount"],
            type=PATH,
            metavar="DIR",
            help="With --from-label: where to mount it; else where the label says.",
        ),
        click.Option(
            ["--store"],
            metavar="DIR|VG",
            help="With --from-label: where the overlay goes.",
        ),
    ),
    changes_devices=True,
)

REVERT = Command(
    "revert",
    "End a trial: back to the volume as it was left.",
    "swap.revert",
    (
        NAME,
        KILL,
        click.Option(
            ["--give-up"],
            is_flag=True,
            help="End a commit, too, that a disk which is gone for good keeps from its end.",
        ),
    ),
    details="What was written during the trial is dropped.",
    changes_devices=True,
)

COMMIT = Command(
    "commit",
    "End a trial: the recovery volume becomes the volume for good.",
    "swap.commit",
    (
        NAME,
        click.Option(
            ["--drop-points"],
            is_flag=True,
            help="Drop the live points, which lie on the former volume.",
        ),
    ),
    details="Happens online. When it is interrupted, run it again: it goes on where it was. After "
    "a trial of a live point the volume itself goes back to it.",
    changes_devices=True,
)

EXTEND = Command(
    "extend",
    "Give the overlay of a trial more room.",
    "swap.extend",
    (
        NAME,
        click.Option(
            ["--size"],
            callback=words.optional_size,
            default=None,
            metavar="SIZE",
            help="Its size in all, as 10GiB; without, twice what it is.",
        ),
    ),
    changes_devices=True,
)

FAILBACK = Command(
    "failback",
    "After a commit: go back to the former volume, copying only what changed.",
    "swap.failback",
    (NAME, READ_BACK),
    details="The former volume is brought up to date while the recovery volume serves, by what "
    "either changed since they parted, and takes over again; the recovery volume is one again. "
    "The volume is unmounted for the last of it.",
    changes_devices=True,
)

SWAP = Noun(
    "swap",
    "Put a recovery volume in its volume's place.",
    (REVERT, COMMIT, EXTEND),
    plain=START,
    details="The volume named NAME shows its recovery volume's newest point, or the one chosen "
    "with --to, and is mounted again where it was. Volume and replica are left untouched until "
    "dmsnap swap commit; dmsnap swap revert returns to the volume as it was left.",
)
