"""Points: moments that can be recovered."""

import click

from dmsnap.cli import words
from dmsnap.cli.grammar import Command, Noun
from dmsnap.cli.parser.volume import BANDWIDTH, COW_PERCENT, PATH

ID = click.Argument(["point"])

EXPIRES = click.Option(
    ["--expires"],
    callback=words.expiry,
    metavar="TIME",
    help="Until when pruning leaves it, 2027-01-31 or 90d from now on; then it goes, whatever the "
    "policy's rules say.",
)
COMMENT = click.Option(["--comment"], metavar="TEXT", help="What it is for: a line of text.")

CREATE = Command(
    "create",
    "Take a point of one or several volumes, all at one moment.",
    "point.create",
    (
        click.Argument(["names"], nargs=-1, required=True, metavar="NAME..."),
        click.Option(["--keep"], is_flag=True, help="Never drop this point to make room."),
        EXPIRES,
        COMMENT,
        COW_PERCENT,
    ),
    changes_devices=True,
)

LIST = Command(
    "list",
    "List points, oldest first, and where each can be recovered from.",
    "point.list_points",
    (
        click.Argument(["names"], nargs=-1, metavar="[NAME]..."),
        click.Option(
            ["--as-of"],
            callback=words.moment,
            metavar="TIME",
            help="What could be recovered at that time, as it was recorded: deleted points, too.",
        ),
    ),
)

SHOW = Command(
    "show",
    "Show one point; of one that was deleted when, why and by whom.",
    "point.show",
    (ID,),
)

DELETE = Command(
    "delete",
    "Delete a point from every place.",
    "point.delete",
    (ID,),
    changes_devices=True,
    details="Every other point stays what it is: of one in the middle of the history the undo "
    "store is merged into that of the next older point, for which the history needs room.",
)

KEEP = Command(
    "keep",
    "Mark a point as one to be kept: neither pruning nor want of room drops it.",
    "point.keep",
    (ID, click.Option(["--off"], is_flag=True, help="Take the mark away.")),
    changes_devices=True,
)

SET = Command(
    "set",
    "Change what was said of a point: whether it is kept, until when it stays, a comment.",
    "point.change",
    (
        ID,
        click.Option(
            ["--keep/--no-keep"],
            default=None,
            help="Whether it is kept, from pruning and want of room, as by dmsnap point keep.",
        ),
        EXPIRES,
        COMMENT,
    ),
    details="--expires never: the policy's rules say again how long it stays. An empty TEXT: no "
    "comment any more. What is not named stays as it is.",
    changes_devices=True,
)

MOUNT = Command(
    "mount",
    "Mount a point read-only, to look into it and copy files out of it.",
    "point.mount",
    (ID, click.Argument(["directory"], type=PATH, required=False, metavar="[DIR]")),
    details="DIR is made where it does not exist; without it the point is mounted below "
    "/run/dmsnap/points. The point itself is not written to: a throwaway overlay takes what "
    "mounting writes.",
    changes_devices=True,
)

UMOUNT = Command("umount", "Unmount a point.", "point.umount", (ID,), changes_devices=True)

COPY = Command(
    "copy",
    "Make another device a full copy of a live point, or of a snapshot that LVM took.",
    "point.copy",
    (
        ID,
        click.Option(
            ["--onto"],
            type=PATH,
            required=True,
            metavar="DEVICE",
            help="The device: as large as the volume at least, and used by nobody.",
        ),
        click.Option(["--overwrite"], is_flag=True, help="Destroy what is on the device."),
        BANDWIDTH,
    ),
    details="POINT may also be VG/LV, as dmsnap snapshot list shows it. All is compared before "
    "the beginning of the copy is written: a device shows the whole point, or nothing. It carries "
    "the UUID of the file system that it is a copy of.",
    changes_devices=True,
)

POINT = Noun(
    "point",
    "Take, list, keep, mount, copy and delete points.",
    (CREATE, LIST, SHOW, KEEP, SET, DELETE, MOUNT, UMOUNT, COPY),
    details="POINT is an id as dmsnap point list shows it, or its first four digits or more.",
)
