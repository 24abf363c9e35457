"""Files that are replaced as a whole, or removed: durably, or not at all."""

import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from dmsnap.host.system_call import system_call

DEFAULT_MODE = 0o644


def replace_file(path: Path, text: str, mode: int = DEFAULT_MODE) -> None:
    """Put ``text`` in the place of a file; its owner and mode stay. Follows a link to a file.

    Whoever reads it, even after a power failure, finds the old text or the new one. ``mode`` is
    that of a file that was not there.
    """
    path = path.resolve()
    with system_call(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        anew = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
        descriptor = os.open(anew, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "w", errors="surrogateescape") as file:
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
