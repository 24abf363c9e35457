"""The running kernel and host. Needs no privileges."""

import os
import re
from pathlib import Path

from dmsnap.errors import OperatingSystemError
from dmsnap.host.mountinfo import PROC
from dmsnap.host.system_call import system_call


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


def host_name() -> str:
    return os.uname().nodename
