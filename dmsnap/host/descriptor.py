"""Descriptors that are closed whatever happens, a signal in the moment of opening included."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dmsnap.host.signals import deferred


@contextmanager
def opened(path: Path, flags: int, mode: int = 0o600) -> Iterator[int]:
    """open(2) with O_CLOEXEC. ``OSError`` as that raises it; by it the caller says what failed.

    A signal between the call and the note of what it returned would leave a device open that its
    undo then finds in use: it raises right behind that.
    """
    held: list[int] = []
    try:
        with deferred():
            held.append(os.open(path, flags | os.O_CLOEXEC, mode))
        yield held[0]
    finally:
        for descriptor in held:
            os.close(descriptor)
