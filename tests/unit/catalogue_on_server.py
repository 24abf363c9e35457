"""Recorded catalogues of earlier versions on a PostgreSQL server, where there were some of each.

Version 4 was the first there. Its tables are made as the recorded file has them, those of later
versions by the migrations that lead there; the rows are the recorded ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from dmsnap.catalogue import migration, schema
from dmsnap.catalogue.database import at
from dmsnap.secret import Secret

FIRST = 4
# 32 bits without a sign, for which SQLite's INTEGER has room (``schema``).
WIDER = ("era_since",)


def make(place: Secret, directory: Path, number: int) -> None:
    """The catalogue of version ``number``, of the scripts in a directory."""
    database = at(place)
    connections = database.open()
    try:
        with database.change(connections.engine) as connection:
            with _recorded(directory, FIRST) as (_, tables):
                tables.create_all(connection)
            _bring_up(connection, number)
            with _recorded(directory, number) as (source, tables):
                _copy(source, tables, connection)
    finally:
        connections.close()


@contextmanager
def _recorded(directory: Path, number: int) -> Iterator[tuple[sa.Connection, sa.MetaData]]:
    """A recorded catalogue in memory, and its tables in types that every database has."""
    engine = sa.create_engine("sqlite://")
    try:
        with engine.connect() as connection:
            raw: Any = connection.connection.driver_connection
            raw.executescript((directory / f"version_{number}.sql").read_text())
            tables = sa.MetaData()
            sa.event.listen(tables, "column_reflect", _generalise)
            # That one was Alembic's from the beginning, on a server.
            tables.reflect(connection, only=lambda name, _: name != schema.schema_version.name)
            for table in tables.sorted_tables:
                for index in table.indexes:
                    options = index.dialect_options
                    options["postgresql"]["where"] = options["sqlite"]["where"]
            yield connection, tables
    finally:
        engine.dispose()


def _generalise(_inspector: object, _table: object, column: dict[str, Any]) -> None:
    kind = column["type"].as_generic()
    if column["name"] in WIDER:
        kind = sa.BigInteger()
    if isinstance(kind, sa.JSON):
        kind = sa.JSON(none_as_null=True)
    column["type"] = kind


def _bring_up(connection: sa.Connection, number: int) -> None:
    """To a version as dmsnap did it when that was its own."""
    schema.schema_version.create(connection)
    connection.execute(schema.schema_version.insert().values(version_num=str(FIRST)))
    config = Config()
    config.set_main_option("script_location", str(migration.SCRIPTS))
    config.attributes["connection"] = connection
    command.upgrade(config, str(number))


def _copy(source: sa.Connection, tables: sa.MetaData, target: sa.Connection) -> None:
    for table in tables.sorted_tables:
        rows = [dict(row) for row in source.execute(sa.select(table)).mappings()]
        if rows:
            target.execute(table.insert(), rows)
    sequence = "SELECT setval(pg_get_serial_sequence('job', 'id'), (SELECT max(id) FROM job))"
    target.execute(sa.text(sequence))
