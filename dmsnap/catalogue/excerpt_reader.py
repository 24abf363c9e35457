"""Reading an excerpt's text.

A text may be anybody's. It is read against the schema: types, ranges, ids, words; and rows belong
to the volume, or to what else is in the text.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from ipaddress import ip_address
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from dmsnap.catalogue import rows, schema
from dmsnap.catalogue.excerpt import (
    COLUMNS,
    CONTROL,
    LEFT_OUT,
    MAX_TEXT,
    TABLES,
    Excerpt,
    Row,
    key_of,
)
from dmsnap.catalogue.export import ExportKind
from dmsnap.catalogue.model import (
    IdentifierKind,
    JobState,
    PlaceKind,
    StepState,
    VolumeState,
)
from dmsnap.errors import CorruptError

MAX_NUMBER = 2**63

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


def columns(table: str) -> list[sa.Column[Any]]:
    """The columns of a table that are in an excerpt."""
    known = schema.metadata.tables[table].c
    wanted = COLUMNS.get(table) or [column.name for column in known]
    left_out = LEFT_OUT.get(table, set())
    return [known[name] for name in wanted if name not in left_out]


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
        key = key_of(table, row)
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
            _number(mount.over, "what a mount lies over")
            _require(mount.mount_point.startswith("/"), "a mount point")
            _require(mount.bind_from[:1] in ("", "/"), "what is bound")
        moving = rows.hydration(row)
        if moving is not None:
            _lines((moving.source, moving.target, moving.tracking_id, moving.identity))
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


def _is_text(text: str) -> bool:
    """Without control characters, but for the end of a line, and halves of characters."""
    return CONTROL.search(text) is None
