"""``dmsnap``: the entry point. ``--version`` alone imports nothing more than is here."""

import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from dmsnap.version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. ``arguments`` are the process's own by default."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:
        sys.stdout.write(f"dmsnap {__version__}\n")
        return 0
    return int(load().main(words))


def load() -> Any:
    """The program. Ctrl-C ends the process at once meanwhile, and not with a trace of imports."""
    name = "dmsnap.cli.program"
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not ours or threading.current_thread() is not threading.main_thread():
        return import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return import_module(name)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
