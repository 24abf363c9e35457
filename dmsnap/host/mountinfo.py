"""Mounts and swap space, read from /proc (proc(5)). Needs no privileges."""

import os
import re
import stat
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dmsnap.host.sysfs import parse_devno
from dmsnap.host.system_call import system_call

PROC = Path("/proc")

_ESCAPE = re.compile(r"\\([0-7]{3})")
_BLANKS = re.compile(r"[ \t]+")
_COMMA_OUTSIDE_QUOTES = re.compile(r',(?=(?:[^"]*"[^"]*")*[^"]*$)')


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo.

    ``devno`` is the file system's ``st_dev``. For btrfs that is an anonymous number and not the
    device's: ``mounts_of`` therefore looks at the source of btrfs mounts.
    ``root`` is the directory of the file system that is mounted: other than / in a bind mount.
    ``options`` belong to this mount, ``super_options`` to the file system.
    """

    mount_id: int
    parent_id: int
    devno: int
    root: str
    mount_point: Path
    options: tuple[str, ...]
    fs_type: str
    source: str
    super_options: tuple[str, ...]

    @property
    def read_only(self) -> bool:
        return "ro" in self.options or "ro" in self.super_options


def unescape(text: str) -> str:
    r"""Undo the kernel's ``mangle_path``: space, tab, newline and backslash come as ``\040``."""
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def split_options(text: str) -> tuple[str, ...]:
    """Split at commas, but not within the quotes of an SELinux ``context="…"``."""
    options = _COMMA_OUTSIDE_QUOTES.split(text) if '"' in text else text.split(",")
    return tuple(option for option in options if option)


@lru_cache(maxsize=4096)
def parse_line(line: str) -> Mount:
    """One line; ``ValueError`` when it is none. The optional fields end at a lone hyphen.

    A command looks at the same mounts again and again.
    """
    fields = line.split(" ")
    separator = fields.index("-", 6)
    fs_type, source, super_options = fields[separator + 1 : separator + 4]
    return Mount(
        mount_id=int(fields[0]),
        parent_id=int(fields[1]),
        devno=parse_devno(fields[2]),
        root=unescape(fields[3]),
        mount_point=Path(unescape(fields[4])),
        options=split_options(fields[5]),
        fs_type=fs_type,
        source=unescape(source),
        super_options=split_options(unescape(super_options)),
    )


def mounts(having: str = "", *, proc: Path = PROC) -> list[Mount]:
    """All mounts of this process's namespace, in the kernel's order.

    Or those alone with ``having`` in their line: a host may have thousands of others.
    """
    path = proc / "self" / "mountinfo"
    with system_call(f"read {path}"):
        lines = lines_of(path)
    return [parse_line(line) for line in lines if line and having in line]


def lines_of(path: Path) -> list[str]:
    """What the kernel ended with a newline. It escapes that in names and little else, and who
    chooses a name may be anybody: Python ends lines by a dozen characters more, a carriage return
    even where a text file is read.
    """
    return path.read_bytes().decode(errors="surrogateescape").split("\n")


def mounts_of(devno: int, *, proc: Path = PROC) -> list[Mount]:
    """The mounts of the file system on the block device ``devno``, bind mounts included."""
    return [mount for mount in mounts(proc=proc) if _is_on(mount, devno)]


def mounts_elsewhere(devno: int, *, proc: Path = PROC) -> list[tuple[int, Mount]]:
    """The mounts of ``devno`` in other mount namespaces, each with a process that is in it.

    A namespace that no process is in, kept by a bind mount or a descriptor, is not seen.
    """
    seen = {None, _namespace(proc / "self")}
    found = []
    for pid in sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdigit()):
        namespace = _namespace(proc / str(pid))
        if namespace in seen:
            continue
        seen.add(namespace)
        found += [(pid, mount) for mount in _mounts_of_process(pid, proc) if _is_on(mount, devno)]
    return found


