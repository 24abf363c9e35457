"""Work that is done in child processes, so that what hangs with one disk keeps no other waiting."""

import logging
import os
import pickle
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from dmsnap.host.signals import interruptible

log = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(slots=True)
class _Child(Generic[Result]):
    pid: int
    reading: int

    def result(self) -> Result | None:
        """What it gave, once it has ended; None: it died before."""
        with open(self.reading, "rb") as pipe:
            given = pipe.read()
        os.waitpid(self.pid, 0)
        return pickle.loads(given) if given else None  # noqa: S301 - written by us


def in_children(calls: Sequence[Callable[[], Result]]) -> list[Result | None]:
    """Make each call in a process of its own, all at once, and wait for all.

    None for one that died. SIGINT and SIGTERM are passed on, and then raised when all have ended.
    What is open belongs to both from then on: whoever has connections closes them before.
    """
    children: list[_Child[Result]] = []
    try:
        children.extend(_begin(call) for call in calls)
        with interruptible():
            return [child.result() for child in children]
    except BaseException:
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGTERM)
        for child in children:
            with suppress(ChildProcessError):
                os.waitpid(child.pid, 0)
        raise


def _begin(call: Callable[[], Result]) -> _Child[Result]:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid:
        os.close(writing)
        return _Child(pid, reading)
    code = 1
    try:
        given = pickle.dumps(call())
        with open(writing, "wb") as pipe:
            pipe.write(given)
        code = 0
    except BaseException:
        log.exception("a child process ends")
    finally:
        # Nothing of what the parent would do at its end.
        os._exit(code)
