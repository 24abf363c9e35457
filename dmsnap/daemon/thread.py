"""Threads for what may hang: one for each call, so that what hangs keeps nothing else waiting.

asyncio.to_thread has a few threads for all: as many disks that are dead would take them up. And at
the end of the process it waits for them.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

Result = TypeVar("Result")


def in_own_thread(function: Callable[[], Result]) -> "asyncio.Future[Result]":
    """Call ``function`` in a thread of its own; who is cancelled leaves it behind."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def call() -> None:
        try:
            result = function()
        except BaseException as error:
            answer(_fail, error)
        else:
            answer(_succeed, result)

    def answer(settle: Callable[..., None], value: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, future, value)

    threading.Thread(target=call, daemon=True).start()
    return future


def _succeed(future: "asyncio.Future[Result]", result: Result) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: "asyncio.Future[Result]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
