"""So many at once and no more: slots that are files, held by flock(2).

The kernel gives a slot back when its holder dies.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dmsnap.host.system_call import system_call


@contextmanager
def slot(directory: Path, name: str, count: int) -> Iterator[int]:
    """Hold one of the ``count`` slots called ``name``; waits for one without a deadline.

    A free one is taken at once. Else one is waited for that is chosen by the process's number: to
    wait for whichever is free first, flock has no call. Signals end the wait.
    """
    with ExitStack() as opened:
        descriptors = [opened.enter_context(_file(directory, name, at)) for at in range(count)]
        taken = next((at for at, each in enumerate(descriptors) if _try(each)), None)
        if taken is None:
            taken = os.getpid() % count
            with system_call(f"wait for {directory / name}"):
                fcntl.flock(descriptors[taken], fcntl.LOCK_EX)
        yield taken


@contextmanager
def _file(directory: Path, name: str, number: int) -> Iterator[int]:
    path = directory / f"{name}.{number}"
    with system_call(f"open the slot {path}"):
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
