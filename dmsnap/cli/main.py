"""``dmsnap``: the entry point. ``--version`` alone imports nothing more than is here."""

import sys
from collections.abc import Sequence

from dmsnap.cli.imports import undisturbed
from dmsnap.version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. ``arguments`` are the process's own by default."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:
        sys.stdout.write(f"dmsnap {__version__}\n")
        return 0
    program = undisturbed("dmsnap.cli.program")
    if arguments is None:
        # Python takes its time to end: a signal in that would be an end that nothing came to.
        undisturbed("dmsnap.host.signals").block()
    return int(program.main(words))


# CPython maps 16 KiB of stack when a call goes beyond what it has, and unmaps it when that call
# returns (_PyThreadState_PushFrame in Python/pystate.c): wherever a loop or an import stood at such
# an end, that was a thousand times in a command. A frame of more than 128 KiB has a piece of 256
# KiB mapped for it once, and all that it calls has the rest.
main.__code__ = main.__code__.replace(co_stacksize=16_000)
