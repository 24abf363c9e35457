"""One command at a time on a volume: a lock file that says who holds it."""

import contextlib
import errno
import fcntl
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from dmsnap.errors import LockedError
from dmsnap.host.descriptor import opened
from dmsnap.host.mountinfo import PROC
from dmsnap.host.run import run
from dmsnap.host.system_call import system_call

log = logging.getLogger(__name__)

# flock(1)'s code for "not in time": any number that it does not use itself.
_CONFLICT = 75

LOCK_FILE = ".lock"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a lock: ``since`` in seconds of the epoch."""

    pid: int
    command: str
    since: float

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"{self.command!r} (pid {self.pid}, since {since})"


@contextmanager
def volume_lock(
    directory: Path, name: str, wait_seconds: float, *, command: str | None = None
) -> Iterator[None]:
    """Hold the lock of the volume ``name``, waiting up to ``wait_seconds`` for it.

    The lock is flock(2) on ``directory``/NAME.lock: the kernel lets go of it when its holder dies.
    The file stays: removing it would let two holders lock two files of the same name.
    Raises ``LockedError`` naming the holder.
    """
    path = directory / f"{name}.lock"
    with _opened(path) as descriptor:
        _acquire(descriptor, path, name, wait_seconds)
        _write(descriptor, command or _command())
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)


@contextmanager
def directory_lock(directory: Path) -> Iterator[None]:
    """One process at a time in a moment's work on a directory of ours: waits without a deadline.

    The lock is on a file in it that is root's alone: the directory itself can be locked, and kept
    locked, by whoever may read it. Where nothing can be written, nobody waits.
    """
    path = directory / LOCK_FILE
    with ExitStack() as stack:
        with system_call(f"lock {directory}"):
            try:
                opening = opened(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
                descriptor = stack.enter_context(opening)
            except OSError as error:
                if error.errno != errno.EROFS:
                    raise
            else:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextmanager
def moment_lock(directory: Path, seconds: float) -> Iterator[None]:
    """One process at a time in a moment's work on a directory of others, waiting for so long; then
    without it.

    Whoever may read a directory may lock it, and keep it locked: who has a moment's work to do
    there is long through by then.
    """
    with ExitStack() as stack:
        with system_call(f"lock {directory}"):
            descriptor = stack.enter_context(opened(directory, os.O_RDONLY | os.O_DIRECTORY))
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not _waited(descriptor, seconds):
                log.warning("%s is locked by somebody: it is not waited for any longer", directory)
        yield


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    with ExitStack() as stack:
        with system_call(f"open the lock {path}"):
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            descriptor = stack.enter_context(opened(path, os.O_RDWR | os.O_CREAT))
            # An earlier version's: who may read a file may lock it.
            os.fchmod(descriptor, 0o600)
        yield descriptor


def _acquire(descriptor: int, path: Path, name: str, wait_seconds: float) -> None:
    """flock(2) has no deadline: where it would block, flock(1) waits in our place.

    It is given the descriptor, and the lock belongs to what is open and not to the process. An
    alarm would work in the main thread only, and a thread could not be called off.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except BlockingIOError:
        pass
    if wait_seconds > 0 and _waited(descriptor, wait_seconds):
        return
    holder = read_holder(path)
    raise LockedError(
        f"{name} is locked by {holder or 'a command that is just starting'}",
        hint="wait for it, or end it: it undoes what it began",
        volume=name,
        holder=asdict(holder) if holder else None,
    )


def _waited(descriptor: int, wait_seconds: float) -> bool:
    arguments = ["--exclusive", "--timeout", f"{wait_seconds:.3f}", "-E", str(_CONFLICT)]
    completed = run(
        "flock",
        *arguments,
        str(descriptor),
        timeout_seconds=wait_seconds + 10,
        expected=(0, _CONFLICT),
        descriptors=(descriptor,),
    )
    return completed.returncode == 0


def _command() -> str:
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _write(descriptor: int, command: str) -> None:
    """Say who holds the lock, which is held all the same: a full /run keeps nobody from a swap."""
    holder = Holder(os.getpid(), command, time.time())
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(holder)).encode(), 0)
    except OSError as error:
        log.warning("who holds the lock cannot be written: %s", error.strerror)


def holder_of(directory: Path, name: str) -> str | None:
    """Who works on the volume ``name`` now, in words; None: nobody. Waits for nobody."""
    path = directory / f"{name}.lock"
    if not _is_held(path):
        return None
    return str(read_holder(path) or "a command that is just starting")


def is_held_by(directory: Path, name: str, pid: int) -> bool:
    """Whether a process works on the volume ``name`` now. Waits for nobody."""
    path = directory / f"{name}.lock"
    holder = read_holder(path)
    return holder is not None and holder.pid == pid and _is_held(path)


def has_lock(directory: Path, name: str, pid: int, *, proc: Path = PROC) -> bool:
    """Whether the kernel says that a process has the lock of the volume ``name`` (proc(5),
    fdinfo), whatever is written in it: that may be somebody's who is gone, and whose number another
    process has by now. Waits for nobody, nor for what else the process has open.
    """
    path, process = (directory / f"{name}.lock").resolve(), proc / str(pid)
    try:
        descriptors = [link.name for link in (process / "fd").iterdir()]
    except OSError:  # it has ended
        return False
    return any(_is_locked_by(process, descriptor, path) for descriptor in descriptors)


def _is_locked_by(process: Path, descriptor: str, path: Path) -> bool:
    """Who only waits for a lock has none in the list."""
    try:
        if (process / "fd" / descriptor).readlink() != path:
            return False
        lines = (process / "fdinfo" / descriptor).read_text().splitlines()
    except OSError:  # it was closed meanwhile
        return False
    return any(line.startswith("lock:") and "FLOCK" in line for line in lines)


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def read_holder(path: Path) -> Holder | None:
    """Who wrote the lock file last; None when nobody holds it or it is just being written.

    An unclean end leaves the text behind: whether it is held, only the lock itself knows.
    """
    try:
        fields = json.loads(path.read_bytes())
        return Holder(int(fields["pid"]), str(fields["command"]), float(fields["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
