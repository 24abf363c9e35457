"""What the catalogue has of one volume that nothing else could say again, as a compact text.

Rows by table, with the names of their columns: a later schema leaves its new columns as they are by
default, an earlier one does not look at them. Left out is what labels, stacks and stores show, and
what must not be believed later: marks of tracking, what a replica skips, jobs that are under way.

A text may be anybody's. It is read against the schema: types, ranges, ids, words; and rows belong
to the volume, or to what else is in the text.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from dmsnap.catalogue import lifetime, rows, schema
from dmsnap.catalogue.export import ExportKind
from dmsnap.catalogue.model import (
    IdentifierKind,
    JobState,
    PlaceKind,
    StepState,
    VolumeState,
)
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import CorruptError

MAX_DELETED = 2000  # the newest
MAX_JOBS = 100  # the last
MAX_TEXT = 65536
MAX_NUMBER = 2**63
MANY = 1000  # parameters of one query

Row = Mapping[str, Any]

_COLUMNS: Mapping[str, Sequence[str]] = {
    "volume": (
        "id", "name", "state", "generation", "created_ns", "mounts", "units", "left_behind",
        "hydration",
    ),
}  # fmt: skip
_LEFT_OUT = {"point": {"area_id", "era_since", "tracking_id", "lifetime_class"}}
_SENTENCES = {"outcome", "deleted_reason", "invalid_reason"}  # what programs said is among them
_IDS = {"id", "volume_id", "point_id"}
_WORDS: Mapping[tuple[str, str], type[StrEnum]] = {
    ("volume", "state"): VolumeState,
    ("place", "kind"): PlaceKind,
    ("identifier", "kind"): IdentifierKind,
    ("export", "kind"): ExportKind,
    ("job", "state"): JobState,
    ("job_step", "state"): StepState,
}
# These become names of directories in configfs.
_IQN = re.compile(r"iqn\.\d{4}-\d{2}\.[a-z0-9.:-]+")
_CONTROL = re.compile("[\\x00-\\x09\\x0b-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")
# Everything, in the order in which rows can be inserted.
TABLES = ("volume", "point", "place", "identifier", "export", "job", "job_volume", "job_step")


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


def columns(table: str) -> list[sa.Column[Any]]:
    """The columns of a table that are in an excerpt."""
    known = schema.metadata.tables[table].c
    wanted = _COLUMNS.get(table) or [column.name for column in known]
    left_out = _LEFT_OUT.get(table, set())
    return [known[name] for name in wanted if name not in left_out]


# reading the catalogue


def take(
    catalogue: Catalogue, volume_id: UUID, *, deleted: int = MAX_DELETED, jobs: int = MAX_JOBS
) -> Excerpt:
    """The excerpt of a volume, with as many deleted points and ended jobs at most."""
    with catalogue.transaction() as connection:
        points = _points(connection, str(volume_id), deleted)
        ids = [row["id"] for row in points]
        job_rows = _jobs(connection, str(volume_id), jobs)
        job_ids = [row["id"] for row in job_rows]
        found = {
            "volume": _of_volume(connection, "volume", "id", volume_id),
            "point": points,
            "place": _among(connection, "place", "point_id", ids),
            "identifier": _of_volume(connection, "identifier", "volume_id", volume_id),
            "export": _of_volume(connection, "export", "volume_id", volume_id),
            "job": job_rows,
            "job_volume": _among(connection, "job_volume", "job_id", job_ids),
            "job_step": _among(connection, "job_step", "job_id", job_ids),
        }
    return Excerpt(schema.VERSION, {name: tuple(rows) for name, rows in found.items()})


def _of_volume(connection: sa.Connection, table: str, key: str, volume_id: UUID) -> list[Row]:
    where = schema.metadata.tables[table].c[key] == str(volume_id)
    return _rows(connection, table, sa.select(*columns(table)).where(where))


def _points(connection: sa.Connection, volume_id: str, deleted: int) -> list[Row]:
    point, wanted = schema.point.c, columns("point")
    of_volume = sa.select(*wanted).where(point.volume_id == volume_id)
    found = _rows(connection, "point", of_volume.where(point.deleted_ns.is_(None)))
    gone: list[Row] = []
    # A query for each class, by its index: see ``lifetime``.
    for number in lifetime.CLASSES:
        of_class = of_volume.where(point.deleted_ns.is_not(None), point.lifetime_class == number)
        newest = of_class.order_by(point.created_ns.desc()).limit(deleted)
        gone += _rows(connection, "point", newest, ordered=False)
    gone.sort(key=lambda row: (row["created_ns"], row["id"]))
    return sorted([*found, *(gone[-deleted:] if deleted else [])], key=lambda row: str(row["id"]))


def _jobs(connection: sa.Connection, volume_id: str, count: int) -> list[Row]:
    job, of_volume = schema.job.c, schema.job_volume.c
    mine = sa.select(of_volume.job_id).where(of_volume.volume_id == volume_id)
    query = (
        sa.select(*columns("job"))
        .where(job.id.in_(mine), job.state != JobState.RUNNING)
        .order_by(job.id.desc())
        .limit(count)
    )
    return _rows(connection, "job", query, ordered=False)[::-1]


def _among(connection: sa.Connection, table: str, key: str, values: Sequence[object]) -> list[Row]:
    column = schema.metadata.tables[table].c[key]
    found: list[Row] = []
    for first in range(0, len(values), MANY):
        query = sa.select(*columns(table)).where(column.in_(values[first : first + MANY]))
        found += _rows(connection, table, query, ordered=False)
    return sorted(found, key=lambda row: _key(table, row))


def _rows(
    connection: sa.Connection, table: str, query: sa.Select[Any], *, ordered: bool = True
) -> list[Row]:
    found: list[Row] = [dict(row) for row in connection.execute(query).mappings()]
    return sorted(found, key=lambda row: _key(table, row)) if ordered else found


def _key(table: str, row: Row) -> tuple[Any, ...]:
    """What tells a row from all others; not by the database, which has an order of its own."""
    return tuple(row[column.name] for column in schema.metadata.tables[table].primary_key)


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
        return _CONTROL.sub("\ufffd", value[:MAX_TEXT])
    if isinstance(value, dict):
        return {_without_control(key): _without_control(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_control(each) for each in value]
    return value


def _is_text(text: str) -> bool:
    """Without control characters, but for the end of a line, and halves of characters."""
    return _CONTROL.search(text) is None


def decode(content: bytes, volume_id: UUID, name: str) -> Excerpt:
    """Read a text; :class:`CorruptError`, which names ``name``, for anything that does not fit."""
    try:
        document = json.loads(content, parse_constant=_no_number)
        found = {table: tuple(_read_table(document, table)) for table in TABLES}
        excerpt = Excerpt(_text(document["schema"]), found)
        _require_of_volume(excerpt, str(volume_id))
        _require_values(excerpt)
    except RecursionError as error:
        raise _refused(name, "it is nested too deeply") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise _refused(name, " ".join(str(error).split())[:200]) from error
    return excerpt


def _refused(name: str, reason: str) -> CorruptError:
    shown = "".join(c if c.isprintable() else "?" for c in reason)
    return CorruptError(f"the backup of the catalogue on {name} is not used: {shown}")


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _read_table(document: Mapping[str, Any], table: str) -> Iterator[Row]:
    given = document["tables"].get(table)
    if given is None:
        return
    names, known = list(given["columns"]), {column.name: column for column in columns(table)}
    if len(set(names)) != len(names):
        raise ValueError(f"a column of {table} is there twice")
    needed = {
        column.name for column in known.values() if not column.nullable and column.default is None
    }
    if needed - set(names):
        raise ValueError(f"{table} has no {', '.join(sorted(needed - set(names)))}")
    seen = set()
    for values in given["rows"]:
        if not isinstance(values, list) or len(values) != len(names):
            raise ValueError(f"a row of {table} has not {len(names)} values")
        row = {
            name: _value(known[name], value)
            for name, value in zip(names, values, strict=True)
            if name in known
        }
        row |= {name: _default(known[name]) for name in known if name not in row}
        key = _key(table, row)
        if key in seen:
            raise ValueError(f"a row of {table} is there twice")
        seen.add(key)
        yield row


def _default(column: sa.Column[Any]) -> Any:
    """Of what an earlier schema did not have."""
    return column.default.arg if isinstance(column.default, sa.ColumnDefault) else None


def _value(column: sa.Column[Any], value: Any) -> Any:
    """A value that the column takes, else ValueError."""
    if value is None:
        if not column.nullable:
            raise ValueError(f"{column} is empty")
        return None
    kind = column.type
    if isinstance(kind, sa.JSON):
        if not isinstance(value, list | dict) or not _is_sound(value):
            raise ValueError(f"{column} is no list and no object of plain values")
        return value
    if isinstance(kind, sa.Boolean):
        if not isinstance(value, bool):
            raise ValueError(f"{column} is not true or false")
    elif isinstance(kind, sa.Float):
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise ValueError(f"{column} is no number")
    elif isinstance(kind, sa.Integer):
        _number(value, str(column))
    else:
        _word(column, _text(value))
    return value


def _is_sound(value: Any) -> bool:
    """Texts, numbers, true, false and null, however deep."""
    if isinstance(value, dict):
        return all(_is_sound(key) and _is_sound(each) for key, each in value.items())
    if isinstance(value, list):
        return all(map(_is_sound, value))
    if isinstance(value, str):
        return len(value) <= MAX_TEXT and _is_text(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return -MAX_NUMBER <= value < MAX_NUMBER
    return value is None or isinstance(value, bool) or math.isfinite(value)


def _number(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_NUMBER:
        raise ValueError(f"{what} is no number of 63 bits")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or not _is_text(value):
        raise ValueError("a text is none, is too long or has control characters")
    return value


def _line(value: Any) -> str:
    """A name or a path: it may come to stand in a rule of udev's, or in a unit."""
    text = _text(value)
    if "\n" in text:
        raise ValueError("a name goes over more than one line")
    return text


