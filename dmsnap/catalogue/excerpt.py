"""What the catalogue has of one volume that nothing else could say again, as a compact text.

Rows by table, with the names of their columns: a later schema leaves its new columns as they are by
default, an earlier one does not look at them. Left out is what labels, stacks and stores show, and
what must not be believed later: marks of tracking, what a replica skips, jobs that are under way.
It is written at the end of most commands, so it takes no SQLAlchemy; ``excerpt_reader`` does.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from dmsnap.catalogue import lifetime, version
from dmsnap.catalogue.model import JobState
from dmsnap.catalogue.statements import Statements, from_json
from dmsnap.catalogue.store import Catalogue

MAX_DELETED = 2000  # the newest
MAX_JOBS = 100  # the last
MAX_TEXT = 65536

Row = Mapping[str, Any]

# Of other tables all columns are in an excerpt, but for those that are left out.
COLUMNS: Mapping[str, Sequence[str]] = {
    "volume": (
        "id", "name", "state", "generation", "created_ns", "mounts", "units", "left_behind",
        "hydration", "joined", "device_bytes",
    ),
}  # fmt: skip
LEFT_OUT = {
    "point": {"area_id", "era_since", "tracking_id", "lifetime_class"},
    "job_volume": {"operation"},
    "export": {"led_to"},  # of devices of no volume alone
}
# What tells a row from all others. The tables are in the order in which rows can be inserted.
KEYS: Mapping[str, Sequence[str]] = {
    "volume": ("id",),
    "point": ("id",),
    "place": ("point_id", "kind", "since_ns"),
    "identifier": ("volume_id", "kind", "value"),
    "export": ("id",),
    "job": ("id",),
    "job_volume": ("job_id", "volume_id"),
    "job_step": ("job_id", "position"),
}
TABLES = tuple(KEYS)
# SQLite's driver gives text and numbers for these.
JSON_COLUMNS = {"mounts", "units", "left_behind", "hydration", "initiators", "arguments"}
TRUTHS = {"keep", "temporary", "read_only", "complete", "settled", "joined"}
# No text has these, but for the end of a line.
CONTROL = re.compile("[\\x00-\\x09\\x0b-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The rows of one volume, by table; ``version`` is that of the schema they were read from."""

    version: str
    rows: Mapping[str, tuple[Row, ...]]

    def of(self, table: str) -> tuple[Row, ...]:
        return self.rows.get(table, ())

    @property
    def volume(self) -> Row:
        return self.of("volume")[0]

    @property
    def point_ids(self) -> list[UUID]:
        """The points that were not deleted."""
        return [UUID(row["id"]) for row in self.of("point") if row["deleted_ns"] is None]


def key_of(table: str, row: Row) -> tuple[Any, ...]:
    """What tells a row from all others; not by the database, which has an order of its own."""
    return tuple(row[name] for name in KEYS[table])


# reading the catalogue


def take(
    catalogue: Catalogue, volume_id: UUID, *, deleted: int = MAX_DELETED, jobs: int = MAX_JOBS
) -> Excerpt:
    """The excerpt of a volume, with as many deleted points and ended jobs at most."""
    with catalogue.statements() as statements:
        points = _points(statements, volume_id, deleted)
        ids = [row["id"] for row in points]
        job_rows = _jobs(statements, volume_id, jobs)
        job_ids = [row["id"] for row in job_rows]
        found = {
            "volume": _rows(statements, "volume", "id = :volume", volume=volume_id),
            "point": points,
            "place": _among(statements, "place", "point_id", ids),
            "identifier": _rows(statements, "identifier", _OF_VOLUME, volume=volume_id),
            "export": _rows(statements, "export", _OF_VOLUME, volume=volume_id),
            "job": job_rows,
            "job_volume": _among(statements, "job_volume", "job_id", job_ids),
            "job_step": _among(statements, "job_step", "job_id", job_ids),
        }
    ordered = {name: tuple(_ordered(name, rows)) for name, rows in found.items()}
    return Excerpt(version.VERSION, ordered)


_OF_VOLUME = "volume_id = :volume"


def _points(statements: Statements, volume_id: UUID, deleted: int) -> list[Row]:
    present = f"{_OF_VOLUME} AND deleted_ns IS NULL"
    found = _rows(statements, "point", present, volume=volume_id)
    newest = statements.rows(lifetime.newest_deleted(), volume=volume_id, since_ns=0, count=deleted)
    gone = [_row("point", row) for row in newest]
    gone.sort(key=lambda row: (row["created_ns"], row["id"]))
    return [*found, *(gone[-deleted:] if deleted else [])]


def _jobs(statements: Statements, volume_id: UUID, count: int) -> list[Row]:
    ended = statements.each("job", "job.id = job_volume.job_id AND job.state <> :running")
    query = (
        f"SELECT job.* FROM job_volume {ended} WHERE job_volume.volume_id = :volume"  # noqa: S608
        " ORDER BY job_volume.job_id DESC LIMIT :count"
    )
    found = statements.rows(query, volume=volume_id, running=JobState.RUNNING, count=count)
    return [_row("job", row) for row in found]


def _among(statements: Statements, table: str, key: str, values: Sequence[object]) -> list[Row]:
    return [_row(table, row) for row in statements.among(table, key, values)]


def _rows(statements: Statements, table: str, where: str, **values: object) -> list[Row]:
    found = statements.rows(f"SELECT * FROM {table} WHERE {where}", **values)  # noqa: S608
    return [_row(table, row) for row in found]


def _row(table: str, row: Row) -> Row:
    left_out = LEFT_OUT.get(table, set())
    return {
        name: _value(name, row[name]) for name in COLUMNS.get(table, row) if name not in left_out
    }


def _value(name: str, value: Any) -> Any:
    if name in JSON_COLUMNS:
        return from_json(value)
    return bool(value) if name in TRUTHS else value


def _ordered(table: str, found: Sequence[Row]) -> list[Row]:
    return sorted(found, key=lambda row: key_of(table, row))


# the text


def encode(excerpt: Excerpt) -> bytes:
    """An excerpt as text: the same for the same rows."""
    tables = {
        name: {"columns": names, "rows": [[row[each] for each in names] for row in found]}
        for name, found in excerpt.rows.items()
        if found
        for names in [sorted(found[0])]
    }
    document = {"schema": excerpt.version, "tables": _without_control(tables)}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode(
        errors="replace"
    )


def _without_control(value: Any) -> Any:
    """No text that would do something to a terminal: what programs said may be among it.

    Nor one that is longer than is read.
    """
    if isinstance(value, str):
        return CONTROL.sub("\ufffd", value[:MAX_TEXT])
    if isinstance(value, dict):
        return {_without_control(key): _without_control(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_control(each) for each in value]
    return value
