"""Running a hook: a command of the administrator's, within limits of time and output.

It has no terminal, a known environment, and a process group of its own, which is over when it is:
what it leaves running there is killed. Who needs something to go on has systemd start it.
"""

import logging
import os
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from dmsnap.errors import ProgramError
from dmsnap.host.run import REAP_SECONDS, environment, kill_session
from dmsnap.host.signals import SIGNALS, deferred
from dmsnap.host.trust import require_trusted_command
from dmsnap.units import KIB, MIB

LOGGER = logging.getLogger(__name__)

VARIABLE_PREFIX = "DMSNAP_"
# Of the beginning, where the cause is, and of the end, where the failure is.
KEPT_BYTES = 32 * KIB
READ_BYTES = 64 * KIB
MAX_PIPE_BYTES = MIB


@dataclass(frozen=True, slots=True)
class HookRun:
    """What a hook did. ``returncode`` is -N after a death by signal N.

    ``output`` is what it wrote to standard output and standard error, ``dropped_bytes`` of its
    middle left out. ``overdue``: it was killed at its deadline.
    """

    returncode: int | None
    output: bytes
    dropped_bytes: int
    seconds: float
    overdue: bool

    @property
    def failed(self) -> bool:
        return self.overdue or self.returncode != 0


@dataclass(slots=True)
class _Kept:
    """The beginning and the end of an output of any length."""

    beginning: bytearray = field(default_factory=bytearray)
    end: bytearray = field(default_factory=bytearray)
    dropped_bytes: int = 0

    def add(self, chunk: bytes) -> None:
        room = KEPT_BYTES - len(self.beginning)
        self.beginning += chunk[:room]
        self.end += chunk[room:]
        surplus = max(0, len(self.end) - KEPT_BYTES)
        self.dropped_bytes += surplus
        del self.end[:surplus]

    def output(self) -> bytes:
        note = (
            f"\n… {self.dropped_bytes} bytes left out …\n".encode() if self.dropped_bytes else b""
        )
        return bytes(self.beginning) + note + bytes(self.end)


def run_hook(
    command: tuple[str, ...], variables: Mapping[str, str], *, deadline_seconds: float
) -> HookRun:
    """Run ``command`` in / and wait for it, no longer than ``deadline_seconds``.

    ``variables`` are in its environment, with ``DMSNAP_`` before their names. Afterwards it and
    what is left of its process group are dead, but for what waits for a suspended device.

    Raises ``NotPermittedError`` for a file that others could have changed, also an argument's,
    ``ProgramError`` for one that cannot be run. What it ends with is for the caller to judge.
    """
    require_trusted_command(command)
    started = time.monotonic()
    kept = _Kept()
    process = None
    try:
        with deferred():
            process = _start(command, variables)
        ended = _follow(process, kept, started + deadline_seconds)
    finally:
        if process is not None:
            kill_session(process, REAP_SECONDS)
    seconds = time.monotonic() - started
    LOGGER.debug("%s: %s after %.3f s", shlex.join(command), process.returncode, seconds)
    return HookRun(process.returncode, kept.output(), kept.dropped_bytes, seconds, not ended)


def _start(command: tuple[str, ...], variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start it with no signal blocked: a hook that runs in a final step is to end by SIGTERM, too.

    What arrives for us meanwhile waits, as long as ``deferred`` does.
    """
    ours = {f"{VARIABLE_PREFIX}{name}": value for name, value in variables.items()}
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment() | ours,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise ProgramError(
            f"cannot run {command[0]}: {error.strerror}",
            hint="a script begins with #! and its interpreter, and is executable",
            argv=list(command),
        ) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _follow(process: subprocess.Popen[bytes], kept: _Kept, ends: float) -> bool:
    """Read what it writes until it ends; False when the moment ``ends`` comes first.

    The end of the program counts, not that of the pipe: what it started may hold that open.
    """
    assert process.stdout is not None  # noqa: S101 - it was asked for
    stdout, end = process.stdout.fileno(), os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(stdout, select.POLLIN)
        poll.register(end, select.POLLIN)
        while True:
            # Looked at once more at the end: it may have been in time, and we were not.
            left = max(0.0, ends - time.monotonic())
            ready = {descriptor for descriptor, _ in poll.poll(left * 1000)}
            if end in ready:
                _drain(stdout, kept)
                return True
            if stdout in ready and not _read(stdout, kept):
                poll.unregister(stdout)
            if not left:
                return False
    finally:
        os.close(end)


def _read(descriptor: int, kept: _Kept) -> bool:
    chunk = os.read(descriptor, READ_BYTES)
    kept.add(chunk)
    return bool(chunk)


def _drain(descriptor: int, kept: _Kept) -> None:
    """Read what is in the pipe, which holds a megabyte at most, and not what others add to it."""
    os.set_blocking(descriptor, False)
    try:
        for _ in range(MAX_PIPE_BYTES // READ_BYTES):
            if not _read(descriptor, kept):
                return
    except BlockingIOError:
        return
