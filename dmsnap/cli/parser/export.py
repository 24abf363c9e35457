"""Exports: LUNs that other hosts see."""

import click

from dmsnap.cli import words
from dmsnap.cli.grammar import Command, Noun

WHAT = click.Argument(["what"], metavar="NAME|POINT|DEVICE")

START = Command(
    "start",
    "Publish a volume, a point or a device as a LUN, for other hosts.",
    "export.start",
    (
        WHAT,
        click.Option(
            ["--portal"],
            callback=words.portal,
            required=True,
            metavar="ADDR[:PORT]",
            help="Where to listen: an address of this host, an IPv6 one in brackets.",
        ),
        click.Option(
            ["--initiator", "initiators"],
            multiple=True,
            required=True,
            metavar="IQN",
            help="Who may log in; may be given several times.",
        ),
        click.Option(
            ["--read-only"],
            is_flag=True,
            help="Refuse writes. Points are exported so in any case.",
        ),
    ),
    changes_devices=True,
)

LIST = Command(
    "list",
    "List what is exported, to whom, and who is logged in.",
    "export.list_exports",
    details="Exit code 24 when one of them cannot be used.",
)

RESTORE = Command(
    "restore",
    "Publish again what is exported and is not there, as after a reboot.",
    "export.restore",
    details="A unit of systemd does it at boot. One export that fails keeps no other from it.",
    changes_devices=True,
)

EXPORT = Noun(
    "export",
    "Publish volumes, points and devices by iSCSI.",
    (LIST, RESTORE),
    plain=START,
    details="NAME is a protected volume, whose front must not be mounted here. The LUN stays "
    "the same when a swap changes what the front shows. A DEVICE belongs to no volume: a disk "
    "that is to be another host's recovery volume, or is one already.",
)

UNEXPORT = Command(
    "unexport",
    "Take a LUN back.",
    "export.unexport",
    (
        click.Argument(["what"], metavar="NAME|POINT|DEVICE|TARGET"),
        click.Option(
            ["--force"], is_flag=True, help="Also while an initiator is logged in: its I/O fails."
        ),
    ),
    changes_devices=True,
)
