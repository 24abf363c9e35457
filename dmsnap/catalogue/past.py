"""Points as they were at some moment, and what became of those that were deleted."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import fields
from uuid import UUID

from dmsnap.catalogue import lifetime, rows
from dmsnap.catalogue.model import Deletion, PastPoint, PlaceKind, Point, RecordedPlace
from dmsnap.catalogue.statements import Row, Statements
from dmsnap.catalogue.store import Catalogue

_POINT = [each.name for each in (*fields(Point), *fields(Deletion))]
_PLACE = [each.name for each in fields(RecordedPlace)]


# No moment is later: what is recorded with a time is so by a clock that may have been ahead.
LAST_NS = 2**63 - 1


def of_present(catalogue: Catalogue, volume_id: UUID) -> list[PastPoint]:
    """The points of a volume that are recorded as there, with their places, whatever time it is."""
    return as_of(catalogue, LAST_NS, volume_id)


def as_of(catalogue: Catalogue, time_ns: int, volume_id: UUID | None = None) -> list[PastPoint]:
    """The points of a moment, oldest first, with the places they had then.

    Those of one volume, or of all that are protected now.
    """
    taken_after = {
        f"after_{number}": lifetime.taken_after_ns(number, time_ns) for number in lifetime.CLASSES
    }
    with catalogue.statements() as statements:
        query = _as_of(statements, "removed_ns IS NULL" if volume_id is None else "id = :volume")
        return _past(statements.rows(query, volume=volume_id, time=time_ns, **taken_after))


def _as_of(statements: Statements, which: str) -> str:
    """The query: of each volume those that are there still, and of each class those deleted since.

    They are looked up range by range in the indexes of either; see ``lifetime``.
    """
    of_volume = "point.volume_id = volume.id AND point.created_ns <= :time"
    present = statements.each("point", f"{of_volume} AND point.deleted_ns IS NULL")
    gone = statements.each(
        "point",
        f"{of_volume} AND point.deleted_ns IS NOT NULL AND point.lifetime_class = class.number"
        " AND point.created_ns > class.after_ns AND point.deleted_ns > :time",
    )
    place = statements.each(
        "place",
        "place.point_id = point.id AND place.since_ns <= :time"
        " AND (place.until_ns IS NULL OR place.until_ns > :time)",
        optional=True,
    )
    classes = " UNION ALL ".join(
        f"SELECT {number} AS number, CAST(:after_{number} AS BIGINT) AS after_ns"
        for number in lifetime.CLASSES
    )
    columns = _columns("point")
    return (
        f"SELECT {columns} FROM volume {present} {place} WHERE volume.{which}"  # noqa: S608
        f" UNION ALL SELECT {columns} FROM volume CROSS JOIN ({classes}) AS class {gone} {place}"
        f" WHERE volume.{which}"
    )


def deleted(catalogue: Catalogue, first_digits: str) -> list[PastPoint]:
    """The deleted points whose ids begin so, in hexadecimal, with all places they ever had."""
    first, beyond = rows.ids_beginning(first_digits)
    with catalogue.statements() as statements:
        query = (
            f"SELECT {_columns('point')} FROM point {_places(statements, 'point')}"  # noqa: S608
            " WHERE point.id >= :first AND point.id < :beyond AND point.deleted_ns IS NOT NULL"
        )
        return _past(statements.rows(query, first=first, beyond=beyond))


def deleted_since(
    catalogue: Catalogue, volume_id: UUID, since_ns: int, count: int
) -> list[PastPoint]:
    """The newest of a volume's deleted points, taken at ``since_ns`` or later, oldest first.

    With all places they ever had.
    """
    columns, newest = _columns("newest"), lifetime.newest_deleted()
    with catalogue.statements() as statements:
        query = f"SELECT {columns} FROM ({newest}) AS newest {_places(statements, 'newest')}"  # noqa: S608
        return _past(statements.rows(query, volume=volume_id, since_ns=since_ns, count=count))


def _columns(point: str) -> str:
    return ", ".join([f"{point}.{name}" for name in _POINT] + [f"place.{name}" for name in _PLACE])


def _places(statements: Statements, point: str) -> str:
    """All places that a point ever had."""
    return statements.each("place", f"place.point_id = {point}.id", optional=True)


def _past(found: Iterable[Row]) -> list[PastPoint]:
    """Points of their rows: there is one for each place, and one where there is none."""
    points: dict[str, Row] = {}
    places: dict[str, list[RecordedPlace]] = defaultdict(list)
    for row in found:
        points[row["id"]] = row
        if row["kind"] is not None:
            kind = PlaceKind(row["kind"])
            place = RecordedPlace(kind, row["device"], row["since_ns"], row["until_ns"])
            places[row["id"]].append(place)
    past = [
        PastPoint(rows.point(row), tuple(sorted(places[point_id], key=_order)), _deletion(row))
        for point_id, row in points.items()
    ]
    return sorted(past, key=lambda one: one.point.created_ns)


def _order(place: RecordedPlace) -> tuple[int, str]:
    return place.since_ns, place.kind


def _deletion(row: Row) -> Deletion | None:
    if row["deleted_ns"] is None:
        return None
    return Deletion(row["deleted_ns"], row["deleted_reason"], row["deleted_by"])
