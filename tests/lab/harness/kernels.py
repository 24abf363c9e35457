"""The kernels that the lab can boot."""

import os
from dataclasses import dataclass
from typing import Literal

DEFAULT = "uml12"
EVERYDAY = "uml14"  # what all scenarios run on
KERNEL_VARIABLE = "DMSNAP_LAB_KERNEL"  # another one in its place, for tests that boot guests


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel, the machine that runs it, and the Debian suite whose tree it boots.

    ``package_suite`` is where its package comes from, when that is not the tree's own suite;
    ``arguments`` are added to its command line.
    """

    name: str
    machine: Literal["uml", "qemu"]
    suite: str
    summary: str
    package_suite: str | None = None
    arguments: tuple[str, ...] = ()


KERNELS = {
    kernel.name: kernel
    for kernel in (
        Kernel("uml12", "uml", "bookworm", "user-mode-linux of Debian 12 (the default)"),
        Kernel("uml13", "uml", "trixie", "user-mode-linux of Debian 13"),
        # Its user space runs under seccomp instead of ptrace (off unless it is asked for), which
        # makes a system call or a page fault half to a fifth of what they cost the other two.
        Kernel(
            "uml14",
            "uml",
            "trixie",
            "user-mode-linux of Debian 14, in the tree of Debian 13: by far the fastest",
            package_suite="forky",
            arguments=("seccomp=on",),
        ),
        Kernel("deb12", "qemu", "bookworm", "stock kernel of Debian 12, processor emulated"),
        Kernel("deb13", "qemu", "trixie", "stock kernel of Debian 13, processor emulated"),
    )
}


def everyday() -> Kernel:
    """The kernel of the guests that tests boot themselves."""
    return KERNELS[os.environ.get(KERNEL_VARIABLE, EVERYDAY)]
