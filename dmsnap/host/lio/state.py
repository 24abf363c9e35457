"""What LIO publishes now, read from configfs. Changes nothing, loads nothing."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dmsnap.errors import DmsnapError
from dmsnap.host.system_call import system_call

MODULES = ("target_core_mod", "target_core_iblock", "iscsi_target_mod")
CONFIGFS = Path("/sys/kernel/config")
BACKSTORE_PREFIX = "dmsnap-"
IQN_PREFIX = "iqn.2026-01.local.dmsnap:"
TPG = "tpgt_1"

_NUMBERS = re.compile(r"Major: (\d+) Minor: (\d+)")
_READ_ONLY = re.compile(r"readonly: (\d)")


@dataclass(frozen=True, slots=True)
class Backstore:
    """A block device behind a LUN. ``devno`` is None until it was enabled."""

    name: str
    devno: int | None
    serial: str
    read_only: bool

    @property
    def is_ours(self) -> bool:
        return self.name.startswith(BACKSTORE_PREFIX)


def root(configfs: Path = CONFIGFS) -> Path:
    """Where LIO's objects are."""
    return configfs / "target"


def backstores(*, configfs: Path = CONFIGFS) -> list[Backstore]:
    """All backstores that are block devices, others' too; none where LIO is not loaded."""
    directories = sorted(root(configfs).glob("core/iblock_*/*/"))
    return [found for found in map(_backstore, directories) if found is not None]


def find_backstore(name: str, *, configfs: Path = CONFIGFS) -> Backstore | None:
    """The backstore called ``name``."""
    return next((found for found in backstores(configfs=configfs) if found.name == name), None)


def backstores_on(devno: int, *, configfs: Path = CONFIGFS) -> list[Backstore]:
    """The backstores that hold a device open; the kernel claims it for one alone."""
    return [found for found in backstores(configfs=configfs) if found.devno == devno]


def _backstore(directory: Path) -> Backstore | None:
    """One that goes away while it is read is as good as gone."""
    try:
        if _read(directory / "enable").strip() != "1":
            return Backstore(directory.name, None, "", False)
        info = _read(directory / "info")
        serial = _read(directory / "wwn" / "vpd_unit_serial").partition(":")[2].strip()
    except DmsnapError:
        return None
    numbers, read_only = _NUMBERS.search(info), _READ_ONLY.search(info)
    devno = os.makedev(int(numbers[1]), int(numbers[2])) if numbers else None
    return Backstore(directory.name, devno, serial, bool(read_only and int(read_only[1])))


def target_path(iqn: str, *, configfs: Path = CONFIGFS) -> Path:
    """An iSCSI target."""
    return root(configfs) / "iscsi" / iqn


def targets(*, configfs: Path = CONFIGFS) -> list[str]:
    """The iSCSI targets that have a name of ours."""
    found = (root(configfs) / "iscsi").glob(f"{IQN_PREFIX}*/")
    return sorted(path.name for path in found)


def luns(iqn: str, *, configfs: Path = CONFIGFS) -> list[int]:
    """The numbers of a target's LUNs."""
    found = (target_path(iqn, configfs=configfs) / TPG / "lun").glob("lun_*/")
    return sorted(int(path.name.removeprefix("lun_")) for path in found)


def has_target(iqn: str, *, configfs: Path = CONFIGFS) -> bool:
    """Whether there is an iSCSI target of that name, enabled or not."""
    return target_path(iqn, configfs=configfs).is_dir()


def is_enabled(iqn: str, *, configfs: Path = CONFIGFS) -> bool:
    """Whether initiators can log in."""
    path = target_path(iqn, configfs=configfs) / TPG / "enable"
    return path.exists() and _read(path).strip() == "1"


def backstore_of_lun(iqn: str, lun: int, *, configfs: Path = CONFIGFS) -> str | None:
    """The name of the backstore behind a LUN; None where nothing is mapped."""
    directory = target_path(iqn, configfs=configfs) / TPG / "lun" / f"lun_{lun}"
    if not directory.is_dir():
        return None
    return next((path.resolve().name for path in directory.iterdir() if path.is_symlink()), None)


def portals(iqn: str, *, configfs: Path = CONFIGFS) -> list[str]:
    """Where a target listens: ``192.0.2.1:3260``, ``[2001:db8::1]:3260``."""
    directory = target_path(iqn, configfs=configfs) / TPG / "np"
    return sorted(path.name for path in directory.glob("*:*"))


def initiators(iqn: str, *, configfs: Path = CONFIGFS) -> list[str]:
    """Who may log in to a target."""
    directory = target_path(iqn, configfs=configfs) / TPG / "acls"
    return sorted(path.name for path in directory.glob("*/"))


def sessions(iqn: str, *, configfs: Path = CONFIGFS) -> list[str]:
    """The initiators that are logged in to a target now."""
    acls = target_path(iqn, configfs=configfs) / TPG / "acls"
    return [name for name in initiators(iqn, configfs=configfs) if _has_session(acls / name)]


def _has_session(acl: Path) -> bool:
    try:
        return not _read(acl / "info").startswith("No active")
    except DmsnapError:
        return False


def is_write_protected(iqn: str, lun: int, *, configfs: Path = CONFIGFS) -> bool:
    """Whether LIO refuses writes to a LUN, of each initiator that sees it."""
    found = list(_write_protection(iqn, lun, configfs))
    return bool(found) and all(found)


def _write_protection(iqn: str, lun: int, configfs: Path) -> Iterator[bool]:
    acls = target_path(iqn, configfs=configfs) / TPG / "acls"
    for path in acls.glob(f"*/lun_{lun}/write_protect"):
        yield _read(path).strip() == "1"


def _read(path: Path) -> str:
    with system_call(f"read {path}"):
        return path.read_text()
