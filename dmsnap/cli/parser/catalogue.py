"""The catalogue: what dmsnap has recorded."""

import click

from dmsnap.cli.grammar import Command, Noun

REBUILD = Command(
    "rebuild",
    "Record again what labels, devices and stores show of the volumes protected here.",
    "catalogue.rebuild",
    details="For a catalogue that was lost. A damaged one gets another name first; volumes that "
    "are recorded stay as they are. What these cannot say comes from the backup on the recovery "
    "volume. Where tracking is lost, the next sync compares in full. Exit "
    "code 24 when something was found and not recorded.",
    changes_devices=True,
)

SHOW = Command(
    "show",
    "Show what is recorded of a volume: its identity, mounts and units. Looks at no device.",
    "catalogue.show",
    (click.Argument(["name"]),),
)

CHECK = Command(
    "check",
    "Check the catalogue: its file, rows that contradict each other, pieces of stores.",
    "catalogue.check",
    details="Changes nothing. Exit code 24 when something was found, 13 when the file is damaged.",
)

BACKUP = Command(
    "backup",
    "Back up what is recorded of volumes on their recovery volumes, of all if none is named.",
    "catalogue.backup",
    (click.Argument(["names"], nargs=-1, metavar="[NAME]..."),),
    details="Every command that records something does so at its end; dmsnap catalogue rebuild "
    "and dmsnap swap --from-label use it.",
    changes_devices=True,
)

CATALOGUE = Noun(
    "catalogue",
    "Show, check, back up and rebuild what dmsnap has recorded.",
    (SHOW, CHECK, BACKUP, REBUILD),
)
