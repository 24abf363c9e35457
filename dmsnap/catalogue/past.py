"""Points as they were at some moment, and what became of those that were deleted."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from dmsnap.catalogue import lifetime, rows, schema
from dmsnap.catalogue.model import Deletion, PastPoint, PlaceKind, RecordedPlace
from dmsnap.catalogue.store import Catalogue

# Parameters of one query; SQLite takes 32766.
MANY = 10_000

_point = schema.point.c
_place = schema.place.c


def as_of(catalogue: Catalogue, time_ns: int, volume_id: UUID | None = None) -> list[PastPoint]:
    """The points of a moment, oldest first, with the places they had then.

    Those of one volume, or of all that are protected now.
    """
    if volume_id is None:
        protected = sa.select(schema.volume.c.id).where(schema.volume.c.removed_ns.is_(None))
        of_volumes = sa.select(schema.point).where(_point.volume_id.in_(protected))
    else:
        of_volumes = sa.select(schema.point).where(_point.volume_id == str(volume_id))
    of_volumes = of_volumes.where(_point.created_ns <= time_ns)
    present = of_volumes.where(_point.deleted_ns.is_(None))
    gone_since = of_volumes.where(_point.deleted_ns > time_ns)
    # A query for each class, and not one over all of them: planners make a scan of that.
    of_classes = (
        gone_since.where(
            _point.lifetime_class == number,
            _point.created_ns > lifetime.taken_after_ns(number, time_ns),
        )
        for number in lifetime.CLASSES
    )
    at_the_time = sa.and_(
        _place.since_ns <= time_ns, sa.or_(_place.until_ns.is_(None), _place.until_ns > time_ns)
    )
    return _past(catalogue, sa.union_all(present, *of_classes), at_the_time)


def deleted(catalogue: Catalogue, first_digits: str) -> list[PastPoint]:
    """The deleted points whose ids begin so, in hexadecimal, with all places they ever had."""
    first = dashed(first_digits)
    # A range, which an index is for; g comes behind all digits.
    query = sa.select(schema.point).where(
        _point.id >= first, _point.id < f"{first}g", _point.deleted_ns.is_not(None)
    )
    return _past(catalogue, query, sa.true())


def deleted_since(
    catalogue: Catalogue, volume_id: UUID, since_ns: int, count: int
) -> list[PastPoint]:
    """The newest of a volume's deleted points, taken at ``since_ns`` or later, oldest first.

    With all places they ever had.
    """
    gone = sa.select(schema.point).where(
        _point.volume_id == str(volume_id),
        _point.deleted_ns.is_not(None),
        _point.created_ns >= since_ns,
    )
    # A query for each class, as in as_of: each deleted point is of one.
    of_classes = (gone.where(_point.lifetime_class == number) for number in lifetime.CLASSES)
    either = sa.union_all(*of_classes).subquery()
    newest = sa.select(either).order_by(either.c.created_ns.desc()).limit(count)
    return _past(catalogue, newest, sa.true())


def dashed(digits: str) -> str:
    """The first digits of a UUID, as its text has them."""
    ends = (0, 8, 12, 16, 20, 32)
    parts = (digits[begin:end] for begin, end in pairwise(ends))
    return "-".join(part for part in parts if part)


def _past(
    catalogue: Catalogue,
    query: sa.Select[Any] | sa.CompoundSelect[*tuple[Any, ...]],
    which: sa.ColumnElement[bool],
) -> list[PastPoint]:
    with catalogue.transaction() as connection:
        found = connection.execute(query).mappings().all()
        places = _places(connection, [row["id"] for row in found], which)
    past = [
        PastPoint(rows.point(dict(row)), tuple(places.get(row["id"], ())), _deletion(row))
        for row in found
    ]
    return sorted(past, key=lambda one: one.point.created_ns)


def _places(
    connection: sa.Connection, point_ids: Sequence[str], which: sa.ColumnElement[bool]
) -> Mapping[str, list[RecordedPlace]]:
    found: dict[str, list[RecordedPlace]] = defaultdict(list)
    for first in range(0, len(point_ids), MANY):
        query = (
            sa.select(schema.place)
            .where(_place.point_id.in_(point_ids[first : first + MANY]), which)
            .order_by(_place.since_ns, _place.kind)
        )
        for row in connection.execute(query):
            place = RecordedPlace(PlaceKind(row.kind), row.device, row.since_ns, row.until_ns)
            found[row.point_id].append(place)
    return found


def _deletion(row: sa.RowMapping) -> Deletion | None:
    if row["deleted_ns"] is None:
        return None
    return Deletion(row["deleted_ns"], row["deleted_reason"], row["deleted_by"])
