"""Pruning: what policies let go."""

import click

from dmsnap.cli.grammar import Command

PRUNE = Command(
    "prune",
    "Have points go that no rule of their volume's policy keeps.",
    "prune.prune",
    (click.Argument(["names"], nargs=-1, metavar="[NAME]..."),),
    details="All volumes, or those named. Live snapshots are removed; in the history of a recovery "
    "volume the oldest undo stores are dropped, and those in the middle merged. What is marked to "
    "be kept or is in use stays, and everything while the clock is in doubt. --dry-run shows what "
    "would go, and why. One volume that fails keeps no other from it: its exit code is the "
    "command's.",
    changes_devices=True,
)
