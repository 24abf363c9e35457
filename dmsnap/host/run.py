"""The one way to run a program: an argument list, no shell, a known environment, a deadline."""

import contextlib
import json
import logging
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Container
from dataclasses import dataclass
from pathlib import Path

from dmsnap.errors import DeadlineError, ProgramError
from dmsnap.host.signals import deferred

LOGGER = logging.getLogger(__name__)

SEARCH_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
ENVIRONMENT = {"LC_ALL": "C", "PATH": ":".join(SEARCH_PATH), "HOME": "/"}
STARTED_BY = "DMSNAP_PID"  # in the environment of what we start: by this it is known (orphans)

REAP_SECONDS = 5
STALL_INTERVAL_SECONDS = 0.2

# Debian's names; other distributions' are the same or near enough to search for.
PACKAGES = {
    "blkid": "util-linux",
    "debugfs": "e2fsprogs",
    "dmsetup": "dmsetup",
    "dumpe2fs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "flock": "util-linux",
    "iscsiadm": "open-iscsi",
    "iscsid": "open-iscsi",
    "losetup": "mount",
    "lvm": "lvm2",
    "modprobe": "kmod",
    "mount": "mount",
    "systemd-analyze": "systemd",
    "udevadm": "udev",
    "umount": "mount",
    "xfs_db": "xfsprogs",
    "xfs_repair": "xfsprogs",
}


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that ended with an exit code that was expected."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """What it wrote; bytes that are no UTF-8 survive as surrogates."""
        return self.stdout.decode(errors="surrogateescape")

    def json(self) -> object:
        """What it wrote, as JSON; ``ProgramError`` quotes it when it is none."""
        try:
            return json.loads(self.stdout)
        except ValueError as error:
            raise ProgramError(
                f"{shlex.join(self.argv)} did not write JSON but {self.text[:200]!r}",
                argv=list(self.argv),
            ) from error


def environment() -> dict[str, str]:
    """What a program is started with: nothing of ours, but who started it."""
    return ENVIRONMENT | {STARTED_BY: str(os.getpid())}


def which(name: str) -> Path | None:
    """Where ``run`` would find the program ``name``; the caller's PATH plays no part."""
    candidates = (Path(directory, name) for directory in SEARCH_PATH)
    return next((path for path in candidates if os.access(path, os.X_OK)), None)


def run(
    *argv: str,
    timeout_seconds: float = 60,
    expected: Container[int] = (0,),
    input: bytes | None = None,  # noqa: A002 - as in subprocess.run
    descriptors: Collection[int] = (),
    stalled: Callable[[], bool] | None = None,
    begun: Callable[[int], None] | None = None,
    reap_seconds: float = REAP_SECONDS,
) -> Completed:
    """Run ``argv`` in / and wait for it; its output is kept, stdin is empty or fed ``input``.

    It inherits ``descriptors``, under the same numbers, and no others.

    Whatever happens, it and what it started are dead and reaped afterwards (but for what waits
    for a suspended device, which nothing can end): they run in a session of their own, so that a
    Ctrl-C on the terminal reaches us alone.

    Raises ``ProgramError`` for a program that is missing or ends with a code that is not in
    ``expected`` (a death by signal N counts as -N), ``DeadlineError`` after ``timeout_seconds`` or
    as soon as ``stalled``, which is asked again and again, says that it does not get on; ``begun``
    is told its number before. One that cannot be killed is given ``reap_seconds``.
    """
    started = time.monotonic()
    process = None
    try:
        # A signal between the fork and here would leave a program that nobody knows of.
        with deferred():
            process = _start(argv, input is not None, descriptors)
        if begun is not None:
            begun(process.pid)
        stdout, stderr = _communicate(process, input, started + timeout_seconds, stalled)
    except subprocess.TimeoutExpired as error:
        took = min(round(time.monotonic() - started, 1), timeout_seconds)
        raise DeadlineError(
            f"{shlex.join(argv)} did not end within {took:g} s and was killed",
            argv=list(argv),
        ) from error
    finally:
        if process is not None:
            kill_session(process, reap_seconds)
    completed = Completed(argv, process.returncode, stdout, stderr)
    LOGGER.debug(
        "%s: %d after %.3f s", shlex.join(argv), completed.returncode, time.monotonic() - started
    )
    if completed.returncode not in expected:
        raise _failure(completed)
    return completed


def _communicate(
    process: subprocess.Popen[bytes],
    feed: bytes | None,
    ends: float,
    stalled: Callable[[], bool] | None,
) -> tuple[bytes, bytes]:
    """Until the program ends; ``TimeoutExpired`` at the moment ``ends``, or when it has stalled."""
    while True:
        remaining = max(0.0, ends - time.monotonic())
        asked = stalled is not None and remaining > STALL_INTERVAL_SECONDS
        try:
            return process.communicate(feed, STALL_INTERVAL_SECONDS if asked else remaining)
        except subprocess.TimeoutExpired:
            if _has_ended(process):
                # It was in time: we were not, on a machine that is busy.
                return process.communicate(timeout=REAP_SECONDS)
            if stalled is None or stalled() or time.monotonic() >= ends:
                raise
            feed = None  # what is left of it is sent on by itself


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Not reaped by that: its session may have to be killed by its number."""
    if process.returncode is not None:
        return True
    how = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, process.pid, how) is not None


def _start(
    argv: tuple[str, ...], feed: bool, descriptors: Collection[int]
) -> subprocess.Popen[bytes]:
    path = which(argv[0])
    if path is None:
        package = PACKAGES.get(Path(argv[0]).name)
        raise ProgramError(
            f"the program {argv[0]} is not installed",
            hint=f"install the package {package}" if package else None,
            argv=list(argv),
        )
    try:
        return subprocess.Popen(
            argv,
            executable=path,
            stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            cwd="/",
            start_new_session=True,
            pass_fds=descriptors,
        )
    except OSError as error:
        raise ProgramError(f"cannot run {path}: {error.strerror}", argv=list(argv)) from error


def kill_session(process: subprocess.Popen[bytes], reap_seconds: float) -> None:
    """Kill the session that is left, if any, and reap the program."""
    if process.returncode is None:
        # Not reaped yet: its number cannot have been given to anybody else.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        _reap(process, reap_seconds)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def _reap(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Not even SIGKILL ends a program that waits for a suspended device: the resume has to come
    from us, so that waiting for it any longer would be for ever. It is left to init's reaping.
    """
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        LOGGER.warning("pid %d cannot be killed: it waits for a device", process.pid)


def _failure(completed: Completed) -> ProgramError:
    lines = completed.stderr.decode(errors="replace").split("\n")
    first = next((line.strip() for line in lines if line.strip()), "it wrote no reason")
    code = completed.returncode
    ended = f"was killed by signal {-code}" if code < 0 else f"failed with {code}"
    return ProgramError(
        f"{shlex.join(completed.argv)} {ended}: {first}",
        argv=list(completed.argv),
        returncode=code,
        stderr=completed.stderr.decode(errors="replace"),
    )
