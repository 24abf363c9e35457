"""The running kernel and host. Needs no privileges."""

import os
import re
from pathlib import Path
from uuid import UUID

from dmsnap.errors import OperatingSystemError
from dmsnap.host.mountinfo import PROC
from dmsnap.host.system_call import system_call

MACHINE_ID = Path("/etc/machine-id")


def parse_release(release: str) -> tuple[int, int]:
    """``6.1.176-amd64`` is (6, 1)."""
    match = re.match(r"(\d+)\.(\d+)", release)
    if match is None:
        raise OperatingSystemError(f"the kernel calls its release {release!r}, which has no number")
    return int(match[1]), int(match[2])


def version() -> tuple[int, int]:
    """Version and patch level, to be compared: ``version() >= (5, 12)``."""
    return parse_release(os.uname().release)


def boot_id(*, proc: Path = PROC) -> str:
    """A UUID that is new at each boot: what was recorded under another is of before a reboot."""
    path = proc / "sys" / "kernel" / "random" / "boot_id"
    with system_call(f"read {path}"):
        return path.read_text().strip()


def machine_id() -> UUID | None:
    """What this installation is known by (machine-id(5)); None where it has none yet."""
    return machine_id_in(MACHINE_ID)


def machine_id_in(path: Path) -> UUID | None:
    """The id in a file; None where there is none, or no file."""
    try:
        return UUID(path.read_text().strip())
    except (OSError, ValueError):  # none, or "uninitialized"
        return None


def host_name() -> str:
    return os.uname().nodename
