"""The service from READY to STOPPING, with a socket in systemd's place."""

import asyncio
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from dmsnap.daemon import lifecycle
from dmsnap.errors import DeadlineError
from dmsnap.host.notification import Notifier


class Systemd:
    """The receiving end."""

    def __init__(self, directory: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(str(directory / "notify"))
        self.notifier = Notifier(str(directory / "notify"), watchdog_seconds=0.02)

    def told(self) -> list[str]:
        lines = []
        while True:
            try:
                lines.append(self.socket.recv(4096).decode().split("\n")[0])
            except BlockingIOError:
                return lines


@pytest.fixture
def systemd(tmp_path: Path) -> Systemd:
    return Systemd(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(systemd: Systemd, number: signal.Signals) -> None:
    ended = []

    told: list[str] = []

    async def duty() -> None:
        try:
            for _ in range(10):  # the queue is short
                await asyncio.sleep(0.01)
                told.extend(systemd.told())
            os.kill(os.getpid(), number)
            await asyncio.sleep(60)
        finally:
            ended.append("duty")

    asyncio.run(lifecycle.serve([duty], systemd.notifier, "watching"))
    told += systemd.told()
    assert ended == ["duty"]
    assert (told[0], told[-1]) == ("READY=1", "STOPPING=1")
    assert told.count("WATCHDOG=1") >= 4


def test_a_duty_that_fails_ends_it(systemd: Systemd) -> None:
    async def duty() -> None:
        raise DeadlineError("too late")

    with pytest.raises(DeadlineError):
        asyncio.run(lifecycle.serve([duty], systemd.notifier, "watching"))
    assert systemd.told()[-1] == "STOPPING=1"


def test_no_sign_of_life_while_the_loop_stands(systemd: Systemd) -> None:
    async def duty() -> None:
        await asyncio.sleep(0.05)
        systemd.told()
        time.sleep(0.2)  # what a duty must not do
        assert systemd.told() == []
        os.kill(os.getpid(), signal.SIGTERM)

    asyncio.run(lifecycle.serve([duty], systemd.notifier, "watching"))
