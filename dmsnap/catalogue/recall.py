"""Recording again what an excerpt says of a volume, beside what was found of it.

Part of the transaction that records the volume. What is recorded stays: points that labels and
stacks show are where those say, whatever an excerpt does.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dmsnap.catalogue import lifetime
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.excerpt import KEYS, Excerpt, Row
from dmsnap.catalogue.statements import Statements
from dmsnap.host.process import login_name

NOT_FOUND = "it was not found when the catalogue was rebuilt"

# Of a point that was found: its own place says these.
_FOUND_OTHERWISE = {
    "id", "volume_id", "keep", "temporary", "deleted_ns", "deleted_reason", "deleted_by",
}  # fmt: skip


def everything(statements: Statements, excerpt: Excerpt) -> None:
    """All that is in an excerpt, but for the volume itself."""
    history(statements, excerpt)
    exports(statements, excerpt)
    jobs(statements, excerpt)


def history(statements: Statements, excerpt: Excerpt) -> None:
    """What a volume was: its points, those that are gone too, and by what it was known."""
    _points(statements, excerpt)
    _places(statements, excerpt)
    _insert_missing(statements, "identifier", excerpt.of("identifier"))


def exports(statements: Statements, excerpt: Excerpt) -> None:
    """What is published of it: nothing of a point that is gone."""
    wanted = [row["point_id"] for row in excerpt.of("export") if row["point_id"] is not None]
    present = _present(statements, wanted)
    rows = [row for row in excerpt.of("export") if row["point_id"] in {None, *present}]
    _insert_missing(statements, "export", rows)


def jobs(statements: Statements, excerpt: Excerpt) -> None:
    """How its jobs ended, under their own numbers unless others have them."""
    ended = sorted(excerpt.of("job"), key=lambda row: _is_recorded(statements, "job", row))
    for row in ended:
        job_id = _recorded_as(statements, row)
        if job_id is None:
            job_id = row["id"]
            if _is_recorded(statements, "job", row):
                job_id = statements.value("SELECT MAX(id) + 1 FROM job")
            statements.insert("job", [{**row, "id": job_id}])
        on_volume = {"settled": True, "operation": row["operation"]}
        for table, now in (("job_volume", on_volume), ("job_step", {})):
            mine = [each for each in excerpt.of(table) if each["job_id"] == row["id"]]
            _insert_missing(statements, table, [{**each, "job_id": job_id, **now} for each in mine])


def _recorded_as(statements: Statements, row: Row) -> int | None:
    """The number of a job that is recorded: one on several volumes is in the excerpt of each."""
    same = {name: row[name] for name in ("operation", "started_ns", "pid")}
    found: int | None = statements.value(
        f"SELECT id FROM job WHERE {_are(same)} LIMIT 1",  # noqa: S608
        **same,
    )
    return found


def _points(statements: Statements, excerpt: Excerpt) -> None:
    given = excerpt.of("point")
    present = _present(statements, [row["id"] for row in given])
    gone = []
    for row in given:
        if row["id"] in present:
            known = {name: each for name, each in row.items() if name not in _FOUND_OTHERWISE}
            statements.update("point", {**known, "id": row["id"]})
        else:
            gone.append(_as_deleted(row))
    _insert_missing(statements, "point", gone)


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


def _places(statements: Statements, excerpt: Excerpt) -> None:
    """Where points were; those that are live are so where they were found."""
    given = excerpt.of("place")
    ids = {row["point_id"] for row in given}
    present = _present(statements, sorted(ids))
    live = {
        row["point_id"]: row
        for row in statements.among("place", "point_id", sorted(present))
        if row["kind"] == "live" and row["until_ns"] is None
    }
    for row in given:
        now = dict(row)
        is_live = live.get(row["point_id"], {}).get("device") == row["device"]
        still = row["point_id"] in present and (row["kind"] != "live" or is_live)
        if row["until_ns"] is None and not still:
            now["until_ns"] = now_ns()
        _insert_missing(statements, "place", [now])


def _present(statements: Statements, ids: Sequence[str]) -> set[str]:
    """Which of these points are recorded, and not as deleted."""
    found = statements.among("point", "id", ids)
    return {row["id"] for row in found if row["deleted_ns"] is None}


def _is_recorded(statements: Statements, table: str, row: Row) -> bool:
    key = {name: row[name] for name in KEYS[table]}
    query = f"SELECT 1 FROM {table} WHERE {_are(key)}"  # noqa: S608
    return statements.value(query, **key) is not None


def _are(values: Iterable[str]) -> str:
    """A condition: these columns have the values of the same names."""
    return " AND ".join(f"{name} = :{name}" for name in values)


def _insert_missing(statements: Statements, table: str, rows: Iterable[Row]) -> None:
    for row in rows:
        if not _is_recorded(statements, table, row):
            statements.insert(table, [row])
