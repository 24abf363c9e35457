"""Reading labels, and the backup of the catalogue beside them, of devices and of image files.

Needs no catalogue, and no root where the file or device can be read.
"""

from dataclasses import dataclass, fields
from pathlib import Path

from dmsnap._native import label
from dmsnap._native.label import Label
from dmsnap.errors import DmsnapError
from dmsnap.host.blockdev import device_or_file_size
from dmsnap.recovery import backup_area
from dmsnap.service.inspection.inspect import opened


@dataclass(frozen=True, slots=True)
class BackupInspection:
    """The backup of the catalogue beside a label; ``problem`` is why it could not be used."""

    offset_bytes: int
    generation: int | None = None
    written_ns: int | None = None
    packed_bytes: int | None = None
    content_bytes: int | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class LabelInspection(Label):
    """A label, and the backup beside it; None: the recovery volume has no room for one."""

    backup: BackupInspection | None = None


def inspect_label(device: Path) -> LabelInspection:
    """The newest whole label of a recovery volume, and the backup of the catalogue beside it."""
    size_bytes = device_or_file_size(device)
    with opened(device) as fd:
        found = label.read(fd, size_bytes, str(device))
        beside = inspect_backup(fd, found, size_bytes, str(device))
    return LabelInspection(
        **{each.name: getattr(found, each.name) for each in fields(Label)}, backup=beside
    )


def inspect_backup(fd: int, found: Label, size_bytes: int, name: str) -> BackupInspection | None:
    """The newest backup that is whole, or why there is none."""
    extent = backup_area.extent_of(found, size_bytes)
    if extent is None:
        return None
    try:
        backup = backup_area.read(fd, found, size_bytes, name)
    except DmsnapError as error:
        return BackupInspection(extent.offset_bytes, problem=str(error))
    if backup is None:
        return BackupInspection(extent.offset_bytes)
    return BackupInspection(
        extent.offset_bytes,
        backup.generation,
        backup.time_ns,
        backup.packed_bytes,
        len(backup.content),
    )
