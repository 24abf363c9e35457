"""LUNs: what they show."""

import click

from dmsnap.cli.grammar import Command, Noun

SWAP = Command(
    "swap",
    "Have a LUN show something else; its serial number and its WWN stay.",
    "lun.swap",
    (
        click.Argument(["what"], metavar="NAME|POINT|DEVICE|TARGET"),
        click.Option(
            ["--to"],
            required=True,
            metavar="NAME|POINT|DEVICE",
            help="What it shows from then on.",
        ),
        click.Option(
            ["--force"],
            is_flag=True,
            help="Also while an initiator is logged in: what it has cached is wrong from then on.",
        ),
    ),
    details="Initiators delete the disk and scan for it again afterwards.",
    changes_devices=True,
)

LUN = Noun("lun", "Change what a LUN shows.", (SWAP,))
