"""Attach: a new recovery volume for a volume that has none."""

import click

from dmsnap.cli.grammar import Command
from dmsnap.cli.parser.volume import BANDWIDTH, COW_PERCENT, FORCE, NAME

ATTACH = Command(
    "attach",
    "Give a volume without a recovery volume a new one, while it serves.",
    "attach.attach",
    (
        NAME,
        click.Option(
            ["--recovery"],
            default="",
            metavar="DEVICE|LUN",
            help="The recovery volume: another block device, larger than the volume, or "
            "iscsi://ADDRESS[:PORT]/IQN/LUN.",
        ),
        click.Option(
            ["--pool"],
            default="",
            metavar="POOL",
            help="Take a free recovery volume of this pool, that of --recovery or one that fits. "
            "Default: the pool of the policy that NAME is under.",
        ),
        COW_PERCENT,
        BANDWIDTH,
        click.Option(
            ["--full"],
            is_flag=True,
            help="Copy what the file system does not use, too: the replica is then the volume "
            "byte for byte.",
        ),
        click.Option(["--overwrite"], is_flag=True, help="Destroy what is on the recovery device."),
        FORCE,
    ),
    details="For after dmsnap swap commit, where the former volume is lost; dmsnap failback goes "
    "back to one that is there. A point of now is copied in full, and nothing is unmounted. Until "
    "the copy is whole, whatever fails, the volume is as before.",
    changes_devices=True,
)
