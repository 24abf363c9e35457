"""Stock kernels under qemu, the processor emulated."""

from harness.guest import Guest, RunDirectory

CHANNEL = "/dev/hvc0"
SCRATCH = "/dev/vda"


def argv(guest: Guest, run: RunDirectory, channel: int) -> list[str]:
    """Return the argument list that boots `guest`, its channel the socket `channel`."""
    raise NotImplementedError
