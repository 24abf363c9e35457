"""Signals: one ends the work, a second does not disturb the undo."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from dmsnap.errors import InterruptedBySignal
from dmsnap.host.signals import SIGNALS, block, conclude, held_back, interruptible


def raise_signal(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_first_signal_raises(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(InterruptedBySignal) as caught, interruptible():
        raise_signal(number)
    assert caught.value.signal_number == number
    assert [signal.getsignal(each) for each in SIGNALS] == before


def work_and_undo(undone: list[bool]) -> None:
    with interruptible():
        try:
            raise_signal(signal.SIGINT)
        finally:
            raise_signal(signal.SIGINT)
            raise_signal(signal.SIGTERM)
            undone.append(True)


def nested_work_and_undo(undone: list[bool]) -> None:
    with interruptible():
        try:
            with interruptible():
                raise_signal(signal.SIGTERM)
        finally:
            with interruptible():
                raise_signal(signal.SIGTERM)
            undone.append(True)


@pytest.mark.parametrize("work", [work_and_undo, nested_work_and_undo])
def test_second_signal_does_not_disturb_the_undo(work: Callable[[list[bool]], None]) -> None:
    undone: list[bool] = []
    with pytest.raises(InterruptedBySignal):
        work(undone)
    assert undone == [True]


def test_handlers_are_restored_without_a_signal() -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    with interruptible():
        assert [signal.getsignal(each) for each in SIGNALS] != before
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_other_threads_change_nothing() -> None:
    seen: list[object] = []

    def work() -> None:
        with interruptible():
            seen.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def hold_back(reached: list[str]) -> None:
    with interruptible():
        with held_back():
            raise_signal(signal.SIGTERM)
            reached.append("inside")
        reached.append("after")


def test_held_back_until_the_end_of_the_block() -> None:
    reached: list[str] = []
    with pytest.raises(InterruptedBySignal):
        hold_back(reached)
    assert reached == ["inside"]


def signalled_while_held_back(depth: int, finished: list[bool]) -> None:
    with interruptible(), ExitStack() as blocks:
        for _ in range(depth):
            blocks.enter_context(held_back())
        with held_back():
            raise_signal(signal.SIGTERM)
            time.sleep(0.05)
        finished.append(True)


@pytest.mark.parametrize("depth", [1, 2])
def test_held_back_when_another_thread_takes_the_signal(depth: int) -> None:
    """It has it not blocked, so the kernel gives it to that one, and Python's handler runs here."""
    over = threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()
    finished: list[bool] = []
    try:
        with pytest.raises(InterruptedBySignal):
            signalled_while_held_back(depth, finished)
    finally:
        over.set()
        other.join()
    assert finished == [True]


def test_what_is_done_is_not_ended_by_a_signal() -> None:
    went_on = []
    with interruptible():
        conclude()
        raise_signal(signal.SIGINT)
        went_on.append(1)
    with interruptible():  # nothing is left of it
        went_on.append(2)
    assert went_on == [1, 2]


def done_and_begun_anew(went_on: list[int]) -> None:
    with interruptible():
        with interruptible():
            conclude()
        raise_signal(signal.SIGTERM)
        went_on.append(1)
        try:
            with interruptible():
                went_on.append(2)
        finally:
            raise_signal(signal.SIGTERM)  # during the undo
            went_on.append(3)


def test_what_came_too_late_ends_what_is_begun_in_the_same_block() -> None:
    went_on: list[int] = []
    with pytest.raises(InterruptedBySignal) as caught:
        done_and_begun_anew(went_on)
    assert caught.value.signal_number == signal.SIGTERM
    assert went_on == [1, 3]


def caught_and_handed_on() -> None:
    with interruptible():
        try:
            raise_signal(signal.SIGINT)
        except InterruptedBySignal as signalled:
            conclude(signalled.signal_number)
        with interruptible():
            pass


def test_a_signal_that_was_caught_is_handed_on() -> None:
    with pytest.raises(InterruptedBySignal):
        caught_and_handed_on()


def work_behind_a_block() -> None:
    with interruptible():
        with interruptible():
            pass
        raise_signal(signal.SIGINT)


def test_a_block_within_what_is_not_done_goes_on() -> None:
    with pytest.raises(InterruptedBySignal):
        work_behind_a_block()


def test_what_is_blocked_raises_in_the_block_and_is_blocked_again_behind_it() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    block()
    try:
        signal.raise_signal(signal.SIGTERM)  # to this thread: others of the tests block nothing
        with pytest.raises(InterruptedBySignal), interruptible():
            pytest.fail("the signal was lost")
        assert set(SIGNALS) <= signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
