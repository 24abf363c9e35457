"""What is published as LUNs, so that it can be published again after a boot."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from dmsnap.catalogue import schema
from dmsnap.catalogue.store import Catalogue


class ExportKind(StrEnum):
    """What a LUN shows."""

    FRONT = "front"
    POINT = "point"
    DEVICE = "device"


@dataclass(frozen=True, slots=True)
class Source:
    """What a LUN shows: a volume's front, one of its points, or a device of no volume.

    ``device`` is the path of a device; ``size_bytes`` what it had.
    """

    kind: ExportKind
    volume_id: UUID | None
    point_id: UUID | None
    device: str | None
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Export:
    """A LUN. ``id`` is its serial number, whatever it comes to show.

    ``generation`` counts its backstores. One that is not ``complete`` belongs to a command that
    was killed, or is still at it.
    """

    id: UUID
    source: Source
    target: str
    lun: int
    address: str
    port: int
    initiators: tuple[str, ...]
    read_only: bool
    generation: int
    complete: bool
    created_ns: int

    @property
    def backstore(self) -> str:
        """The name of the backstore that it shows now."""
        return f"dmsnap-{self.id.hex[:12]}-{self.generation}"

    @property
    def portal(self) -> str:
        """As LIO and iscsiadm write it."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"


def exports(catalogue: Catalogue, volume_id: UUID | None = None) -> list[Export]:
    """All exports, or those of one volume, the oldest first."""
    query = sa.select(schema.export).order_by(schema.export.c.created_ns)
    if volume_id is not None:
        query = query.where(schema.export.c.volume_id == str(volume_id))
    with catalogue.transaction() as connection:
        return [_export(dict(row)) for row in connection.execute(query).mappings()]


def record(catalogue: Catalogue, export: Export) -> None:
    """Record an export, in place of what was recorded of it."""
    with catalogue.transaction() as connection:
        record_in(connection, export)


def record_in(connection: sa.Connection, export: Export) -> None:
    """As :func:`record`, as a part of a transaction; when it was made stays as it is recorded."""
    columns, created = _columns(export), schema.export.c.created_ns
    this = schema.export.c.id == str(export.id)
    columns["created_ns"] = (
        connection.scalar(sa.select(created).where(this)) or columns["created_ns"]
    )
    connection.execute(_of(schema.export.delete(), export.id))
    connection.execute(schema.export.insert().values(**columns))


def forget(catalogue: Catalogue, export_id: UUID) -> None:
    """Know nothing of an export any more."""
    with catalogue.transaction() as connection:
        connection.execute(_of(schema.export.delete(), export_id))


def _of(statement: sa.Delete, export_id: UUID) -> sa.Delete:
    return statement.where(schema.export.c.id == str(export_id))


def _columns(export: Export) -> dict[str, Any]:
    values = {field.name: getattr(export, field.name) for field in fields(Export)}
    source = values.pop("source")
    values |= {field.name: getattr(source, field.name) for field in fields(Source)}
    values["initiators"] = list(export.initiators)
    return {
        name: str(value) if isinstance(value, UUID) else value for name, value in values.items()
    }


def _export(row: Mapping[str, Any]) -> Export:
    values = {field.name: row[field.name] for field in fields(Export) if field.name != "source"}
    source = Source(
        kind=ExportKind(row["kind"]),
        volume_id=_uuid(row["volume_id"]),
        point_id=_uuid(row["point_id"]),
        device=row["device"],
        size_bytes=row["size_bytes"],
    )
    initiators = tuple(row["initiators"])
    return Export(**values | {"id": UUID(row["id"]), "source": source, "initiators": initiators})


def _uuid(text: str | None) -> UUID | None:
    return UUID(text) if text else None
