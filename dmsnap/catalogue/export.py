"""What is published as LUNs, so that it can be published again after a boot."""

from dataclasses import dataclass, fields
from enum import StrEnum
from uuid import UUID

from dmsnap.catalogue.statements import Row, Statements, from_json
from dmsnap.catalogue.store import Catalogue


class ExportKind(StrEnum):
    """What a LUN shows."""

    FRONT = "front"
    POINT = "point"
    DEVICE = "device"


@dataclass(frozen=True, slots=True)
class Source:
    """What a LUN shows: a volume's front, one of its points, or a device of no volume.

    ``device`` is the path of a device, ``led_to`` which one that is, None: not known (as in
    ``Volume``); ``size_bytes`` what it had.
    """

    kind: ExportKind
    volume_id: UUID | None
    point_id: UUID | None
    device: str | None
    size_bytes: int
    led_to: str | None = None


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
    of_volume = "" if volume_id is None else "WHERE volume_id = :volume"
    query = f"SELECT * FROM export {of_volume} ORDER BY created_ns"  # noqa: S608
    with catalogue.statements() as statements:
        return [from_row(row) for row in statements.rows(query, volume=volume_id)]


def record(catalogue: Catalogue, export: Export) -> None:
    """Record an export, in place of what was recorded of it."""
    with catalogue.statements() as statements:
        record_in(statements, export)


def record_in(statements: Statements, export: Export) -> None:
    """As :func:`record`, as a part of a transaction; when it was made stays as it is recorded."""
    columns = _columns(export)
    created = "SELECT created_ns FROM export WHERE id = :id"
    columns["created_ns"] = statements.value(created, id=export.id) or export.created_ns
    _forget(statements, export.id)
    statements.insert("export", [columns])


def forget(catalogue: Catalogue, export_id: UUID) -> None:
    """Know nothing of an export any more."""
    with catalogue.statements() as statements:
        _forget(statements, export_id)


def _forget(statements: Statements, export_id: UUID) -> None:
    statements.execute("DELETE FROM export WHERE id = :id", id=export_id)


def _columns(export: Export) -> dict[str, object]:
    values = {field.name: getattr(export, field.name) for field in fields(Export)}
    source = values.pop("source")
    values |= {field.name: getattr(source, field.name) for field in fields(Source)}
    return values


def from_row(row: Row) -> Export:
    """The export of its row."""
    values = {field.name: row[field.name] for field in fields(Export) if field.name != "source"}
    source = Source(
        kind=ExportKind(row["kind"]),
        volume_id=_uuid(row["volume_id"]),
        point_id=_uuid(row["point_id"]),
        device=row["device"],
        size_bytes=row["size_bytes"],
        led_to=row["led_to"],
    )
    return Export(
        **values
        | {
            "id": UUID(row["id"]),
            "source": source,
            "initiators": tuple(from_json(row["initiators"])),
            "read_only": bool(row["read_only"]),
            "complete": bool(row["complete"]),
        }
    )


def _uuid(text: str | None) -> UUID | None:
    return UUID(text) if text else None
