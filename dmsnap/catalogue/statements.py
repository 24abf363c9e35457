"""Statements in SQL's own words, over a connection of the database's driver.

What every command asks and records goes this way. SQLAlchemy would be three quarters of a command's
start: it makes and changes the tables, and asks what is seldom asked (``Catalogue.transaction``).
"""

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol
from uuid import UUID

Row = dict[str, Any]

_NAMED = re.compile(r":(\w+)")
# Whatever begins otherwise counts as a change.
_QUESTIONS = ("SELECT ", "PRAGMA ")
# Parameters of one query; SQLite takes 32766.
MANY = 1000


class Cursor(Protocol):
    """What all drivers (PEP 249) have of a cursor, as far as it is used."""

    @property
    def description(self) -> Any: ...

    @property
    def rowcount(self) -> int: ...

    def fetchall(self) -> list[Any]: ...


class Driver(Protocol):
    """A connection as sqlite3 and psycopg have it."""

    def execute(self, statement: Any, values: Any, /) -> Cursor: ...


class Statements:
    """One transaction. Parameters are ``:name`` in the text, their values keywords.

    UUIDs go in as text, lists, tuples and mappings as JSON; :func:`from_json` leads back. It begins
    with the first change, in both databases: what is asked before is asked of what was committed,
    as every question is, and BEGIN and COMMIT would be two more ways to the server.
    """

    def __init__(self, driver: Driver, *, is_postgresql: bool = False) -> None:
        self._driver = driver
        self._is_postgresql = is_postgresql
        self._is_begun = not is_postgresql  # SQLite's driver begins it by itself
        self.changes = 0  # statements that changed something, or may have

    def execute(self, statement: str, **values: object) -> int:
        """Execute; returns how many rows were changed."""
        return self.run(self._text(statement), _encoded(values)).rowcount

    def rows(self, statement: str, **values: object) -> list[Row]:
        """Each row by the names of its columns."""
        cursor = self.run(self._text(statement), _encoded(values))
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def values(self, statement: str, **values: object) -> list[Any]:
        """The first column of each row."""
        return [row[0] for row in self.run(self._text(statement), _encoded(values)).fetchall()]

    def value(self, statement: str, **values: object) -> Any:
        """The first column of the first row; None when there is no row, too."""
        return next(iter(self.values(statement, **values)), None)

    def among(self, table: str, key: str, values: Sequence[object]) -> list[Row]:
        """The rows of a table whose ``key`` is one of these, however many they are."""
        found: list[Row] = []
        for first in range(0, len(values), MANY):
            these, given = listed("one", values[first : first + MANY])
            found += self.rows(f"SELECT * FROM {table} WHERE {key} IN {these}", **given)  # noqa: S608
        return found

    def insert(self, table: str, rows: Iterable[Mapping[str, object]]) -> None:
        """Insert rows; their keys are columns."""
        for row in rows:
            names, parameters = ", ".join(row), ", ".join(f":{name}" for name in row)
            self.execute(f"INSERT INTO {table} ({names}) VALUES ({parameters})", **row)  # noqa: S608

    def update(self, table: str, row: Mapping[str, object], where: str = "id = :id") -> int:
        """Change the rows that fit, by columns of this one; returns how many there were."""
        changes = ", ".join(f"{name} = :{name}" for name in row)
        return self.execute(f"UPDATE {table} SET {changes} WHERE {where}", **row)  # noqa: S608

    def is_false(self, column: str) -> str:
        """A condition in the words that the indexes of some rows were made with."""
        return f"NOT {column}" if self._is_postgresql else f"{column} = 0"

    def each(self, table: str, condition: str, *, optional: bool = False) -> str:
        """A join: for each row so far the rows of a table that fit, looked up by an index.

        Planners guess how many there are, and read a million where they guess wrong: so the order
        is given. With ``optional`` a row for which there is none stays.
        """
        kind = "LEFT" if optional else "CROSS"
        if not self._is_postgresql:
            return f"{kind} JOIN {table} ON {condition}"
        # OFFSET keeps it a query of its own, done for each row.
        query = f"(SELECT * FROM {table} WHERE {condition} OFFSET 0) AS {table}"  # noqa: S608
        return f"{kind} JOIN LATERAL {query}{' ON TRUE' * optional}"

    def run(self, text: str, values: Mapping[str, object]) -> Cursor:
        """Execute what is in the driver's words already."""
        is_question = text.startswith(_QUESTIONS)
        if not self._is_begun and not is_question:
            self._driver.execute("BEGIN", None)
            self._is_begun = True
        cursor = self._driver.execute(text, values)
        # How many rows a statement with RETURNING changed is known when they are read.
        if not is_question and (cursor.description or cursor.rowcount):
            self.changes += 1
        return cursor

    def _text(self, statement: str) -> str:
        return _for_psycopg(statement) if self._is_postgresql else statement


def listed(name: str, values: Collection[object]) -> tuple[str, dict[str, object]]:
    """Parameters for ``IN``, and their values. Of none the list is empty, in which nothing is."""
    named = {f"{name}_{number}": value for number, value in enumerate(values)}
    return f"({', '.join(f':{each}' for each in named) or 'NULL'})", named


def grouped(found: Iterable[Row], column: str) -> Mapping[Any, list[Row]]:
    """Rows by the value of a column, in the order in which they come; of others there are none."""
    groups: dict[Any, list[Row]] = defaultdict(list)
    for row in found:
        groups[row[column]].append(row)
    return groups


def from_json(column: Any) -> Any:
    """The value in a column of JSON: SQLite's driver gives text, psycopg what it stands for."""
    return json.loads(column) if isinstance(column, str) else column


def _encoded(values: Mapping[str, object]) -> dict[str, object]:
    return {name: _encoded_value(value) for name, value in values.items()}


def _encoded_value(value: object) -> object:
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Mapping):
        return json.dumps(dict(value))
    return json.dumps(value) if isinstance(value, list | tuple) else value


@lru_cache(256)
def _for_psycopg(statement: str) -> str:
    return _NAMED.sub(r"%(\1)s", statement)
