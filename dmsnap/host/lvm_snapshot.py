"""Snapshots that LVM makes: thick ones with an exception store, and thin ones. Root.

All that are made here are read-only, and carry tags that say what their names do not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dmsnap.errors import NotFoundError, ProgramError
from dmsnap.host import lvm
from dmsnap.host.run import which

_FIELDS = (
    "vg_name,lv_name,lv_uuid,lv_size,origin_size,lv_tags,origin,lv_layout,lv_role,lv_active,"
    "lv_dm_path,thin_id"
)


THICK_SNAPSHOT = "thicksnapshot"


@dataclass(frozen=True, slots=True)
class LvState:
    """A logical volume as LVM reports it. ``origin`` is of snapshots that have one still.

    ``size_bytes`` is what can be read of it: LVM calls that of a thick snapshot its origin's size.
    ``thin_id`` is the number that its thin pool knows it by; ``dm_name`` that of its dm device,
    which is there while it is ``active``.
    """

    vg: str
    name: str
    uuid: str
    size_bytes: int
    tags: tuple[str, ...]
    origin: str | None
    layout: tuple[str, ...]
    roles: tuple[str, ...]
    active: bool
    dm_name: str
    thin_id: int | None

    @property
    def full_name(self) -> str:
        """``VG/LV``."""
        return f"{self.vg}/{self.name}"

    @property
    def is_thin(self) -> bool:
        """Whether it is a thin volume: not a pool, and not a thick snapshot of a thin one."""
        return self.thin_id is not None

    @property
    def is_thick_snapshot(self) -> bool:
        """Whether it is what an exception store is laid over."""
        return THICK_SNAPSHOT in self.roles


def volumes() -> list[LvState]:
    """All logical volumes but those that are parts of others; none where LVM is not installed."""
    if which("lvm") is None:
        return []
    return parse_volumes(lvm.report("lvs", "lv", _FIELDS))


def find(vg: str, name: str) -> LvState | None:
    """The logical volume of that name, or None."""
    return next((each for each in volumes() if (each.vg, each.name) == (vg, name)), None)


def existing(vg: str, name: str) -> LvState:
    """As :func:`find`; ``NotFoundError`` where there is none."""
    found = find(vg, name)
    if found is None:
        raise NotFoundError(f"there is no logical volume {vg}/{name}", vg=vg, name=name)
    return found


def parse_volumes(rows: Sequence[dict[str, str]]) -> list[LvState]:
    """A row for each segment of each, all alike; ``ProgramError`` for one of another shape."""
    try:
        return [_volume(row) for row in {row["lv_uuid"]: row for row in rows}.values()]
    except (KeyError, ValueError) as error:
        raise ProgramError(f"lvm's report has an unknown shape: {str(rows)[:200]}") from error


def _volume(row: dict[str, str]) -> LvState:
    roles = _words(row["lv_role"])
    # Of a thick snapshot, lv_size is that of its exception store.
    size = row["origin_size" if THICK_SNAPSHOT in roles else "lv_size"]
    return LvState(
        vg=row["vg_name"],
        name=row["lv_name"],
        uuid=row["lv_uuid"],
        size_bytes=int(size),
        tags=_words(row["lv_tags"]),
        origin=row["origin"].strip("[]") or None,
        layout=_words(row["lv_layout"]),
        roles=roles,
        active=row["lv_active"] not in ("", "inactive"),
        dm_name=Path(row["lv_dm_path"]).name,
        thin_id=int(row["thin_id"]) if row["thin_id"] else None,
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def create_thick(origin: LvState, name: str, size_bytes: int, tags: Sequence[str]) -> None:
    """A snapshot of ``origin`` with an exception store of ``size_bytes``, whole extents.

    LVM freezes the file system for it, and makes the store no larger than the origin can fill.
    """
    room = ("--size", f"{size_bytes}b", "--chunksize", "4k")
    _create(origin, name, tags, *room)


def create_thin(origin: LvState, name: str, tags: Sequence[str]) -> None:
    """A snapshot of the thin volume ``origin`` in its pool; inactive, and skipped at boot.

    LVM freezes the file system for it.
    """
    _create(origin, name, tags, "--setactivationskip", "y")


def _create(origin: LvState, name: str, tags: Sequence[str], *options: str) -> None:
    words = [word for tag in (lvm.TAG, *tags) for word in ("--addtag", tag)]
    group = lvm.complete_group(origin.vg)
    snapshot = ("--yes", "--snapshot", "--permission", "r", "--name", name)
    lvm.change(group, "lvcreate", *snapshot, *words, *options, origin.full_name)


def activate(volume: LvState) -> None:
    """Have the volume's dm device, though it is skipped at boot."""
    _activation(volume, "y")


def deactivate(volume: LvState) -> None:
    """Remove the volume's dm device; ``ProgramError`` while it is in use."""
    _activation(volume, "n")


def _activation(volume: LvState, wanted: str) -> None:
    group = lvm.complete_group(volume.vg)
    words = ("--activate", wanted, "--ignoreactivationskip")
    lvm.change(group, "lvchange", "--yes", *words, volume.full_name)
