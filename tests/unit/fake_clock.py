"""An event loop on a fake clock: where nothing is left but to wait, the wait is over at once.

What a duty does by itself in an hour is seen in a moment. Nothing may be done in threads meanwhile:
the clock does not wait for them.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any


class _Selector(selectors.SelectSelector):
    """Waits for nothing; by how long it was to wait the clock goes on."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nothing would ever happen any more"
        self.now += timeout
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._fake = _Selector()
        super().__init__(self._fake)

    def time(self) -> float:
        return self._fake.now


def run(scene: Coroutine[Any, Any, None]) -> None:
    """Run it to its end; its loop's ``time()`` begins with 0."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(scene)


def at_once(function: Callable[[], Any]) -> "asyncio.Future[Any]":
    """In the place of what calls ``function`` in a thread."""
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    done.set_result(function())
    return done
