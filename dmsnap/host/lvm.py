"""LVM: volume groups, and the logical volumes that dmsnap makes and tags. Root.

Our dm devices carry copies of what is below them, PV labels included, and a scan of a suspended one
hangs. Reports therefore run with a ``global_filter`` that rejects our devices first and goes on
with the administrator's own, which knows what else must not be scanned (multipath legs, guests'
disks). ``devices/ignore_suspended_devices`` would not do: lvm 2.03.31 reads them all the same.
Every command that changes something sees only the group's own PVs (``--devices``).
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dmsnap.errors import (
    BlockSizeError,
    ForeignDeviceError,
    NoSpaceError,
    NotFoundError,
    ProgramError,
    WrongStateError,
)
from dmsnap.host import udev
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.run import run
from dmsnap.host.sysfs import SYSFS
from dmsnap.units import format_size

TAG = "dmsnap"

# LVM trusts that udev makes its nodes, even where no udevd runs (a rescue system).
_WITHOUT_UDEV = "activation/udev_sync=0 activation/udev_rules=0"
_REPORT = ("--reportformat", "json", "--units", "b", "--nosuffix")
_DEEPEST = 2  # below /dev: /dev/disk/by-id
_NAME = re.compile(r"[A-Za-z0-9+_.][A-Za-z0-9+_.-]*")
SETTINGS = Path("/etc/lvm")
Setting = tuple[str, int, int, int, int]  # a file: its name, inode, size, mtime and ctime


@dataclass(frozen=True, slots=True)
class VolumeGroup:
    """``physical_volumes`` are the paths that LVM uses; a missing one is ``[unknown]``."""

    name: str
    uuid: str
    extent_bytes: int
    size_bytes: int
    free_bytes: int
    physical_volumes: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return not any(path.startswith("[") for path in self.physical_volumes)


@dataclass(frozen=True, slots=True)
class LogicalVolume:
    name: str
    vg: str
    uuid: str
    size_bytes: int
    tags: tuple[str, ...]

    @property
    def path(self) -> Path:
        return Path("/dev", self.vg, self.name)


def volume_group(name: str) -> VolumeGroup | None:
    """The group of this name, or None. ``WrongStateError`` when there are two of the name."""
    if not _NAME.fullmatch(name):
        return None
    fields = "vg_name,vg_uuid,vg_extent_size,vg_size,vg_free,pv_name"
    rows = report("vgs", "vg", fields, "--select", f"vg_name={name}")
    return parse_volume_group(rows)


def parse_volume_group(rows: list[dict[str, str]]) -> VolumeGroup | None:
    """One row for each physical volume."""
    if not rows:
        return None
    first = rows[0]
    if len({row["vg_uuid"] for row in rows}) > 1:
        raise WrongStateError(f"there are several volume groups named {first['vg_name']}")
    return VolumeGroup(
        name=first["vg_name"],
        uuid=first["vg_uuid"],
        extent_bytes=int(first["vg_extent_size"]),
        size_bytes=int(first["vg_size"]),
        free_bytes=int(first["vg_free"]),
        physical_volumes=tuple(row["pv_name"] for row in rows),
    )


def list_lvs(tag: str = TAG) -> list[LogicalVolume]:
    """The logical volumes that carry ``tag``, in all groups."""
    return [volume for volume in _logical_volumes() if tag in volume.tags]


def _logical_volumes() -> list[LogicalVolume]:
    fields = "lv_name,vg_name,lv_uuid,lv_size,lv_tags"
    return [_logical_volume(row) for row in report("lvs", "lv", fields)]


def _logical_volume(row: dict[str, str]) -> LogicalVolume:
    tags = tuple(tag for tag in row["lv_tags"].split(",") if tag)
    return LogicalVolume(row["lv_name"], row["vg_name"], row["lv_uuid"], int(row["lv_size"]), tags)


def create_lv(vg: str, name: str, size_bytes: int, tag: str = TAG) -> Path:
    """A new active logical volume without the signatures of what lay there before.

    ``size_bytes`` must be a whole number of the group's extents, else ``BlockSizeError``. Raises
    ``NotFoundError``, ``NoSpaceError``, ``ProgramError`` (the name is taken).
    """
    group = complete_group(vg)
    if size_bytes <= 0 or size_bytes % group.extent_bytes:
        extent = format_size(group.extent_bytes)
        raise BlockSizeError(f"{size_bytes} bytes is no whole number of {vg}'s extents of {extent}")
    if size_bytes > group.free_bytes:
        raise NoSpaceError(
            f"the volume group {vg} has {format_size(group.free_bytes)} free, "
            f"{name} needs {format_size(size_bytes)}",
            vg=vg,
            free_bytes=group.free_bytes,
            size_bytes=size_bytes,
        )
    wiping = ("--wipesignatures", "y", "--zero", "y")
    naming = ("--addtag", tag, "--name", name, "--size", f"{size_bytes}b")
    change(group, "lvcreate", "--yes", *wiping, *naming, vg)
    return Path("/dev", vg, name)


def extend_lv(vg: str, name: str, size_bytes: int) -> None:
    """Give a logical volume more extents, whoever uses it; the size and the errors of create_lv.

    Nothing happens when it has so many already: another may have been faster.
    """
    group = complete_group(vg)
    found = [lv.size_bytes for lv in list_lvs() if (lv.vg, lv.name) == (vg, name)]
    if not found:
        raise NotFoundError(f"there is no logical volume {vg}/{name}", vg=vg, name=name)
    before_bytes = found[0]
    if size_bytes <= before_bytes:
        return
    if size_bytes - before_bytes > group.free_bytes:
        raise NoSpaceError(
            f"the volume group {vg} has {format_size(group.free_bytes)} free, "
            f"{name} needs {format_size(size_bytes - before_bytes)} more",
            vg=vg,
            free_bytes=group.free_bytes,
            size_bytes=size_bytes,
        )
    change(group, "lvextend", "--size", f"{size_bytes}b", f"{vg}/{name}")


def remove_lv(vg: str, name: str, tag: str = TAG) -> bool:
    """Remove a logical volume of ours; False when it does not exist.

    Raises ``ForeignDeviceError`` without ``tag``, ``ProgramError`` when it is in use.
    """
    volumes = [volume for volume in _logical_volumes() if (volume.vg, volume.name) == (vg, name)]
    if not volumes:
        return False
    if tag not in volumes[0].tags:
        raise ForeignDeviceError(
            f"{vg}/{name} does not carry the tag {tag} and will not be removed", vg=vg, name=name
        )
    change(complete_group(vg), "lvremove", "--yes", f"{vg}/{name}")
    return True


def complete_group(name: str) -> VolumeGroup:
    """The group of this name with all its disks, none of them a twin; else it is not changed."""
    group = volume_group(name)
    if group is None:
        raise NotFoundError(f"there is no volume group {name}", vg=name)
    if not group.complete:
        raise WrongStateError(f"the volume group {name} misses physical volumes", vg=name)
    for path in group.physical_volumes:
        if _is_twin(BlockDevice.probe(Path(path)).devno):
            raise WrongStateError(f"LVM takes {path}, a copy, for a disk of {name}", vg=name)
    return group


def change(group: VolumeGroup, command: str, *arguments: str) -> None:
    """Run an LVM command that sees the group's own disks alone."""
    devices = [word for path in group.physical_volumes for word in ("--devices", path)]
    run("lvm", command, *_configuration(), *devices, *arguments, timeout_seconds=300)


