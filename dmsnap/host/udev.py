"""udev and the kernel's own uevents."""

import time
from collections.abc import Callable
from pathlib import Path

import pyudev

from dmsnap.host.run import run

CONTROL_SOCKET = Path("/run/udev/control")


def is_running() -> bool:
    """Whether a udevd answers: the question libudev asks (``udev_queue_get_udev_is_active``)."""
    return CONTROL_SOCKET.exists()


def settle(deadline_seconds: float = 30) -> None:
    """Wait until udev has handled every event so far; at once where it does not run.

    Raises ``ProgramError`` when it has not within ``deadline_seconds``.
    """
    if is_running():
        seconds = max(1, round(deadline_seconds))
        run("udevadm", "settle", f"--timeout={seconds}", timeout_seconds=seconds + 5)


def wait_for_uevent(done: Callable[[], bool], deadline_seconds: float) -> bool:
    """Wait until ``done()``, asked anew after every block uevent; False: not before the deadline.

    Listens to the kernel's broadcast and therefore needs no udevd.
    """
    monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="kernel")
    monitor.filter_by("block")
    monitor.start()
    ends = time.monotonic() + deadline_seconds
    while not done():
        remaining = ends - time.monotonic()
        if remaining <= 0:
            return False
        monitor.poll(timeout=remaining)
    return True
