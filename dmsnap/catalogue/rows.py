"""Rows of the catalogue, and the values that they are made of and become."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar
from uuid import UUID

from dmsnap.catalogue.model import (
    Area,
    AreaRole,
    Hydration,
    LiveFront,
    MountRecord,
    Parting,
    Point,
    Volume,
    VolumeState,
)

Row = TypeVar("Row", Volume, Area, Point)


def columns(value: Row) -> dict[str, object]:
    """The row of a dataclass: ids as text, the rest as it is."""
    row = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Volume):
        row["mounts"] = [asdict(mount) for mount in value.mounts]
        row["parting"] = asdict(value.parting) if value.parting else None
        row["hydration"] = asdict(value.hydration) if value.hydration else None
        row["live"] = asdict(value.live) if value.live else None
    return {
        name: str(column) if isinstance(column, UUID) else column for name, column in row.items()
    }


def _uuid(text: str | None) -> UUID | None:
    return UUID(text) if text else None


def mounts(row: Mapping[str, Any]) -> tuple[MountRecord, ...]:
    """How a volume was mounted, of its row."""
    return tuple(
        MountRecord(**mount | {"options": tuple(mount["options"])}) for mount in row["mounts"]
    )


def hydration(row: Mapping[str, Any]) -> Hydration | None:
    """Where a volume is on its way to, of its row."""
    return Hydration(**row["hydration"]) if row["hydration"] else None


def volume(row: Mapping[str, Any]) -> Volume:
    values = {field.name: row[field.name] for field in fields(Volume)}
    return Volume(
        **values
        | {
            "id": UUID(row["id"]),
            "state": VolumeState(row["state"]),
            "recovery_id": _uuid(row["recovery_id"]),
            "trial_point": _uuid(row["trial_point"]),
            "mounts": mounts(row),
            "parting": Parting(**row["parting"]) if row["parting"] else None,
            "hydration": hydration(row),
            "left_behind": tuple(row["left_behind"] or ()),
            "units": tuple(row["units"] or ()),
            "trial_live": bool(row["trial_live"]),
            "live": LiveFront(**row["live"]) if row["live"] else None,
        }
    )


def area(row: Mapping[str, Any]) -> Area:
    return Area(
        id=UUID(row["id"]),
        volume_id=UUID(row["volume_id"]),
        role=AreaRole(row["role"]),
        generation=row["generation"],
        path=row["path"],
        size_bytes=row["size_bytes"],
        point_id=_uuid(row["point_id"]),
    )


def point(row: Mapping[str, Any]) -> Point:
    values = {field.name: row[field.name] for field in fields(Point)}
    return Point(
        **values
        | {
            "id": UUID(row["id"]),
            "volume_id": UUID(row["volume_id"]),
            "area_id": _uuid(row["area_id"]),
        }
    )