def _configuration() -> list[str]:
    settings = ["" if udev.is_running() else _WITHOUT_UDEV, _filter()]
    text = " ".join(setting for setting in settings if setting)
    return ["--config", text] if text else []


def _filter() -> str:
    """A ``global_filter`` without our devices; empty where there are none."""
    numbers = _not_to_scan()
    paths = _paths() if numbers else {}
    rejected = [f'"r|^{_pattern(path)}$|"' for devno in numbers for path in paths.get(devno, [])]
    if not rejected:
        return ""
    return f"devices/global_filter=[{','.join(rejected)},{_administrators(settings())}]"


@lru_cache(maxsize=1)
def _administrators(_: tuple[Setting, ...]) -> str:
    """The patterns of the administrator's filter. To ask for them is to start LVM once more: they
    are kept until its settings are others.
    """
    completed = run("lvm", "lvmconfig", "--typeconfig", "full", "devices/global_filter")
    return parse_filter(completed.text)


def settings(directory: Path = SETTINGS) -> tuple[Setting, ...]:
    """What says whether LVM's settings are still the same; host tags have files of their own."""
    found: list[Setting] = []
    for path in sorted(directory.glob("*.conf")):
        with suppress(OSError):  # removed since it was listed, or a link that leads nowhere
            now = path.stat()
            times = (now.st_mtime_ns, now.st_ctime_ns)
            found.append((path.name, now.st_ino, now.st_size, *times))
    return tuple(found)


