"""Hydrate: a volume's data to another device."""

import click

from dmsnap.cli.grammar import Command
from dmsnap.cli.parser.volume import BANDWIDTH, NAME, PATH, READ_BACK

HYDRATE = Command(
    "hydrate",
    "Move a volume's data to another device while it is used.",
    "hydrate.hydrate",
    (
        NAME,
        click.Option(
            ["--onto"],
            type=PATH,
            default=None,
            metavar="DEVICE",
            help="The new device. Left out, a move that was interrupted goes on.",
        ),
        BANDWIDTH,
        READ_BACK,
        click.Option(["--overwrite"], is_flag=True, help="Destroy what is on the new device."),
        click.Option(
            ["--drop-points"],
            is_flag=True,
            help="Drop the live points, which lie on the old device.",
        ),
        click.Option(
            ["--force"],
            is_flag=True,
            help="The data of the catalogue's server, which is on this host, lie elsewhere.",
        ),
        click.Option(
            ["--abandon"], is_flag=True, help="Give up a move that was begun and not finished."
        ),
    ),
    details="What is written meanwhile is copied again; at the end the volume is held for a moment "
    "and goes on over the new device. Interrupted, killed or cut off by a restart, it goes on from "
    "where it was. The old device is free then, with its content as it was last.",
    changes_devices=True,
)
