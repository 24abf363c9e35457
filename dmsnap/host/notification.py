"""What a service tells systemd of itself: sd_notify(3), a datagram of lines.

Not by libsystemd's Python module: to build it, every host would need libsystemd's headers, for the
one function that its manual page lets anybody write ("Standalone Implementations").
"""

import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

log = logging.getLogger(__name__)

SOCKET_VARIABLE = "NOTIFY_SOCKET"
WATCHDOG_VARIABLE = "WATCHDOG_USEC"
WATCHDOG_PID_VARIABLE = "WATCHDOG_PID"


@dataclass(frozen=True, slots=True)
class Notifier:
    """The way to who started us. ``watchdog_seconds``: how long it waits for a sign of life.

    Outside of systemd both are None, and what is told goes nowhere.
    """

    address: str | None = None
    watchdog_seconds: float | None = None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """As the environment of a process says; a watchdog that is another process's is none."""
        microseconds = environment.get(WATCHDOG_VARIABLE, "")
        meant = environment.get(WATCHDOG_PID_VARIABLE, str(os.getpid())) == str(os.getpid())
        seconds = int(microseconds) / 1e6 if meant and microseconds.isdecimal() else None
        return cls(environment.get(SOCKET_VARIABLE) or None, seconds)

    def ready(self, status: str) -> None:
        self._tell(f"READY=1\nSTATUS={_line(status)}")

    def status(self, status: str) -> None:
        self._tell(f"STATUS={_line(status)}")

    def alive(self) -> None:
        self._tell("WATCHDOG=1")

    def stopping(self, status: str) -> None:
        self._tell(f"STOPPING=1\nSTATUS={_line(status)}")

    def _tell(self, lines: str) -> None:
        """Nothing that is told is worth failing for: systemd may be starting anew."""
        if self.address is None:
            return
        # "@" stands for the zero byte of an abstract address (unix(7)).
        address = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                # Ten wait in the queue at most (net.unix.max_dgram_qlen): a systemd that hangs must
                # not have us hang.
                sender.sendto(lines.encode(), socket.MSG_DONTWAIT, address)
        except OSError as error:
            log.debug("systemd could not be told: %s", error)


def _line(text: str) -> str:
    return " ".join(text.split())
