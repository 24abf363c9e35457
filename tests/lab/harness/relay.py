"""Between the guest's channel and the runner's own stdin and stdout."""

import contextlib
import os
import selectors
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness.machine import Machine

BEGIN = b"\x1elab: COMMAND begins\n"
"""What the guest sends before COMMAND's output; whatever comes earlier is not COMMAND's."""

CHUNK_BYTES = 1 << 16
POLL_SECONDS = 0.5
GRACE_SECONDS = 15  # for a guest that has reported its status and does not power off


class TimedOutError(Exception):
    """The guest ran longer than it was allowed to."""


@dataclass(slots=True)
class Relay:
    """Streams the guest's output until it ends. `begun` is called when COMMAND begins."""

    machine: Machine
    begun: Callable[[], None]
    _waiting: bytes | None = b""

    def run(self, deadline: float, *, with_input: bool) -> None:
        """Relay until the guest is gone; raise TimedOutError at `deadline` (of time.monotonic)."""
        channel = self.machine.channel
        reported: float | None = None
        with selectors.DefaultSelector() as selector:
            selector.register(channel, selectors.EVENT_READ)
            if with_input:
                selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
            while True:
                for key, _events in selector.select(POLL_SECONDS):
                    if key.fileobj is channel:
                        if not self._forward_output():
                            return
                    elif not self._forward_input():
                        selector.unregister(key.fileobj)
                now = time.monotonic()
                if reported is None and self.machine.status() is not None:
                    reported = now
                if reported is not None and now > reported + GRACE_SECONDS:
                    return
                if now > deadline:
                    raise TimedOutError

    def _forward_output(self) -> bool:
        try:
            data = self.machine.channel.recv(CHUNK_BYTES)
        except ConnectionError:
            return False
        if self._waiting is not None:
            before, begin, after = (self._waiting + data).partition(BEGIN)
            self._waiting = None if begin else before
            if begin:
                self.begun()
            write_all(sys.stdout.fileno(), after)
        else:
            write_all(sys.stdout.fileno(), data)
        return bool(data)

    def _forward_input(self) -> bool:
        data = os.read(sys.stdin.fileno(), CHUNK_BYTES)
        with contextlib.suppress(ConnectionError):
            self.machine.channel.sendall(data)
        return bool(data)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`."""
    while data:
        data = data[os.write(descriptor, data) :]


@contextlib.contextmanager
def raw_terminal() -> Iterator[None]:
    """Hand every key to the guest, if stdin is a terminal; give the terminal back as it was."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setraw(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
