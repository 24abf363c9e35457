"""Resize: following devices that others made larger."""

import click

from dmsnap.cli.grammar import Command
from dmsnap.cli.parser.volume import NAME

RESIZE = Command(
    "resize",
    "Follow a volume's device, or its recovery volume, that was made larger.",
    "resize.resize",
    (
        NAME,
        click.Option(
            ["--drop-points"],
            is_flag=True,
            help="Drop live points, and of the history those whose room the replica needs.",
        ),
        click.Option(
            ["--keep-size"],
            is_flag=True,
            help="Only have the label at the end of its device, and take the size of the volume's "
            "device for right.",
        ),
        click.Option(
            ["--give-up-former"],
            is_flag=True,
            help="After swap commit: grow beyond the former device; there is no failback any more.",
        ),
    ),
    details="Make the devices larger first (lvextend, losetup -c, a partition, a LUN), then run "
    "this, then grow the file system. The front stays mounted. Tracking begins anew: the next sync "
    "compares in full. Volumes that were made smaller are refused. After swap commit a "
    "volume becomes as large as the former device, to which failback leads.",
    changes_devices=True,
)
