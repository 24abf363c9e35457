"""Importing while Ctrl-C may come: it ends the process at once, and not with a trace of imports."""

import gc
import signal
import threading
from importlib import import_module
from typing import Any


def undisturbed(name: str) -> Any:
    """Import a module. Nothing was begun yet that would have to be undone."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not ours or threading.current_thread() is not threading.main_thread():
        return import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return _uncollected(name)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _uncollected(name: str) -> Any:
    """What modules are made of stays: it is not looked through for garbage, now or later."""
    gc.disable()
    try:
        return import_module(name)
    finally:
        gc.enable()
        gc.freeze()
