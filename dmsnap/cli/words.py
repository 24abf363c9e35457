"""Reading the words that commands take; most functions are click callbacks."""

import os

import click

from dmsnap.catalogue.clock import now_ns, parse_time, storable
from dmsnap.units import parse_duration, parse_size

# ``dmsnap swap revert NAME``: the word behind swap or export is a verb, or the name of a volume.
RESERVED_NAMES = {
    "commit": "dmsnap swap commit",
    "extend": "dmsnap swap extend",
    "revert": "dmsnap swap revert",
    "list": "dmsnap export list",
    "restore": "dmsnap export restore",
}

ISCSI_PORT = 3260
MAX_PORT = 1 << 16
NANOSECONDS = 10**9


def size(context: click.Context, parameter: click.Parameter, value: str) -> int:
    """``4096``, ``64KiB``, ``1G``: bytes."""
    try:
        return parse_size(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error


def chosen_size(context: click.Context, parameter: click.Parameter, value: str | None) -> int:
    """A size. Without the option 0, which leaves the choice to dmsnap."""
    if value is None:
        return 0
    chosen = size(context, parameter, value)
    if not chosen:
        raise click.BadParameter("there is no block without a byte", context, parameter)
    return chosen


def optional_size(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> int | None:
    """As :func:`size`, None without the option."""
    return None if value is None else size(context, parameter, value)


def moment(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """``2026-11-22``, ``2026-11-22T09:54:58Z``: nanoseconds since the epoch."""
    try:
        return None if value is None else parse_time(value)
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} is no time: write 2026-11-22T09:54:58Z", context, parameter
        ) from error


def expiry(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """``90d`` from now on, or a moment: nanoseconds since the epoch; ``never``: 0."""
    if value is None or value == "never":
        return None if value is None else 0
    try:
        return storable(now_ns() + parse_duration(value) * NANOSECONDS)
    except ValueError:
        return moment(context, parameter, value)


def rate(context: click.Context, parameter: click.Parameter, value: str | None) -> int:
    """``50MiB``: bytes a second. Without the option 0, which is no limit."""
    if value is None:
        return 0
    chosen = size(context, parameter, value)
    if not chosen:
        raise click.BadParameter("nothing would ever be copied", context, parameter)
    return chosen


def absolute(store: str) -> str:
    """A store with a slash in it is a directory, any other a volume group."""
    return os.path.abspath(store) if "/" in store else store  # noqa: PTH100 - links stay


def new_name(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """The name of a volume to be; what else it may be is the service's to say."""
    if value in RESERVED_NAMES:
        raise click.BadParameter(
            f"{value!r} is a word of dmsnap's own ({RESERVED_NAMES[value]})", context, parameter
        )
    return value


def portal(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, int]:
    """``192.0.2.1``, ``192.0.2.1:3261``, ``[2001:db8::1]:3260``: an address and a port."""
    bracketed = value.startswith("[")
    address, separator, port = value.rpartition(":")
    if not separator or (bracketed and value.endswith("]")):
        address, port = value, str(ISCSI_PORT)
    if bracketed:
        address = address.removeprefix("[").removesuffix("]")
    elif ":" in address:
        raise click.BadParameter("an IPv6 address is in brackets", context, parameter)
    if not port.isdecimal() or not 0 < int(port) < MAX_PORT:
        raise click.BadParameter(f"{port!r} is no TCP port", context, parameter)
    return address, int(port)
