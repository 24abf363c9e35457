"""Points as they were at some moment, and what became of those that were deleted."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from dmsnap.catalogue import rows, schema
from dmsnap.catalogue.model import Deletion, PastPoint, PlaceKind, RecordedPlace
from dmsnap.catalogue.store import Catalogue

_point = schema.point.c
_place = schema.place.c


def as_of(catalogue: Catalogue, volume_id: UUID, time_ns: int) -> list[PastPoint]:
    """The points that a volume had at a moment, oldest first, with the places they had then."""
    query = sa.select(schema.point).where(
        _point.volume_id == str(volume_id),
        _point.created_ns <= time_ns,
        sa.or_(_point.deleted_ns.is_(None), _point.deleted_ns > time_ns),
    )
    at_the_time = sa.and_(
        _place.since_ns <= time_ns, sa.or_(_place.until_ns.is_(None), _place.until_ns > time_ns)
    )
    return _past(catalogue, query, at_the_time)


def deleted(catalogue: Catalogue, first_digits: str) -> list[PastPoint]:
    """The deleted points whose ids begin so, in hexadecimal, with all places they ever had."""
    query = sa.select(schema.point).where(
        sa.func.replace(_point.id, "-", "").startswith(first_digits, autoescape=True),
        _point.deleted_ns.is_not(None),
    )
    return _past(catalogue, query, sa.true())


def _past(
    catalogue: Catalogue, query: sa.Select[Any], which: sa.ColumnElement[bool]
) -> list[PastPoint]:
    with catalogue.transaction() as connection:
        found = connection.execute(query.order_by(_point.created_ns)).mappings().all()
        places = _places(connection, query, which)
    return [
        PastPoint(rows.point(dict(row)), tuple(places[row["id"]]), _deletion(row)) for row in found
    ]


def _places(
    connection: sa.Connection, query: sa.Select[Any], which: sa.ColumnElement[bool]
) -> Mapping[str, list[RecordedPlace]]:
    ids = query.with_only_columns(_point.id).subquery()
    of_points = (
        sa.select(schema.place)
        .join(ids, ids.c.id == _place.point_id)
        .where(which)
        .order_by(_place.since_ns, _place.kind)
    )
    found: dict[str, list[RecordedPlace]] = defaultdict(list)
    for row in connection.execute(of_points):
        place = RecordedPlace(PlaceKind(row.kind), row.device, row.since_ns, row.until_ns)
        found[row.point_id].append(place)
    return found


def _deletion(row: sa.RowMapping) -> Deletion | None:
    if row["deleted_ns"] is None:
        return None
    return Deletion(row["deleted_ns"], row["deleted_reason"], row["deleted_by"])
