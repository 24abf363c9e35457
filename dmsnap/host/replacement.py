"""Files that are replaced as a whole, or removed: durably, or not at all.

The new text is written to a file beside, ``.NAME.dmsnap-DIGITS``. Who is killed meanwhile leaves it
behind, and whoever replaces or removes the same file next takes it away. Its writer holds a lock on
it from before the first byte on, so that one that is still being written is known.
"""

import fcntl
import logging
import os
import re
import stat
import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from dmsnap.errors import ForeignDeviceError
from dmsnap.host.system_call import system_call

log = logging.getLogger(__name__)

DEFAULT_MODE = 0o644

# A link to it is how administrators switch a unit of systemd's or a file of udev's rules off.
NULL = Path("/dev/null")

# What is empty may be a file that its writer has made, and is about to lock.
EMPTY_SECONDS = 60


def replace_file(path: Path, text: str, mode: int = DEFAULT_MODE) -> None:
    """Put ``text`` in the place of a file; its owner and mode stay. Follows a link to a file.

    Whoever reads it, even after a power failure, finds the old text or the new one. ``mode`` is
    that of a file that was not there. A link that leads nowhere is replaced itself. Raises
    ``ForeignDeviceError`` for what is no regular file: a device, a pipe, a directory.
    """
    with system_call(f"look at {path}"):
        place = path.resolve() if path.exists() else path
    _replace(place, text, mode, keeping=True)


def replace_name(path: Path, text: str, mode: int = DEFAULT_MODE, *, keeping: bool = False) -> None:
    """As :func:`replace_file`, where a directory may be another user's: a link there is replaced
    and not followed. But for ``keeping``, owner and mode of what was there do not stay, either.
    """
    _replace(path, text, mode, keeping=keeping)


def replace_unless_masked(path: Path, text: str) -> None:
    """As :func:`replace_file`; what the administrator switched off is left so, and told of."""
    if is_masked(path):
        log.warning("%s is a link to %s: it is switched off, and left as it is", path, NULL)
        return
    replace_file(path, text)


def is_masked(path: Path) -> bool:
    """Whether a file is switched off: a link to /dev/null, however it gets there."""
    # Path.resolve() fails of links in a circle.
    return path.is_symlink() and os.path.realpath(path) == str(NULL)


def _replace(path: Path, text: str, mode: int, *, keeping: bool) -> None:
    with system_call(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        _require_replaceable(path)
        remove_leftovers(path)
        anew = path.with_name(f".{path.name}.dmsnap-{uuid4().hex[:8]}")
        descriptor = os.open(anew, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "w", errors="surrogateescape") as file:
                with suppress(OSError):  # where there are no locks, nobody takes it away
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                file.write(text)
                _set_attributes(path if keeping else None, descriptor, mode)
                file.flush()
                os.fsync(descriptor)
            anew.replace(path)
        except BaseException:
            with suppress(FileNotFoundError):
                anew.unlink()
            raise
        sync_directory(path.parent)


def _require_replaceable(path: Path) -> None:
    """A rename would put a file in the place of anything but a directory."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
        raise ForeignDeviceError(f"{path} is no regular file: it is not replaced", path=str(path))


def remove_leftovers(path: Path) -> None:
    """Remove what was to replace a file and did not, by somebody who was killed over it."""
    name = re.compile(re.escape(f".{path.name}.dmsnap-") + "[0-9a-f]{8}")
    with system_call(f"look into {path.parent}"):
        found = [entry for entry in os.listdir(path.parent) if name.fullmatch(entry)]  # noqa: PTH208
    for entry in found:
        # One that cannot be looked at, or is gone, harms nobody.
        with suppress(OSError):
            _remove_if_left(path.with_name(entry))


def _remove_if_left(path: Path) -> None:
    """BlockingIOError while its writer lives."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(descriptor)
        is_ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
        is_new = not found.st_size and abs(time.time() - found.st_mtime) < EMPTY_SECONDS
        if is_ours and not is_new:
            path.unlink()
    finally:
        os.close(descriptor)


def _set_attributes(like: Path | None, descriptor: int, mode: int) -> None:
    """Those of a file that is there, else ``mode``."""
    before = None
    if like is not None:
        with suppress(FileNotFoundError):
            before = like.lstat()
    if before is None or not stat.S_ISREG(before.st_mode):
        os.fchmod(descriptor, mode)
        return
    os.fchmod(descriptor, before.st_mode & 0o7777)
    os.fchown(descriptor, before.st_uid, before.st_gid)


def remove_file(path: Path) -> None:
    """Remove a file for good; none is no error, nor one that is not on a read-only file system:
    unlink(2) says of that what it says of one that is there.
    """
    with system_call(f"remove {path}"):
        if os.path.lexists(path):
            path.unlink(missing_ok=True)
        if path.parent.is_dir():
            remove_leftovers(path)
            sync_directory(path.parent)


def remove_empty_directory(path: Path) -> None:
    """Remove a directory that holds nothing; nothing happens to one that does."""
    with suppress(OSError):
        path.rmdir()


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable: those that are new, and those that are gone."""
    with system_call(f"sync {path}"):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
