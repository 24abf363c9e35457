"""Places of points: a live one goes with its area, those on a recovery volume with its label.

Each function is part of a transaction of the store.
"""

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

import sqlalchemy as sa

from dmsnap.catalogue import schema
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import PlaceKind, Point

_place = schema.place.c
_point = schema.point.c
_IS_OPEN = _place.until_ns.is_(None)
_ON_RECOVERY = (PlaceKind.REPLICA, PlaceKind.HISTORY)


def open_live(connection: sa.Connection, points: Sequence[Point]) -> None:
    """Points that were recorded with an area are live there, from their moment on."""
    live = (
        sa.select(_point.id, sa.literal(str(PlaceKind.LIVE)), _point.created_ns, schema.area.c.path)
        .join(schema.area, schema.area.c.id == _point.area_id)
        .where(_point.id.in_([str(point.id) for point in points]))
    )
    columns = ["point_id", "kind", "since_ns", "device"]
    connection.execute(schema.place.insert().from_select(columns, live))


def close_live(connection: sa.Connection, point_id: UUID) -> None:
    """A point is not live any more."""
    _close(connection, [str(point_id)], [PlaceKind.LIVE])


def close_all(connection: sa.Connection, point_id: UUID) -> None:
    """A point is nowhere any more."""
    _close(connection, [str(point_id)], tuple(PlaceKind))


def forget(connection: sa.Connection, point_ids: sa.Select[tuple[str]]) -> None:
    """Know nothing of where points ever were: they are recorded anew."""
    connection.execute(schema.place.delete().where(_place.point_id.in_(point_ids)))


def exchange(connection: sa.Connection, volume_id: UUID, device: str, held: Sequence[UUID]) -> None:
    """A recovery volume holds these points: the replica's, then its history's, and no others.

    Points that are not recorded themselves are left out.
    """
    wanted = {str(point_id): (PlaceKind.HISTORY, device) for point_id in held}
    wanted |= {str(point_id): (PlaceKind.REPLICA, device) for point_id in held[:1]}
    known = _on_recovery(connection, volume_id)
    changed = {each for each in {*known, *wanted} if known.get(each) != wanted.get(each)}
    _close(connection, changed, _ON_RECOVERY)
    for point_id in sorted(changed & set(wanted)):
        _open_on_recovery(connection, volume_id, point_id, *wanted[point_id])


def _on_recovery(connection: sa.Connection, volume_id: UUID) -> Mapping[str, tuple[PlaceKind, str]]:
    query = (
        sa.select(_place.point_id, _place.kind, _place.device)
        .join(schema.point, _point.id == _place.point_id)
        .where(
            _point.volume_id == str(volume_id),
            _point.deleted_ns.is_(None),
            _place.kind.in_(_ON_RECOVERY),
            _IS_OPEN,
        )
    )
    return {
        point_id: (PlaceKind(kind), device) for point_id, kind, device in connection.execute(query)
    }


def _open_on_recovery(
    connection: sa.Connection, volume_id: UUID, point_id: str, kind: PlaceKind, device: str
) -> None:
    known = sa.exists().where(
        _point.id == point_id, _point.volume_id == str(volume_id), _point.deleted_ns.is_(None)
    )
    if connection.scalar(sa.select(known)):
        connection.execute(
            schema.place.insert().values(
                point_id=point_id, kind=kind, since_ns=now_ns(), device=device
            )
        )


def _close(
    connection: sa.Connection, point_ids: Collection[str], kinds: Collection[PlaceKind]
) -> None:
    connection.execute(
        schema.place.update()
        .where(_place.point_id.in_(point_ids), _place.kind.in_(list(kinds)), _IS_OPEN)
        .values(until_ns=now_ns())
    )
