"""The kernel's announcements: each wakes everybody who waits for one."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import ExitStack

from dmsnap.host import udev
from dmsnap.host.dm import event
from dmsnap.host.dm.event import EventPoll
from dmsnap.host.udev import Uevents

log = logging.getLogger(__name__)

# Disks and dm devices that come, go or change; sessions to targets.
SUBSYSTEMS = ("block", "iscsi_session", "iscsi_connection")


async def listen(woken: Sequence[asyncio.Event]) -> None:
    """Wait for events of dm devices and for uevents until it is cancelled. Never polls."""
    loop = asyncio.get_running_loop()
    with ExitStack() as opened:
        events = opened.enter_context(event.event_poll())
        announced = udev.uevents(SUBSYSTEMS)
        for descriptor, take in (
            (events.descriptor, lambda: _of_dm(events, woken)),
            (announced.descriptor, lambda: _of_kernel(announced, woken)),
        ):
            loop.add_reader(descriptor, take)
            opened.callback(loop.remove_reader, descriptor)
        await asyncio.Event().wait()


async def awaited(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait for an event, at most so long, or for ever; False: it did not come.

    Before Python 3.12 asyncio.wait_for loses a cancellation that comes together with what it waits
    for (python/cpython#86296): its task goes on, and whoever ends all tasks waits for that one.
    """
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


def _of_dm(events: EventPoll, woken: Sequence[asyncio.Event]) -> None:
    events.arm()
    _wake(woken)


def _of_kernel(announced: Uevents, woken: Sequence[asyncio.Event]) -> None:
    try:
        announced.drain()
    except OSError as error:  # ENOBUFS: some were lost, which says that there were some
        log.debug("uevents were lost: %s", error)
    _wake(woken)


def _wake(woken: Sequence[asyncio.Event]) -> None:
    for each in woken:
        each.set()
