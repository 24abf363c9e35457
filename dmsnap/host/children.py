"""Work that is done in child processes, so that what hangs with one disk keeps no other waiting."""

import logging
import os
import pickle
import select
import signal
import struct
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from dmsnap.host import asker
from dmsnap.host.signals import deferred, interruptible

log = logging.getLogger(__name__)

_NUMBER = struct.Struct("=I")

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


def ended(
    calls: Sequence[Callable[[], object]],
    patience_seconds: float,
    name: str | None = None,
    hang: Callable[[int, Collection[int]], bool] | None = None,
) -> set[int]:
    """Make all calls at once, in threads of one child; the numbers of those that end, or fail.

    Until for ``patience_seconds`` none does: what hangs by then is left behind with the child. What
    is left has as much time again as long as ``hang``, asked about the child and that, says that it
    does not. They have nothing open but what they open themselves: no lock of ours is held by one
    that is left, nobody who reads our output waits for it, and it stands in nobody's file system.
    ``name`` is what the child is called, by which others know it.
    """
    if not calls:
        return set()
    found: set[int] = set()
    reading, writing = os.pipe2(os.O_CLOEXEC)
    with deferred():
        pid = os.fork()
        if not pid:
            _make_all(calls, writing, name)
    os.close(writing)
    try:
        while len(found) < len(calls):
            if not select.select([reading], [], [], patience_seconds)[0]:
                if hang is None or hang(pid, set(range(len(calls))) - found):
                    break
                continue
            piece = os.read(reading, _NUMBER.size)  # each is written as a whole
            if not piece:
                break
            found.add(_NUMBER.unpack(piece)[0])
    finally:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)
        # One that waits for a device cannot be ended: it is reaped by whoever reaps what we leave.
        os.waitpid(pid, os.WNOHANG if len(found) < len(calls) else 0)
    return found


def _make_all(calls: Sequence[Callable[[], object]], writing: int, name: str | None) -> None:
    """The child. Does not return."""
    try:
        _let_go_of_all(writing)
        if name is not None:
            asker.take_name(name)
        threads = [
            threading.Thread(target=_make, args=(call, number, writing), daemon=True)
            for number, call in enumerate(calls)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        os._exit(0)


def _let_go_of_all(kept: int) -> None:
    """A descriptor that is inherited holds what it is of, such as flock(2)'s locks, until the last
    process that has it is gone.
    """
    os.chdir("/")
    os.closerange(0, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
    for _ in {0, 1, 2} - {kept}:
        os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def _make(call: Callable[[], object], number: int, writing: int) -> None:
    with suppress(Exception):
        call()
    with suppress(OSError):
        os.write(writing, _NUMBER.pack(number))
