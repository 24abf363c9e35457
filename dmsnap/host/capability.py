"""What the running kernel can do, found out without changing it. Needs no privileges."""

import ctypes
import errno
import os
from pathlib import Path

MODULES = Path("/lib/modules")

# The same number on every architecture that dmsnap builds for (asm-generic/unistd.h).
_NR_IO_URING_SETUP = 425
_IO_URING_PARAMS_BYTES = 120


def has_module(name: str, *, modules: Path = MODULES, release: str | None = None) -> bool:
    """Whether the running kernel has a module, as a file or built in: "dm-era"."""
    directory = modules / (release or os.uname().release)
    wanted = _normal(name)
    for index in ("modules.dep", "modules.builtin"):
        try:
            lines = (directory / index).read_text().splitlines()
        except OSError:
            continue
        if any(_normal(_module_name(line)) == wanted for line in lines):
            return True
    return False


def _module_name(line: str) -> str:
    """``kernel/drivers/md/dm-era.ko.xz: …`` is dm-era."""
    return Path(line.partition(":")[0]).name.partition(".ko")[0]


def _normal(name: str) -> str:
    return name.replace("_", "-")


def io_uring_refusal() -> int:
    """0 where io_uring may be used, else the errno: ENOSYS, EPERM (seccomp, sysctl)."""
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    descriptor = syscall(
        _NR_IO_URING_SETUP, 1, ctypes.byref((ctypes.c_char * _IO_URING_PARAMS_BYTES)())
    )
    if descriptor < 0:
        return ctypes.get_errno() or errno.ENOSYS
    os.close(descriptor)
    return 0