def _word(column: sa.Column[Any], text: str) -> None:
    if column.name not in _SENTENCES:
        _line(text)
    words = _WORDS.get((column.table.name, column.name))
    if words is not None:
        words(text)
    if column.name in _IDS and str(UUID(text)) != text:
        raise ValueError(f"{column} is not written as an id is")


def _require_of_volume(excerpt: Excerpt, volume_id: str) -> None:
    """Every row belongs to the volume, or to a point or a job that is there, too."""
    if [row["id"] for row in excerpt.of("volume")] != [volume_id]:
        raise ValueError(f"it is not of volume {volume_id} alone")
    points = {row["id"] for row in excerpt.of("point")}
    jobs = {row["id"] for row in excerpt.of("job")}
    for table, key, allowed in (
        ("point", "volume_id", {volume_id}),
        ("identifier", "volume_id", {volume_id}),
        ("export", "volume_id", {volume_id}),
        ("place", "point_id", points),
        ("job_volume", "job_id", jobs),
        ("job_step", "job_id", jobs),
    ):
        for row in excerpt.of(table):
            if row[key] not in allowed:
                raise ValueError(f"a row of {table} belongs to nothing that is there")
    if any(row["state"] == JobState.RUNNING for row in excerpt.of("job")):
        raise ValueError("a job is not at its end")


