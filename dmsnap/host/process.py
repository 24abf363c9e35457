"""Who uses a file system or a device: a scan of /proc, as fuser(1) does it.

Only root sees other users' processes. The answer is for people: it can be outdated when it
arrives, and nothing is decided by it.
"""

import os
import pwd
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dmsnap.host.mountinfo import PROC, lines_of, mount_at, mount_id_of

_LINKS = {"cwd": "working directory", "root": "root directory", "exe": "program"}
_MAP_DEVICE = re.compile(r"([0-9a-f]+):([0-9a-f]+)")

# What /proc/self/loginuid says until pam_loginuid(8) sets it.
_NOBODY_LOGGED_IN = 2**32 - 1

Matches = Callable[[Path, str], bool]
MatchesMap = Callable[[int, str], bool]


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """A process and the first thing by which it holds on: ``open file /srv/log``."""

    pid: int
    command: str
    what: str

    def __str__(self) -> str:
        return f"{self.command} (pid {self.pid}, {self.what})"


def login_name(*, proc: Path = PROC) -> str:
    """Who logged in to do this, whatever sudo made of them since; a service's is its own user.

    A user without a name is a number.
    """
    try:
        logged_in = int((proc / "self" / "loginuid").read_text())
    except (OSError, ValueError):
        logged_in = _NOBODY_LOGGED_IN
    uid = os.geteuid() if logged_in == _NOBODY_LOGGED_IN else logged_in
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def command_of(pid: int, *, proc: Path = PROC) -> str:
    """The command's name; ``?`` for a process that is gone."""
    try:
        return (proc / str(pid) / "comm").read_text(errors="replace").strip()
    except OSError:
        return "?"


def called(name: str, *, proc: Path = PROC) -> Iterator[Path]:
    """The directories of our user's processes of that name; anybody may be called so.

    That waits for nobody. What else is asked of a process may come late: one in a page fault of a
    device that is suspended shows its environment and command line when somebody has resumed that.
    """
    for entry in proc.iterdir():
        is_process = entry.name.isdecimal()
        if is_process and command_of(int(entry.name), proc=proc) == name and _is_ours(entry):
            yield entry


def _is_ours(process: Path) -> bool:
    try:
        return process.stat().st_uid == os.geteuid()
    except OSError:  # it has ended
        return False


def users_of(mount_point: Path, *, proc: Path = PROC) -> list[ProcessUse]:
    """The processes that keep the mount seen at ``mount_point`` busy.

    Open files are matched by mount (``mnt_id`` in fdinfo, so that a bind mount elsewhere does not
    count), the rest by the file system's number and the path.
    """
    mount = mount_at(mount_point, proc=proc)
    if mount is None:
        return []

    def below(link: Path, target: str) -> bool:
        if link.parent.name == "fd":
            return mount_id_of(link.parent.parent / "fdinfo" / link.name) == mount.mount_id
        return _is_below(target, mount_point) and _file_system(link) == mount.devno

    return _scan(
        below, lambda devno, path: devno == mount.devno and _is_below(path, mount_point), proc
    )


def openers_of(devno: int, *, proc: Path = PROC) -> list[ProcessUse]:
    """The processes that have the block device ``devno`` open."""

    def is_device(link: Path, target: str) -> bool:
        if link.parent.name != "fd" or not target.startswith("/dev/"):
            return False
        try:
            status = link.stat()
        except OSError:
            return False
        return stat.S_ISBLK(status.st_mode) and status.st_rdev == devno

    return _scan(is_device, None, proc)


def _is_below(path: str, mount_point: Path) -> bool:
    return Path(path.removesuffix(" (deleted)")).is_relative_to(mount_point)


def _file_system(link: Path) -> int | None:
    try:
        return link.stat().st_dev
    except OSError:
        return None


def _scan(matches: Matches, maps: MatchesMap | None, proc: Path) -> list[ProcessUse]:
    pids = sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdigit())
    found = ((pid, _use(proc / str(pid), matches, maps)) for pid in pids)
    return [ProcessUse(pid, command_of(pid, proc=proc), what) for pid, what in found if what]


def _use(process: Path, matches: Matches, maps: MatchesMap | None) -> str | None:
    """By what ``process`` holds on, or None. A process that went away holds on to nothing.

    Its maps are not asked for in vain: of one that waits for a disk they may wait as well.
    """
    for link, what in _links(process):
        try:
            target = str(link.readlink())
        except OSError:
            continue
        if matches(link, target):
            return f"{what} {target}"
    if maps is None:
        return None
    return next(
        (f"mapped file {path}" for devno, path in _maps(process) if maps(devno, path)), None
    )


def _links(process: Path) -> Iterator[tuple[Path, str]]:
    yield from ((process / name, what) for name, what in _LINKS.items())
    try:
        yield from ((link, "open file") for link in sorted((process / "fd").iterdir()))
    except OSError:
        return


def _maps(process: Path) -> Iterator[tuple[int, str]]:
    try:
        lines = lines_of(process / "maps")
    except OSError:
        return
    for line in lines:
        fields = line.split(maxsplit=5)
        device = _MAP_DEVICE.fullmatch(fields[3]) if len(fields) == 6 else None
        if device:
            yield os.makedev(int(device[1], 16), int(device[2], 16)), fields[5]
