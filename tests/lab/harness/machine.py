"""A guest in motion: started, watched, ended by itself or by pulling the plug."""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from harness import qemu, uml
from harness.guest import Guest, RunDirectory
from harness.processor import processor

Launcher = Callable[[Guest, RunDirectory, int], list[str]]
LAUNCHERS: dict[str, Launcher] = {"uml": uml.argv, "qemu": qemu.argv}
CHANNELS = {"uml": uml.CHANNEL, "qemu": qemu.CHANNEL}
SCRATCH_DEVICES = {"uml": uml.SCRATCH, "qemu": qemu.SCRATCH}
DISKS = {"uml": uml.disk, "qemu": qemu.disk}

END_SECONDS = 10


def give_way(session: int, proc: Path = Path("/proc")) -> None:
    """Have a session that this process began give way to others as much as this process does.

    Where the scheduler has a group for each session (autogroup), niceness counts among a session's
    own processes alone, and the session's is this group's.
    """
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    if niceness:
        with contextlib.suppress(OSError):
            (proc / str(session) / "autogroup").write_text(f"{niceness}\n")


@dataclass(slots=True)
class Machine:
    """One boot of a guest. Leaving its context pulls the plug if it still runs.

    `channel` carries the command's output; it reads as ended when the guest's last process is gone.
    """

    guest: Guest
    run: RunDirectory
    channel: socket.socket = field(init=False)
    _process: subprocess.Popen[bytes] = field(init=False)
    _processor: contextlib.ExitStack = field(init=False, default_factory=contextlib.ExitStack)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        self.channel.close()

    def start(self) -> None:
        """Boot the guest."""
        ours, theirs = socket.socketpair()
        machine = self.guest.kernel.machine
        argv = LAUNCHERS[machine](self.guest, self.run, theirs.fileno())
        if machine == "uml":
            number = self._processor.enter_context(processor(self.run.path.parent))
            argv = ["taskset", "--cpu-list", str(number), *argv]
        inherited = [theirs.fileno()]
        if self.guest.plug is not None:
            self.guest.plug.drain()
            inherited.append(self.guest.plug.socket.fileno())
        with theirs, self.run.console.open("ab") as console:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                pass_fds=inherited,
                start_new_session=True,  # Ctrl-C is for the runner, which then ends the guest
            )
        self.channel = ours
        give_way(self._process.pid)

    def wait(self, seconds: float) -> bool:
        """Wait for the guest's end; false if it still runs after `seconds`."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """Pull the plug: what the guest had not yet given to its disks is lost."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(END_SECONDS)
        # The kernel ends the members of the guest's process namespace on its own time: they hold
        # the other end of the channel, and the scratch disk must not be booted again before the
        # last of them is gone.
        self.channel.settimeout(END_SECONDS)
        with contextlib.suppress(TimeoutError, ConnectionError):
            while self.channel.recv(1 << 16):
                pass
        self._processor.close()

    def status(self) -> int | None:
        """Return the command's exit status, if the guest has reported one."""
        try:
            return int((self.run.work / "status").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def console(self) -> str:
        """Return what the guest's kernel and its boot wrote on the console."""
        return self.run.console.read_text(errors="replace")
