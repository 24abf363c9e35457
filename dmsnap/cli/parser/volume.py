"""Volumes: protecting them and bringing their recovery volumes up to date."""

from pathlib import Path

import click

from dmsnap.cli import words
from dmsnap.cli.grammar import Command

NAME = click.Argument(["name"])
# Whether it can be read is for the command to say, with an exit code of its own.
PATH = click.Path(path_type=Path, readable=False)
COW_PERCENT = click.Option(
    ["--cow-percent"],
    type=click.IntRange(1, 110),
    default=None,
    metavar="N",
    help="Room for what is written to the volume while the point is live, in percent of it.",
)
BANDWIDTH = click.Option(
    ["--bandwidth"],
    callback=words.rate,
    default=None,
    metavar="RATE",
    help="The most that is read from the volume, or written, in a second, as 50MiB.",
)
FORCE = click.Option(
    ["--force"],
    is_flag=True,
    help="Take the recovery volume over from another host that claims it.",
)
RECOVERY = click.Option(
    ["--recovery"],
    default="",
    metavar="DEVICE|LUN",
    help="The recovery volume: another block device, larger than the volume, or "
    "iscsi://ADDRESS[:PORT]/IQN/LUN.",
)
POOL = click.Option(
    ["--pool"],
    default="",
    metavar="POOL",
    help="Take a free recovery volume of this pool, that of --recovery or one that fits. "
    "Default: the pool of the policy that NAME is under.",
)
FULL_COPY = click.Option(
    ["--full"],
    is_flag=True,
    help="Copy what the file system does not use, too: the replica is then the volume "
    "byte for byte.",
)
OVERWRITE = click.Option(
    ["--overwrite"], is_flag=True, help="Destroy what is on the recovery device."
)

PROTECT = Command(
    "protect",
    "Put a volume under protection and make its replica.",
    "volume.protect",
    (
        click.Argument(["device"], type=PATH),
        click.Option(
            ["--name"],
            callback=words.new_name,
            metavar="NAME",
            required=True,
            help="The volume's name: it is used as /dev/mapper/NAME from now on.",
        ),
        RECOVERY,
        POOL,
        click.Option(
            ["--store"],
            default=None,
            metavar="DIR|VG",
            help="Where tracking data and live points go: a directory on another file system, or "
            "a volume group. Default: what the policy of NAME says, or the configuration.",
        ),
        click.Option(
            ["--block-size"],
            callback=words.chosen_size,
            metavar="SIZE",
            default=None,
            help="What dm-era tracks as one block. Default: 64KiB, and more for volumes over 1TiB.",
        ),
        click.Option(
            ["--chunk"],
            callback=words.size,
            metavar="SIZE",
            default="4KiB",
            show_default=True,
            help="What live points copy as one chunk.",
        ),
        COW_PERCENT,
        BANDWIDTH,
        FULL_COPY,
        click.Option(
            ["--live"],
            is_flag=True,
            help="Put the layers under a mounted logical volume without unmounting it. Until the "
            "next boot it is used as it is, and LVM must leave its table alone.",
        ),
        OVERWRITE,
        FORCE,
        click.Option(
            ["--unit", "units"],
            multiple=True,
            metavar="UNIT",
            help="A systemd unit that uses the volume, stopped while a swap exchanges it. For "
            "several, give it again.",
        ),
    ),
    details="DEVICE is unmounted for a moment where it is mounted, and mounted again through "
    "/dev/mapper/NAME. The first full copy follows. Whatever fails, the device is given back as "
    "it was.",
    changes_devices=True,
)

UNPROTECT = Command(
    "unprotect",
    "Give a device back, byte for byte as it is now.",
    "volume.unprotect",
    (
        NAME,
        click.Option(
            ["--forget"],
            is_flag=True,
            help="Wipe the recovery volume's label too: its points cannot be found any more.",
        ),
        click.Option(
            ["--give-up"],
            is_flag=True,
            help="End a trial, or a commit, whose devices are gone for good: nothing is mounted.",
        ),
    ),
    details="Live points are removed. The recovery volume keeps its replica and its history, and "
    "goes on from them when the same volume is protected again.",
    changes_devices=True,
)

ASSEMBLE = Command(
    "assemble",
    "Build what is missing of a volume's devices, as after a reboot.",
    "volume.assemble",
    (
        click.Argument(["name"], required=False),
        click.Option(["--all"], is_flag=True, help="Every volume, whichever fails."),
        click.Option(
            ["--boot"],
            is_flag=True,
            help="For the unit that runs at boot: wait for devices, leave mounting to others.",
        ),
        click.Option(
            ["--shutdown"],
            is_flag=True,
            help="For the same unit as the host goes down: note what the clock says.",
        ),
    ),
    changes_devices=True,
)

READ_BACK = click.Option(
    ["--audit"],
    type=click.Choice(["none", "sample", "full"]),
    default="none",
    show_default=True,
    help="Read the device back before it takes over, and compare: samples of 64 MiB of what was "
    "copied and of everything, or all of it.",
)

SYNC = Command(
    "sync",
    "Bring the recovery volume up to date with a point of now.",
    "volume.sync",
    (
        NAME,
        click.Option(
            ["--audit"],
            type=click.Choice(["none", "sample", "full"]),
            default="none",
            show_default=True,
            help="Compare the replica with the point afterwards, in a sample of 64 MiB or in "
            "full, and what was written in any case.",
        ),
        click.Option(
            ["--from", "source"],
            default=None,
            metavar="POINT",
            help="Copy this live point instead, which stays where it is.",
        ),
        COW_PERCENT,
        BANDWIDTH,
        FORCE,
    ),
    details="The replica's former point stays reachable in its history. Interrupted at any time, "
    "the replica goes back to it.",
    changes_devices=True,
)

VERIFY = Command(
    "verify",
    "Compare the recovery volume with the volume where nothing was written since.",
    "volume.verify",
    (
        NAME,
        click.Option(
            ["--sample"],
            callback=words.size,
            metavar="SIZE",
            default="1GiB",
            show_default=True,
            help="How much to compare, in blocks chosen at random.",
        ),
        click.Option(["--full"], is_flag=True, help="Compare all of it."),
        click.Option(
            ["--history", "with_history"],
            is_flag=True,
            help="Read all undo stores, too: do they hold what was written?",
        ),
        COW_PERCENT,
    ),
    details="Changes neither. Where they differ, exit code 18: the points on the recovery volume "
    "count as invalid, and the next dmsnap sync compares in full. Where an undo store is damaged, "
    "the points that are read through it count as invalid.",
    changes_devices=True,
)
