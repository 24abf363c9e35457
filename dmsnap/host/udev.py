"""udev and the kernel's own uevents."""

import re
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dmsnap.host.run import run
from dmsnap.host.sysfs import SYSFS, format_devno

if TYPE_CHECKING:
    import pyudev

CONTROL_SOCKET = Path("/run/udev/control")
DATABASE = Path("/run/udev/data")
RULES = Path("/etc/udev/rules.d")
RUNTIME_RULES = Path("/run/udev/rules.d")  # gone after a boot


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


def has_property(devno: int, line: str, *, database: Path = DATABASE) -> bool:
    """Whether udev's rules have set a property of a block device: ``NAME=VALUE``."""
    try:
        text = (database / f"b{format_devno(devno)}").read_bytes().decode(errors="replace")
    except OSError:
        return False
    return f"E:{line}" in text.split("\n")


def wait_for_uevent(
    done: Callable[[], bool], deadline_seconds: float, *, source: str = "kernel"
) -> bool:
    """Wait until ``done()``, asked anew after every block uevent; False: not before the deadline.

    Listens to the kernel's broadcast and therefore needs no udevd; with ``source`` "udev" to what
    udevd says when it has handled an event.
    """
    monitor = _listening(["block"], source)
    ends = time.monotonic() + deadline_seconds
    while not done():
        remaining = ends - time.monotonic()
        if remaining <= 0:
            return False
        monitor.poll(timeout=remaining)
    return True


def wait_for_nodes(paths: Collection[Path], deadline_seconds: float) -> list[Path]:
    """Wait until all of ``paths`` exist; returns those that still do not at the deadline.

    Where udevd runs its own announcements are listened to: it makes the links.
    """

    def missing() -> list[Path]:
        return [path for path in paths if not path.exists()]

    source = "udev" if is_running() else "kernel"
    wait_for_uevent(lambda: not missing(), deadline_seconds, source=source)
    return missing()


def reload_rules() -> None:
    """Have udevd read its rules again; nothing happens where it does not run."""
    if is_running():
        run("udevadm", "control", "--reload")


def look_again(devices: Collection[Path]) -> None:
    """Have udevd apply its rules to devices once more, and wait until it has: to the partitions of
    disks as well, which are marked as those are.
    """
    if is_running() and devices:
        looked = [each for device in devices for each in (device, *_partitions(device))]
        names = [f"--name-match={device}" for device in looked]
        run("udevadm", "trigger", "--action=change", "--settle", *names)


def _partitions(device: Path) -> list[Path]:
    with suppress(FileNotFoundError):
        return [SYSFS.device_path(each) for each in SYSFS.partitions(device.stat().st_rdev)]
    return []


def pattern(link: str) -> str:
    """A pattern of udev's for a link or a file name: what could have a meaning stands for itself.

    fnmatch(3) and "|" in match keys of udev(7).
    """
    return re.sub(r"[^A-Za-z0-9_./:+@=,-]", "?", link)


@dataclass(frozen=True, slots=True)
class Uevents:
    """The kernel's announcements of some subsystems. Made by :func:`uevents`."""

    monitor: "pyudev.Monitor"

    @property
    def descriptor(self) -> int:
        """Readable when there is one."""
        return int(self.monitor.fileno())

    def drain(self) -> int:
        """Take what has come; returns how many. Never waits."""
        return sum(1 for _ in iter(partial(self.monitor.poll, 0), None))


def uevents(subsystems: Collection[str]) -> Uevents:
    """Listen to the kernel, from now on; needs no udevd."""
    return Uevents(_listening(subsystems, "kernel"))


def _listening(subsystems: Collection[str], source: str) -> "pyudev.Monitor":
    # Imported by who waits for something: it takes a tenth of a command's start.
    import pyudev

    monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source=source)
    for subsystem in subsystems:
        monitor.filter_by(subsystem)
    monitor.start()
    return monitor
