"""Ending processes: those that keep something busy, or one that works on something. Root.

A process is known by a pidfd from before it is looked at until after it is signalled: its number
may be another process's in the next moment.
"""

import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dmsnap.errors import DeadlineError
from dmsnap.host.mountinfo import PROC
from dmsnap.host.process import ProcessUse

Users = Callable[[], Sequence[ProcessUse]]


def end(users: Users, grace_seconds: float) -> list[ProcessUse]:
    """Send SIGTERM to all of ``users``, and SIGKILL to those left after the grace; returns them.

    Neither we nor those who started us are among them: they stay, and are named by who fails next.
    """
    ended: dict[int, ProcessUse] = {}
    for number in (signal.SIGTERM, signal.SIGKILL):
        with _held(users) as held:
            for use, pidfd in held.items():
                _send(pidfd, number)
                ended[use.pid] = use
            if not held or _all_ended(list(held.values()), grace_seconds):
                break
    return list(ended.values())


def staying(users: Users, wait_seconds: float) -> list[ProcessUse]:
    """Those of ``users`` who are left once they have had the time to end; none of them is told to.

    Who lets go without ending is waited for as long as it may take.
    """
    with ExitStack() as opened:
        pidfds = []
        for use in users():
            pidfd = _open(use.pid)
            if pidfd is not None:
                opened.callback(os.close, pidfd)
                pidfds.append(pidfd)
        if pidfds:
            _all_ended(pidfds, wait_seconds)
    return list(users())


def terminate(pid: int, is_meant: Callable[[], bool], wait_seconds: float) -> None:
    """Send SIGTERM to a process and wait for its end; nothing happens when it has ended already.

    ``is_meant`` is asked once the process is held. Raises :class:`DeadlineError` when it lives on.
    """
    with _held_one(pid) as pidfd:
        if pidfd is None or not is_meant():
            return
        _send(pidfd, signal.SIGTERM)
        if not _all_ended([pidfd], wait_seconds):
            raise DeadlineError(
                f"process {pid} was asked to end and has not within {wait_seconds:g} s", pid=pid
            )


def force(
    pid: int, is_meant: Callable[[], bool], grace_seconds: float, wait_seconds: float
) -> None:
    """As :func:`terminate`, and after the grace SIGKILL.

    ``is_meant`` is asked before each of the two: who is through by then is left alone. Raises
    :class:`DeadlineError` when it lives on: it waits in the kernel where no signal reaches it.
    """
    with _held_one(pid) as pidfd:
        if pidfd is None:
            return
        for number, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, wait_seconds)):
            if not is_meant():
                return
            _send(pidfd, number)
            if _all_ended([pidfd], seconds):
                return
    raise DeadlineError(
        f"process {pid} was killed, and waits in the kernel, where it has not ended within "
        f"{wait_seconds:g} s",
        pid=pid,
    )


@contextmanager
def _held_one(pid: int) -> Iterator[int | None]:
    """A pidfd; None for a process that has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield pidfd
    finally:
        os.close(pidfd)


@contextmanager
def _held(users: Users) -> Iterator[dict[ProcessUse, int]]:
    """A pidfd for each process that is among the users while it is held, and lives."""
    spared = ancestors(os.getpid())
    with ExitStack() as opened:
        pidfds: dict[int, int] = {}
        for use in users():
            pidfd = None if use.pid in spared else _open(use.pid)
            if pidfd is not None:
                opened.callback(os.close, pidfd)
                pidfds[use.pid] = pidfd
        # Looked at again now that they are held: who still lives after that was looked at.
        again = [use for use in users() if use.pid in pidfds] if pidfds else []
        yield {use: pidfds[use.pid] for use in again if not _has_ended(pidfds[use.pid])}


def _open(pid: int) -> int | None:
    """None: it is gone, or a thread and no process."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _send(pidfd: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return


def _has_ended(pidfd: int) -> bool:
    return _all_ended([pidfd], 0)


def _all_ended(pidfds: Sequence[int], seconds: float) -> bool:
    """A pidfd becomes readable when its process ends (pidfd_open(2))."""
    poll = select.poll()
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    left, ends = len(pidfds), time.monotonic() + seconds
    while left:
        ready = poll.poll(max(0.0, 1000 * (ends - time.monotonic())))
        if not ready:
            return False
        for pidfd, _ in ready:
            poll.unregister(pidfd)
        left -= len(ready)
    return True


def ancestors(pid: int, *, proc: Path = PROC) -> set[int]:
    """A process, who started it, and so on: up to init."""
    found: set[int] = set()
    while pid and pid not in found:
        found.add(pid)
        pid = _parent(pid, proc)
    return found | {1}


def _parent(pid: int, proc: Path) -> int:
    """The fourth field of stat; the second, the command in parentheses, may hold anything."""
    try:
        text = (proc / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[1])
