"""The kernels that the lab can boot."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel, the machine that runs it, and the Debian suite whose tree it boots."""

    name: str
    machine: Literal["uml", "qemu"]
    suite: str
    summary: str


KERNELS = {
    kernel.name: kernel
    for kernel in (
        Kernel("uml12", "uml", "bookworm", "user-mode-linux of Debian 12 (the default)"),
        Kernel("uml13", "uml", "trixie", "user-mode-linux of Debian 13"),
        Kernel("deb12", "qemu", "bookworm", "stock kernel of Debian 12, processor emulated"),
        Kernel("deb13", "qemu", "trixie", "stock kernel of Debian 13, processor emulated"),
    )
}
