"""Inspect: metadata on devices and in image files, without a catalogue."""

import click

from dmsnap.cli.grammar import Command, Noun
from dmsnap.cli.parser.volume import PATH

DEVICE = click.Argument(["device"], type=PATH)

ERA = Command(
    "era",
    "Show which extents were written since an era.",
    "inspect.era",
    (
        DEVICE,
        click.Option(
            ["--since"],
            type=click.IntRange(0, 2**32 - 1),
            required=True,
            metavar="N",
            help="The first era that counts.",
        ),
    ),
    details="DEVICE is a dm-era device, its metadata device, or an image of that. Metadata in use "
    "is read through a metadata snapshot, taken and dropped here unless one is held.",
)

STORE = Command(
    "store",
    "Show which extents of its origin an exception store holds.",
    "inspect.store",
    (DEVICE,),
)

LABEL = Command("label", "Show the label of a recovery volume.", "inspect.label", (DEVICE,))

DEV_ID = click.IntRange(0, 2**24 - 1)

THIN = Command(
    "thin",
    "Show the devices of a thin pool, what one maps, or in what two differ.",
    "inspect.thin",
    (
        DEVICE,
        click.Option(
            ["--device", "dev_id"],
            type=DEV_ID,
            metavar="ID",
            help="Show what this thin device maps.",
        ),
        click.Option(
            ["--since"],
            type=DEV_ID,
            metavar="ID",
            help="With --device: show only in what it differs from this thin device.",
        ),
    ),
    details="DEVICE is a thin pool, its metadata device, or an image of that. Metadata in use is "
    "read through a metadata snapshot, taken and dropped here unless one is held.",
)

INSPECT = Noun(
    "inspect",
    "Read era metadata, thin pools, exception stores and labels.",
    (ERA, THIN, STORE, LABEL),
)
