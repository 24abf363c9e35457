"""The catalogue: what dmsnap has recorded."""

import click

from dmsnap.cli.grammar import Command, Noun

REBUILD = Command(
    "rebuild",
    "Record again what labels, devices and stores show of the volumes protected here.",
    "catalogue.rebuild",
    details="For a catalogue that was lost. A damaged one gets another name first; volumes that "
    "are recorded stay as they are. Where tracking is lost, the next sync compares in full. Exit "
    "code 24 when something was found and not recorded.",
    changes_devices=True,
)

SHOW = Command(
    "show",
    "Show what is recorded of a volume: its identity, mounts and units. Looks at no device.",
    "catalogue.show",
    (click.Argument(["name"]),),
)

CATALOGUE = Noun("catalogue", "Show and rebuild what dmsnap has recorded.", (SHOW, REBUILD))
