"""What wakes the service, with pipes in the place of the kernel's descriptors."""

import asyncio
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import fake_clock
import pytest

from dmsnap.daemon import announcements
from dmsnap.host import udev
from dmsnap.host.dm import event


class Kernel:
    """Both of its descriptors. What is announced can be read until it is taken."""

    def __init__(self) -> None:
        self.descriptor, self._writer = os.pipe()
        self.taken = 0
        self.failure: OSError | None = None

    def announce(self) -> None:
        os.write(self._writer, b"!")

    def arm(self) -> None:
        os.read(self.descriptor, 1)
        self.taken += 1

    def drain(self) -> int:
        self.arm()
        if self.failure:
            raise self.failure
        return 1

    def close(self) -> None:
        os.close(self._writer)
        os.close(self.descriptor)


@pytest.fixture
def dm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    found = Kernel()

    @contextmanager
    def event_poll() -> Iterator[Kernel]:
        yield found

    monkeypatch.setattr(event, "event_poll", event_poll)
    yield found
    found.close()


@pytest.fixture
def uevents(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    found = Kernel()
    asked: list[object] = []

    def listening(subsystems: object) -> Kernel:
        asked.append(subsystems)
        return found

    monkeypatch.setattr(udev, "uevents", listening)
    yield found
    assert asked == [("block", "iscsi_session", "iscsi_connection")]
    found.close()


async def wakes(kernel: Kernel, woken: list[asyncio.Event]) -> None:
    """An announcement wakes everybody, and is taken once."""
    taken = kernel.taken
    kernel.announce()
    for each in woken:
        await asyncio.wait_for(each.wait(), 60)
        each.clear()
    assert kernel.taken == taken + 1


def test_each_of_both_wakes_everybody(dm: Kernel, uevents: Kernel) -> None:
    async def scene() -> None:
        woken = [asyncio.Event(), asyncio.Event()]
        listening = asyncio.create_task(announcements.listen(woken))
        await asyncio.sleep(0)
        for kernel in (dm, uevents, dm, uevents):
            await wakes(kernel, woken)
        # Some were lost, the kernel says: there were some.
        uevents.failure = OSError(errno.ENOBUFS, "No buffer space available")
        await wakes(uevents, woken)
        assert not any(each.is_set() for each in woken)
        listening.cancel()
        await asyncio.wait([listening])
        loop = asyncio.get_running_loop()
        assert not loop.remove_reader(dm.descriptor)
        assert not loop.remove_reader(uevents.descriptor)

    asyncio.run(scene())


@pytest.mark.parametrize("turns", range(5))
def test_who_is_cancelled_while_it_is_woken_ends(turns: int) -> None:
    """However many turns of the loop lie between both: a duty that goes on is never ended."""

    async def duty(event: asyncio.Event) -> None:
        while True:
            await announcements.awaited(event, 60)
            event.clear()

    async def scene() -> None:
        event = asyncio.Event()
        running = asyncio.create_task(duty(event))
        await asyncio.sleep(0.01)
        event.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running], timeout=1)
        assert running.cancelled()

    asyncio.run(scene())


def test_what_does_not_come_is_waited_for_so_long() -> None:
    async def scene() -> None:
        event = asyncio.Event()
        began = asyncio.get_running_loop().time()
        assert not await announcements.awaited(event, 90)
        assert asyncio.get_running_loop().time() == pytest.approx(began + 90)
        event.set()
        assert await announcements.awaited(event, None)

    fake_clock.run(scene())
