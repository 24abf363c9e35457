"""Reading the words that commands take; each function is a click callback."""

import click

from dmsnap.units import parse_size

# ``dmsnap swap revert NAME``: the word behind swap is a verb, or the name of a volume.
RESERVED_NAMES = ("commit", "revert")


def size(context: click.Context, parameter: click.Parameter, value: str) -> int:
    """``4096``, ``64KiB``, ``1G``: bytes."""
    try:
        return parse_size(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error


def rate(context: click.Context, parameter: click.Parameter, value: str | None) -> int:
    """``50MiB``: bytes a second. Without the option 0, which is no limit."""
    if value is None:
        return 0
    chosen = size(context, parameter, value)
    if not chosen:
        raise click.BadParameter("nothing would ever be copied", context, parameter)
    return chosen


def new_name(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """The name of a volume to be; what else it may be is the service's to say."""
    if value in RESERVED_NAMES:
        raise click.BadParameter(
            f"{value!r} is a word of dmsnap's own (dmsnap swap {value})", context, parameter
        )
    return value
