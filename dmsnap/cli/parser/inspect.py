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

INSPECT = Noun("inspect", "Read era metadata, exception stores and labels.", (ERA, STORE, LABEL))