def _require_values(excerpt: Excerpt) -> None:
    """What is kept as lists and objects has the shape of what is made of it."""
    for row in excerpt.of("volume"):
        for mount in rows.mounts(row):
            _lines((mount.mount_point, mount.fs_type, mount.bind_from, *mount.options))
            _require(isinstance(mount.inside, bool), "a mount")
            _require(mount.mount_point.startswith("/"), "a mount point")
            _require(mount.bind_from[:1] in ("", "/"), "what is bound")
        moving = rows.hydration(row)
        if moving is not None:
            _lines((moving.source, moving.target, moving.tracking_id))
            for number in (moving.position_bytes, moving.since, moving.surplus_sectors):
                _number(number, "a move to another device")
        for name in ("units", "left_behind"):
            _lines(_list(row[name] or []))
    for row in excerpt.of("export"):
        for name in (row["target"], *_list(row["initiators"])):
            _require(_IQN.fullmatch(_line(name)) is not None, "the name of a target or initiator")
        ip_address(row["address"])
        _require(0 < row["port"] < 65536 and row["lun"] < 256, "a port or a LUN")
    for row in excerpt.of("job"):
        _require(isinstance(row["arguments"], dict), "the arguments of a job")


def _lines(values: Iterable[Any]) -> None:
    for value in values:
        _line(value)


def _list(value: Any) -> list[Any]:
    _require(isinstance(value, list), "a list of texts")
    return list(value)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"{what} is not what it should be")
