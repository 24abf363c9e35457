"""Attach: a new recovery volume for a volume that has none."""

from dmsnap.cli.grammar import Command
from dmsnap.cli.parser.volume import (
    BANDWIDTH,
    COW_PERCENT,
    FORCE,
    FULL_COPY,
    NAME,
    OVERWRITE,
    POOL,
    RECOVERY,
)

ATTACH = Command(
    "attach",
    "Give a volume without a recovery volume a new one, while it serves.",
    "attach.attach",
    (
        NAME,
        RECOVERY,
        POOL,
        COW_PERCENT,
        BANDWIDTH,
        FULL_COPY,
        OVERWRITE,
        FORCE,
    ),
    details="For after dmsnap swap commit, where the former volume is lost; dmsnap failback goes "
    "back to one that is there. A point of now is copied in full, and nothing is unmounted. Until "
    "the copy is whole, whatever fails, the volume is as before.",
    changes_devices=True,
)
