"""Failing the I/O of a dm device: what is dead is not waited for. Root."""

import errno
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dmsnap.errors import BusyError, DeadlineError, OperatingSystemError
from dmsnap.host.dm.device import (
    clear,
    existing,
    go_on_with,
    load,
    noted,
    resume,
    suspend,
    table,
)
from dmsnap.host.dm.target import Error, Table, single
from dmsnap.host.signals import deferred
from dmsnap.host.sysfs import SYSFS

_AGAIN_SECONDS = 0.05


def is_failed(name: str) -> bool:
    """Whether a device is nothing but the target ``error``."""
    return [line.target for line in table(name)] == [Error()]


def fail(name: str, deadline_seconds: float) -> None:
    """Have all I/O to a device fail at once, under whoever has it open.

    ``DeadlineError`` when what was given to the device below does not come back: dm waits for it
    even without a flush (dm_wait_for_bios_completion), and nobody above can take it back. The
    device goes on as it was then.
    """
    state, before = existing(name), table(name)
    try:
        load(name, _failing(before))
        with _interrupted_after(deadline_seconds):
            suspend(name, flush=False, freeze=False)
        resume(name)
    except BaseException as error:
        # A signal, too, raises in the midst of this: who waits may well be told to stop.
        with deferred(), noted(error, f"resuming {name}"):
            go_on_with(name, before, read_only=state.read_only)
        if not isinstance(error, OperatingSystemError) or error.fields.get("errnum") != errno.EINTR:
            raise
        count = SYSFS.in_flight(state.devno)
        raise DeadlineError(
            f"{count} requests that {name} gave to the device below have not come back for "
            f"{deadline_seconds:g} s",
            device=name,
        ) from error


def _failing(now: Table) -> Table:
    return single(sum(line.length_bytes for line in now), Error())


@contextmanager
def failing(name: str) -> Iterator[None]:
    """Fail what waits for a suspended device and what comes in the block; then it is as it was.

    After the block it is suspended, and its table is the one that its owner's resume makes live;
    that does so, too, when we are killed within it.
    Raises ``BusyError`` when its owner has loaded another one.
    """
    state, before = existing(name), table(name)
    if state.inactive_table:
        raise BusyError(f"{name} is suspended, and somebody is about to change its table")
    try:
        load(name, _failing(before))
        resume(name)
        load(name, before)
        yield
    finally:
        with deferred():
            _as_it_was(name, before)


def _as_it_was(name: str, before: Table) -> None:
    if is_failed(name):
        suspend(name, flush=False, freeze=False)
        load(name, before)
    elif existing(name).inactive_table:
        clear(name)  # it was not resumed with that


@contextmanager
def _interrupted_after(seconds: float) -> Iterator[None]:
    """A system call of the block that sleeps interruptibly fails with EINTR after that time.

    The signal comes again and again, lest the first one came before the call. Outside the main
    thread, where Python handles no signals, the block waits as long as it takes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, lambda _number, _frame: None)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, _AGAIN_SECONDS), _AGAIN_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if before is None else before)
