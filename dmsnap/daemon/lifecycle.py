"""From READY to STOPPING: duties run until a signal ends them, and systemd is told of both."""

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from dmsnap.host.notification import Notifier
from dmsnap.host.signals import SIGNALS

log = logging.getLogger(__name__)

# A duty runs until it is cancelled; one that ends, or fails, ends the service.
Duty = Callable[[], Coroutine[Any, Any, None]]


async def serve(duties: Sequence[Duty], notifier: Notifier, status: str) -> None:
    """Run the duties until SIGTERM or SIGINT. Raises what a duty failed of.

    The sign of life comes from the loop that the duties run in: while one of them keeps it from
    turning there is none. What may block (a disk, a lock) is therefore done in threads.
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in SIGNALS:
        loop.add_signal_handler(number, _end, ended, number)
    all_duties: list[Duty] = [*duties, partial(_live, notifier)]
    running = [loop.create_task(duty()) for duty in all_duties]
    waiting = loop.create_task(ended.wait())
    notifier.ready(status)
    try:
        await asyncio.wait([*running, waiting], return_when=asyncio.FIRST_COMPLETED)
    finally:
        notifier.stopping("ending")
        await _cancel([*running, waiting])
    for duty in running:
        if not duty.cancelled():
            duty.result()


def _end(ended: asyncio.Event, number: int) -> None:
    log.info("%s: ending", signal.Signals(number).name)
    ended.set()


async def _cancel(tasks: Sequence[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _live(notifier: Notifier) -> None:
    """Twice in the time that systemd waits, as sd_watchdog_enabled(3) has it."""
    while True:
        notifier.alive()
        await asyncio.sleep((notifier.watchdog_seconds or 3600) / 2)
