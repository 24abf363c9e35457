"""Snapshots: of protected volumes and of logical volumes, by whoever takes them."""

import click

from dmsnap.cli.grammar import Command, Noun
from dmsnap.cli.parser.volume import COW_PERCENT

SNAPSHOT_NAME = click.Argument(["snapshot"])

CREATE = Command(
    "create",
    "Take a snapshot of a protected volume or a logical volume.",
    "snapshot.create",
    (
        click.Argument(["origin"]),
        click.Option(
            ["--provider"],
            default=None,
            metavar="NAME",
            help="Who takes it: cow, lvm, thin, or one that was installed. Default: the one that "
            "the origin suits.",
        ),
        COW_PERCENT,
    ),
    details="ORIGIN is a protected volume, of which this is a point, or VG/LV.",
    changes_devices=True,
)

LIST = Command(
    "list",
    "List snapshots, oldest first, and how full is what they lie in.",
    "snapshot.list_snapshots",
    (click.Argument(["origin"], required=False, metavar="[ORIGIN]"),),
)

CHANGED = Command(
    "changed",
    "Show in which extents a snapshot may differ from its origin, or from another one.",
    "snapshot.changed",
    (
        SNAPSHOT_NAME,
        click.Option(
            ["--until"],
            default=None,
            metavar="SNAPSHOT",
            help="Another snapshot of the same origin, instead of the origin as it is now.",
        ),
    ),
    details="No byte that differs is missing; some that do not may be among them.",
)

DELETE = Command(
    "delete", "Remove a snapshot.", "snapshot.delete", (SNAPSHOT_NAME,), changes_devices=True
)

SNAPSHOT = Noun(
    "snapshot",
    "Take, list, compare and remove snapshots of logical volumes and protected volumes.",
    (CREATE, LIST, CHANGED, DELETE),
    details="SNAPSHOT is VG/LV as dmsnap snapshot list shows it, or the id of a live point. "
    "dmsnap point copy makes a full copy of one.",
)