def parse_filter(text: str) -> str:
    """The patterns of ``global_filter=["a|.*|"]``, quoted, with commas in between."""
    value = text.strip().removeprefix("global_filter=")
    return value.removeprefix("[").removesuffix("]")


def _pattern(path: str) -> str:
    """What could be an operator matches any character: near enough, and safe in LVM's quotes."""
    return re.sub(r"[^A-Za-z0-9_/-]", ".", path)


def _not_to_scan() -> list[int]:
    disks = SYSFS.disks("dm-").values()
    return [devno for devno in disks if _is_rejected(devno)]


def _is_rejected(devno: int) -> bool:
    try:
        return _is_twin(devno) or _is_suspended(devno)
    except NotFoundError:  # removed since it was listed
        return False


def _is_twin(devno: int) -> bool:
    """Whether it is a dm device of ours other than a front, which may well be a PV."""
    uuid = SYSFS.dm_uuid(devno) or ""
    return uuid.startswith("DMSNAP-") and not uuid.endswith("-front")


def _is_suspended(devno: int) -> bool:
    return (SYSFS.dm_uuid(devno) or "").startswith("DMSNAP-") and SYSFS.dm_suspended(devno)


def _paths() -> dict[int, list[str]]:
    """All names of each block device in /dev: LVM accepts it if one of them is not rejected."""
    found: dict[int, list[str]] = {}
    for entry in _entries("/dev", _DEEPEST):
        with suppress(OSError):  # removed since it was listed, or a link that leads nowhere
            status = entry.stat()
            if stat.S_ISBLK(status.st_mode):
                found.setdefault(status.st_rdev, []).append(entry.path)
    return found


def _entries(directory: str, below: int) -> Iterator["os.DirEntry[str]"]:
    """What is in a directory and in those in it; no links to directories, as LVM does."""
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                yield entry
            elif below:
                yield from _entries(entry.path, below - 1)


def report(command: str, kind: str, fields: str, *arguments: str) -> list[dict[str, str]]:
    """The rows of a report; our own copies of physical volumes are not looked at."""
    completed = run("lvm", command, *_configuration(), *_REPORT, "-o", fields, *arguments)
    return parse_report(completed.json(), kind)


def parse_report(document: object, kind: str) -> list[dict[str, str]]:
    """The rows of a JSON report of one ``kind``; ``ProgramError`` when it has another shape."""
    try:
        reports: Iterable[dict[str, list[dict[str, str]]]] = document["report"]  # type: ignore[index]
        return [row for report in reports for row in report[kind]]
    except (KeyError, TypeError) as error:
        raise ProgramError(f"lvm's report has an unknown shape: {str(document)[:200]}") from error
