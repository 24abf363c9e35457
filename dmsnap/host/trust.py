"""Whether root can trust a file: nobody else may write to it, or put another in its place."""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from dmsnap.errors import NotPermittedError, OperatingSystemError

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
MAX_LINKS = 40


def require_trusted(path: Path) -> None:
    """Raise ``NotPermittedError`` unless root or we alone decide what ``path`` is and holds.

    That is asked of the file and of every directory and link on the way to it: who can write to one
    of those can exchange what comes after. Entries of sticky directories are safe from others.
    ``OperatingSystemError`` when it cannot be looked at.
    """
    for step in _way_to(path):
        try:
            doubt = doubt_about(step.lstat())
        except OSError as error:
            raise _unseen(step, error) from error
        if doubt is not None:
            raise NotPermittedError(
                f"{step} {doubt}: {path} is not trusted",
                hint=f"make root its owner, and chmod go-w {step}",
                path=str(path),
            )


def require_trusted_command(command: Sequence[str]) -> None:
    """The same of a program and of each file that its arguments name by an absolute path: an
    interpreter runs what others wrote as readily as what root did. Pipes count as files; what is
    not there, directories and devices are not judged.
    """
    program, *arguments = command
    require_trusted(Path(program))
    for argument in arguments:
        if argument.startswith("/") and _is_file_or_pipe(Path(argument)):
            require_trusted(Path(argument))


def _is_file_or_pipe(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # not there, or no path at all
        return False
    return stat.S_ISREG(mode) or stat.S_ISFIFO(mode)


def doubt_about(status: os.stat_result) -> str | None:
    """What others may do with a file: ``is owned by uid 1000``, ``has the mode 0666``; or None."""
    if status.st_uid not in (0, os.geteuid()):
        return f"is owned by uid {status.st_uid}"
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if stat.S_ISLNK(status.st_mode) or sticky or not status.st_mode & _OTHERS_WRITE:
        return None
    return f"has the mode {stat.S_IMODE(status.st_mode):04o}, by which others can write to it"


def _way_to(path: Path) -> Iterator[Path]:
    """The root directory, then each directory, link and file that resolving ``path`` comes by."""
    at = Path("/")
    yield at
    left = list(reversed(path.absolute().parts[1:]))
    links = 0
    while left:
        step = at.parent if (name := left.pop()) == ".." else at / name
        yield step
        if not step.is_symlink():
            at = step
            continue
        links += 1
        if links > MAX_LINKS:
            raise OperatingSystemError(f"{path} leads through more than {MAX_LINKS} links")
        target = _target(step)
        at = Path("/") if target.is_absolute() else at
        left += reversed(target.parts[1:] if target.is_absolute() else target.parts)


def _target(link: Path) -> Path:
    try:
        return link.readlink()
    except OSError as error:
        raise _unseen(link, error) from error


def _unseen(path: Path, error: OSError) -> OperatingSystemError:
    return OperatingSystemError(
        f"{path} cannot be looked at: {error.strerror}", errnum=error.errno, path=str(path)
    )
