"""SIGINT and SIGTERM: one of them ends the work in good order, further ones change nothing."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from dmsnap.errors import InterruptedBySignal

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _RaiseOnce:
    """The handler: raises at the first signal; what comes during the undo is dropped."""

    def __init__(self) -> None:
        self._raised = False
        self._done = False  # what comes is too late for what was begun in the block
        self._late: int | None = None  # what came then: it ends what would be next
        self._deferring = 0  # how many blocks deep
        self._pending: int | None = None

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if self._done:
            self._late = number
            return
        if self._raised:
            return
        if self._deferring:
            self._pending = number
            return
        self._raised = True
        raise InterruptedBySignal(number)

    def conclude(self, number: int | None) -> None:
        self._raised, self._done = False, True
        if number is not None:
            self._late = number

    def begin_anew(self) -> None:
        number, self._late, self._done = self._late, None, False
        if number is not None:
            self._raised = True
            raise InterruptedBySignal(number)

    @contextmanager
    def deferring(self) -> Iterator[None]:
        """Raise at the end of the block instead of within."""
        self._deferring += 1
        try:
            yield
        finally:
            self._deferring -= 1
            if self._pending is not None and not self._deferring:
                number, self._pending = self._pending, None
                self(number, None)


def block() -> None:
    """Keep SIGINT and SIGTERM for :func:`interruptible` blocks, in the main thread.

    What comes behind the last of them comes too late: the process ends as it would have.
    """
    if threading.current_thread() is threading.main_thread():
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


@contextmanager
def interruptible() -> Iterator[None]:
    """In the block, the first SIGINT or SIGTERM raises ``InterruptedBySignal`` in the main thread.

    Any later one is held back, so that undo runs to its end; afterwards the handlers are as they
    were, and what was :func:`blocked <block>` before is blocked again. Outside the main thread it
    changes nothing, nor inside another such block, but that one that came :func:`too late
    <conclude>` for what was before raises here.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if _handler() is not None:
        begin_anew()
        yield
        return
    handler = _RaiseOnce()
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, former in before.items():
            # None: a handler that was not set by Python cannot be set again from here.
            signal.signal(number, signal.SIG_DFL if former is None else former)


def conclude(number: int | None = None) -> None:
    """What was begun in the ``interruptible`` block is done: no signal takes anything away from it.

    One that comes from now on, or came as ``number``, ends what would begin next: a block within
    the outermost one. When that one ends, there is nothing left to end.
    """
    handler = _handler()
    if handler is not None:
        handler.conclude(number)


def begin_anew() -> None:
    """There is something to end again: raise what came :func:`too late <conclude>` before."""
    handler = _handler()
    if handler is not None:
        handler.begin_anew()


def _handler() -> _RaiseOnce | None:
    """That of the ``interruptible`` block around us; a thread has none."""
    if threading.current_thread() is not threading.main_thread():
        return None
    handler = signal.getsignal(signal.SIGINT)
    return handler if isinstance(handler, _RaiseOnce) else None


@contextmanager
def deferred() -> Iterator[None]:
    """What arrives in the block raises at its end. Unlike ``held_back``, a program that is started
    in it has nothing blocked, which it would inherit.
    """
    handler = _handler()
    if handler is not None:
        with handler.deferring():
            yield
    else:
        yield


@contextmanager
def held_back() -> Iterator[None]:
    """Block SIGINT and SIGTERM in this thread; what arrives is delivered at the end of the block.

    For the few lines that must not be torn apart, such as a suspend and the note of its undo. Where
    another thread takes the signal, which has it not blocked, the handler runs here all the same:
    it waits for the end of the block, too.
    """
    with deferred():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