def _namespace(process: Path) -> str | None:
    """None: it is gone, or not to be seen."""
    try:
        return str((process / "ns" / "mnt").readlink())
    except OSError:
        return None


def _mounts_of_process(pid: int, proc: Path) -> list[Mount]:
    try:
        lines = lines_of(proc / str(pid) / "mountinfo")
    except OSError:
        return []
    return [parse_line(line) for line in lines if line]


def _is_on(mount: Mount, devno: int) -> bool:
    return mount.devno == devno or (mount.fs_type == "btrfs" and source_devno(mount) == devno)


def source_devno(mount: Mount) -> int | None:
    """The number of the block device that the source names; None when it names none.

    Of a btrfs of several devices, the source is only one.
    """
    try:
        status = os.stat(mount.source)  # noqa: PTH116 - it need not be a path at all
    except (OSError, ValueError):
        return None
    return status.st_rdev if stat.S_ISBLK(status.st_mode) else None


def mount_at(path: Path, *, proc: Path = PROC) -> Mount | None:
    """What is seen at the mount point ``path``, the topmost of mounts stacked there, or None."""
    here = [mount for mount in mounts(proc=proc) if mount.mount_point == path]
    covered = {mount.parent_id for mount in here}
    visible = [mount for mount in here if mount.mount_id not in covered]
    return visible[-1] if visible else None


def mount_id_of(fdinfo: Path) -> int | None:
    """The mount that an open file was reached through (proc(5), ``fdinfo``); None: it is gone."""
    try:
        lines = fdinfo.read_text().splitlines()
    except OSError:
        return None
    values = (line.partition(":") for line in lines)
    return next((int(value) for name, _, value in values if name == "mnt_id"), None)


def mount_holding(path: Path, *, proc: Path = PROC) -> Mount | None:
    """The mount that ``path`` lies in, whatever its ``st_dev`` says."""
    with system_call(f"look at {path}"):
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        mount_id = mount_id_of(PROC / "self" / "fdinfo" / str(descriptor))
    finally:
        os.close(descriptor)
    return next((mount for mount in mounts(proc=proc) if mount.mount_id == mount_id), None)


def file_system_devno(path: Path, *, proc: Path = PROC) -> int | None:
    """The block device below the file system that holds ``path``; None: there is none (tmpfs).

    An anonymous ``st_dev`` is not in mountinfo either where a btrfs subvolume has its own: the
    mount is asked for its source. An overlay keeps what is written in its upper directory; one
    that is not to be seen from here (a container's root) is taken for none.
    """
    with system_call(f"look at {path}"):
        devno = path.stat().st_dev
    if os.major(devno) != 0:
        return devno
    mount = mount_holding(path, proc=proc)
    if mount is None:
        return None
    upper = _upper_directory(mount)
    return file_system_devno(upper, proc=proc) if upper else source_devno(mount)


def _upper_directory(mount: Mount) -> Path | None:
    if mount.fs_type != "overlay":
        return None
    options = (option.partition("=") for option in mount.super_options)
    found = next((Path(value) for name, _, value in options if name == "upperdir"), None)
    return found if found and found.is_dir() else None


@dataclass(frozen=True, slots=True)
class Swap:
    """A swap area: a device or a file, and its size."""

    path: Path
    kind: str
    size_bytes: int


def swaps(*, proc: Path = PROC) -> list[Swap]:
    """The swap areas in use, from /proc/swaps."""
    path = proc / "swaps"
    with system_call(f"read {path}"):
        try:
            lines = lines_of(path)[1:]
        except FileNotFoundError:  # a kernel without CONFIG_SWAP
            return []
    return [_parse_swap(line) for line in lines if line]


def _parse_swap(line: str) -> Swap:
    path, kind, size_kib = _BLANKS.split(line)[:3]
    return Swap(Path(unescape(path)), kind, int(size_kib) * 1024)
