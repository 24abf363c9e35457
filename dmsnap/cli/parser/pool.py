"""Pools of recovery volumes."""

import click

from dmsnap.cli.grammar import Command, Noun

LIST = Command(
    "list",
    "List the devices of pools: which are free, which volume has each, what is wrong with others.",
    "pool.list_devices",
    (click.Argument(["names"], nargs=-1, metavar="[POOL]..."),),
    details="All pools, or those that are named. Nothing is changed, and no target logged in to.",
)

POOL = Noun("pool", "Devices that are offered as recovery volumes.", (LIST,))
