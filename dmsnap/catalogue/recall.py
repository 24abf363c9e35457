"""Recording again what an excerpt says of a volume, beside what was found of it.

Part of the transaction that records the volume. What is recorded stays: points that labels and
stacks show are where those say, whatever an excerpt does.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from dmsnap.catalogue import lifetime, schema
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.excerpt import MANY, Excerpt, Row
from dmsnap.host.process import login_name

NOT_FOUND = "it was not found when the catalogue was rebuilt"

# Of a point that was found: its own place says these.
_FOUND_OTHERWISE = {
    "id", "volume_id", "keep", "temporary", "deleted_ns", "deleted_reason", "deleted_by",
}  # fmt: skip


def everything(connection: sa.Connection, excerpt: Excerpt) -> None:
    """All that is in an excerpt, but for the volume itself."""
    history(connection, excerpt)
    exports(connection, excerpt)
    jobs(connection, excerpt)


def history(connection: sa.Connection, excerpt: Excerpt) -> None:
    """What a volume was: its points, those that are gone too, and by what it was known."""
    _points(connection, excerpt)
    _places(connection, excerpt)
    _insert_missing(connection, schema.identifier, excerpt.of("identifier"))


def exports(connection: sa.Connection, excerpt: Excerpt) -> None:
    """What is published of it: nothing of a point that is gone."""
    wanted = [row["point_id"] for row in excerpt.of("export") if row["point_id"] is not None]
    present = _present(connection, wanted)
    rows = [row for row in excerpt.of("export") if row["point_id"] in {None, *present}]
    _insert_missing(connection, schema.export, rows)


def jobs(connection: sa.Connection, excerpt: Excerpt) -> None:
    """How its jobs ended, under their own numbers unless others have them."""
    ended = sorted(excerpt.of("job"), key=lambda row: bool(_find(connection, schema.job, row)))
    for row in ended:
        job_id = _recorded_as(connection, row)
        if job_id is None:
            job_id = row["id"]
            if _find(connection, schema.job, row) is not None:
                job_id = connection.scalar(sa.select(sa.func.max(schema.job.c.id) + 1))
            connection.execute(schema.job.insert().values(**{**row, "id": job_id}))
        for table in (schema.job_volume, schema.job_step):
            mine = [r for r in excerpt.of(table.name) if r["job_id"] == row["id"]]
            settled = {"settled": True} if table is schema.job_volume else {}
            _insert_missing(connection, table, [{**r, "job_id": job_id, **settled} for r in mine])


def _recorded_as(connection: sa.Connection, row: Row) -> int | None:
    """The number of a job that is recorded: one on several volumes is in the excerpt of each."""
    same = {name: row[name] for name in ("operation", "started_ns", "pid")}
    found: int | None = connection.scalar(sa.select(schema.job.c.id).filter_by(**same).limit(1))
    return found


def _points(connection: sa.Connection, excerpt: Excerpt) -> None:
    given = excerpt.of("point")
    present = _present(connection, [row["id"] for row in given])
    gone = []
    for row in given:
        if row["id"] in present:
            known = {name: each for name, each in row.items() if name not in _FOUND_OTHERWISE}
            this = schema.point.c.id == row["id"]
            connection.execute(schema.point.update().where(this).values(known))
        else:
            gone.append(_as_deleted(row))
    _insert_missing(connection, schema.point, gone)


def _as_deleted(row: Row) -> Mapping[str, Any]:
    """A point that is nowhere; when that was not recorded, it is so from now on."""
    deletion: dict[str, Any] = {}
    if row["deleted_ns"] is None:
        deletion = {
            "deleted_ns": now_ns(),
            "deleted_reason": NOT_FOUND,
            "deleted_by": login_name(),
        }
    now = {**row, **deletion}
    lived = lifetime.class_of(now["created_ns"], now["deleted_ns"])
    return {**now, "era_since": 0, "tracking_id": "", "lifetime_class": lived, "temporary": False}


def _places(connection: sa.Connection, excerpt: Excerpt) -> None:
    """Where points were; those that are live are so where they were found."""
    given = excerpt.of("place")
    ids = {row["point_id"] for row in given}
    present = _present(connection, sorted(ids))
    live = {
        row["point_id"]: row
        for row in _recorded(connection, sorted(present))
        if row["kind"] == "live" and row["until_ns"] is None
    }
    for row in given:
        now = dict(row)
        is_live = live.get(row["point_id"], {}).get("device") == row["device"]
        still = row["point_id"] in present and (row["kind"] != "live" or is_live)
        if row["until_ns"] is None and not still:
            now["until_ns"] = now_ns()
        _insert_missing(connection, schema.place, [now])


def _present(connection: sa.Connection, ids: Sequence[str]) -> set[str]:
    """Which of these points are recorded, and not as deleted."""
    point, found = schema.point.c, set()
    for first in range(0, len(ids), MANY):
        some = ids[first : first + MANY]
        query = sa.select(point.id).where(point.id.in_(some), point.deleted_ns.is_(None))
        found |= set(connection.scalars(query))
    return found


def _recorded(connection: sa.Connection, ids: Sequence[str]) -> Iterable[Row]:
    for first in range(0, len(ids), MANY):
        query = sa.select(schema.place).where(
            schema.place.c.point_id.in_(ids[first : first + MANY])
        )
        yield from [dict(row) for row in connection.execute(query).mappings()]


def _find(connection: sa.Connection, table: sa.Table, row: Row) -> Row | None:
    query = sa.select(table).filter_by(**{key.name: row[key.name] for key in table.primary_key})
    found = connection.execute(query).mappings().first()
    return None if found is None else dict(found)


def _insert_missing(connection: sa.Connection, table: sa.Table, rows: Sequence[Row]) -> None:
    for row in rows:
        if _find(connection, table, row) is None:
            connection.execute(table.insert().values(row))
