"""Rows of the catalogue, and the values that they are made of and become."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from itertools import pairwise
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
from dmsnap.catalogue.statements import from_json

Row = TypeVar("Row", Volume, Area, Point)


def columns(value: Row) -> dict[str, object]:
    """The row of a dataclass, as :class:`Statements` takes it."""
    row = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Volume):
        row["mounts"] = [_mount(mount) for mount in value.mounts]
        row["parting"] = asdict(value.parting) if value.parting else None
        row["hydration"] = _hydration(value.hydration) if value.hydration else None
        row["live"] = asdict(value.live) if value.live else None
        row["led_to"] = dict(value.led_to) or None
    return row


def ids_beginning(digits: str) -> tuple[str, str]:
    """The first id that begins so, in hexadecimal, and what lies beyond: a range of an index."""
    ends = (0, 8, 12, 16, 20, 32)
    parts = (digits[begin:end] for begin, end in pairwise(ends))
    first = "-".join(part for part in parts if part)
    return first, f"{first}g"  # g comes behind all digits


def _mount(value: MountRecord) -> dict[str, object]:
    """What is not there is left out: who knows nothing of it refuses what is backed up so."""
    words = asdict(value)
    if not value.over:
        del words["over"]
    return words


def _hydration(value: Hydration) -> dict[str, object]:
    """As with mounts."""
    words = asdict(value)
    if not value.identity:
        del words["identity"]
    return words


def _uuid(text: str | None) -> UUID | None:
    return UUID(text) if text else None


def mounts(row: Mapping[str, Any]) -> tuple[MountRecord, ...]:
    """How a volume was mounted, of its row."""
    return tuple(
        MountRecord(**mount | {"options": tuple(mount["options"])})
        for mount in from_json(row["mounts"])
    )


def hydration(row: Mapping[str, Any]) -> Hydration | None:
    """Where a volume is on its way to, of its row."""
    moving = from_json(row["hydration"])
    return Hydration(**moving) if moving else None


def volume(row: Mapping[str, Any]) -> Volume:
    values = {field.name: row[field.name] for field in fields(Volume)}
    parting, live = (from_json(row[name]) for name in ("parting", "live"))
    return Volume(
        **values
        | {
            "id": UUID(row["id"]),
            "state": VolumeState(row["state"]),
            "recovery_id": _uuid(row["recovery_id"]),
            "trial_point": _uuid(row["trial_point"]),
            "mounts": mounts(row),
            "parting": Parting(**parting) if parting else None,
            "hydration": hydration(row),
            "left_behind": tuple(from_json(row["left_behind"]) or ()),
            "units": tuple(from_json(row["units"]) or ()),
            "trial_live": bool(row["trial_live"]),
            "live": LiveFront(**live) if live else None,
            "joined": bool(row["joined"]),
            "led_to": tuple((from_json(row["led_to"]) or {}).items()),
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
    return Point(
        id=UUID(row["id"]),
        volume_id=UUID(row["volume_id"]),
        created_ns=row["created_ns"],
        keep=bool(row["keep"]),
        temporary=bool(row["temporary"]),
        era_since=row["era_since"],
        tracking_id=row["tracking_id"],
        window_seconds=row["window_seconds"],
        area_id=_uuid(row["area_id"]),
        invalid_reason=row["invalid_reason"],
        expires_ns=row["expires_ns"],
        comment=row["comment"],
    )
