"""Places of points: a live one goes with its area, those on a recovery volume with its label.

Each function is part of a transaction of the store.
"""

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import PlaceKind, Point
from dmsnap.catalogue.statements import Statements, listed

_ON_RECOVERY = (PlaceKind.REPLICA, PlaceKind.HISTORY)


def open_live(statements: Statements, points: Sequence[Point]) -> None:
    """Points that were recorded with an area are live there, from their moment on."""
    these, ids = listed("point", [point.id for point in points])
    statements.execute(
        "INSERT INTO place (point_id, kind, since_ns, device)"  # noqa: S608
        f" SELECT point.id, '{PlaceKind.LIVE}', point.created_ns, area.path"
        f" FROM point JOIN area ON area.id = point.area_id WHERE point.id IN {these}",
        **ids,
    )


def close_live(statements: Statements, point_id: UUID) -> None:
    """A point is not live any more."""
    _close(statements, [point_id], [PlaceKind.LIVE])


def close_all(statements: Statements, point_ids: Collection[object]) -> None:
    """Points are nowhere any more."""
    _close(statements, point_ids, tuple(PlaceKind))


def forget(statements: Statements, point_ids: str, **values: object) -> None:
    """Know nothing of where points ever were: they are recorded anew. ``point_ids`` is a query."""
    statements.execute(f"DELETE FROM place WHERE point_id IN ({point_ids})", **values)  # noqa: S608


def exchange(statements: Statements, volume_id: UUID, device: str, held: Sequence[UUID]) -> None:
    """A recovery volume holds these points: the replica's, then its history's, and no others.

    Points that are not recorded themselves are left out.
    """
    wanted = {str(point_id): (PlaceKind.HISTORY, device) for point_id in held}
    wanted |= {str(point_id): (PlaceKind.REPLICA, device) for point_id in held[:1]}
    known = _on_recovery(statements, volume_id)
    changed = {each for each in {*known, *wanted} if known.get(each) != wanted.get(each)}
    _close(statements, changed, _ON_RECOVERY)
    for point_id in sorted(changed & set(wanted)):
        _open_on_recovery(statements, volume_id, point_id, *wanted[point_id])


def _on_recovery(statements: Statements, volume_id: UUID) -> Mapping[str, tuple[PlaceKind, str]]:
    kinds, values = listed("kind", _ON_RECOVERY)
    found = statements.rows(
        "SELECT place.point_id, place.kind, place.device"  # noqa: S608
        " FROM place JOIN point ON point.id = place.point_id"
        " WHERE point.volume_id = :volume AND point.deleted_ns IS NULL"
        f" AND place.kind IN {kinds} AND place.until_ns IS NULL",
        volume=volume_id,
        **values,
    )
    return {row["point_id"]: (PlaceKind(row["kind"]), row["device"]) for row in found}


def _open_on_recovery(
    statements: Statements, volume_id: UUID, point_id: str, kind: PlaceKind, device: str
) -> None:
    known = "SELECT 1 FROM point WHERE id = :id AND volume_id = :volume AND deleted_ns IS NULL"
    if statements.value(known, id=point_id, volume=volume_id):
        opened = {"point_id": point_id, "kind": kind, "since_ns": now_ns(), "device": device}
        statements.insert("place", [opened])


def _close(
    statements: Statements, point_ids: Collection[object], kinds: Collection[PlaceKind]
) -> None:
    points, ids = listed("point", point_ids)
    of_kinds, values = listed("kind", kinds)
    statements.execute(
        "UPDATE place SET until_ns = :now"  # noqa: S608
        f" WHERE point_id IN {points} AND kind IN {of_kinds} AND until_ns IS NULL",
        now=now_ns(),
        **ids,
        **values,
    )
