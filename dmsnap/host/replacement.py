"""Files that are replaced as a whole, or removed: durably, or not at all.

The new text is written to a file beside, ``.NAME.dmsnap-DIGITS``. Who is killed meanwhile leaves it
behind, and whoever replaces or removes the same file next takes it away. Its writer holds a lock on
it from before the first byte on, so that one that is still being written is known.
"""

import fcntl
import os
import re
import stat
import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from dmsnap.host.system_call import system_call

DEFAULT_MODE = 0o644

# What is empty may be a file that its writer has made, and is about to lock.
EMPTY_SECONDS = 60


def replace_file(path: Path, text: str, mode: int = DEFAULT_MODE) -> None:
    """Put ``text`` in the place of a file; its owner and mode stay. Follows a link to a file.

    Whoever reads it, even after a power failure, finds the old text or the new one. ``mode`` is
    that of a file that was not there.
    """
    path = path.resolve()
    with system_call(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        anew = path.with_name(f".{path.name}.dmsnap-{uuid4().hex[:8]}")
        descriptor = os.open(anew, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "w", errors="surrogateescape") as file:
                with suppress(OSError):  # where there are no locks, nobody takes it away
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                file.write(text)
                _copy_attributes(path, descriptor, mode)
                file.flush()
                os.fsync(descriptor)
            anew.replace(path)
        except BaseException:
            with suppress(FileNotFoundError):
                anew.unlink()
            raise
        sync_directory(path.parent)


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


def _copy_attributes(path: Path, descriptor: int, mode: int) -> None:
    try:
        before = path.stat()
    except FileNotFoundError:
        os.fchmod(descriptor, mode)
        return
    os.fchmod(descriptor, before.st_mode & 0o7777)
    os.fchown(descriptor, before.st_uid, before.st_gid)


def remove_file(path: Path) -> None:
    """Remove a file for good; none is no error."""
    with system_call(f"remove {path}"):
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
