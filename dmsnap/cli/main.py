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
    return int(undisturbed("dmsnap.cli.program").main(words))
