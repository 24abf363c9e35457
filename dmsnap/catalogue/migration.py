"""The schema of a catalogue: which one it has, made new, or brought up to what dmsnap knows.

Its version is one row, written in the transaction that makes or changes the tables. This is
imported where there are none that are current, and Alembic where an earlier catalogue was found:
both would be most of a command's start.
"""

from pathlib import Path

import sqlalchemy as sa

from dmsnap.catalogue import schema
from dmsnap.catalogue.version import VERSION
from dmsnap.errors import CorruptError

SCRIPTS = Path(__file__).with_name("migrations")

# Until version 4 the row was a number in this column.
_FORMER_COLUMN = "version"


def bring_up(connection: sa.Connection, name: str) -> None:
    """Make the tables where there are none; bring those of an earlier version up.

    The connection is in a transaction that keeps others from doing the same. ``name`` is the
    catalogue's, for the error about one of a later version.
    """
    found = version(connection)
    if found is None:
        schema.metadata.create_all(connection, checkfirst=False)
        _record(connection, VERSION)
    elif found > int(VERSION):
        raise CorruptError(
            f"the catalogue {name} has schema {found}, this dmsnap knows {VERSION}",
            hint="use the dmsnap that wrote it, or a later one",
        )
    else:
        _take_over(connection, found)
        if found < int(VERSION):
            _upgrade(connection)


def version(connection: sa.Connection) -> int | None:
    """The version of the tables that are there; None: there are none."""
    columns = _version_columns(connection)
    if not columns:
        return None
    column: sa.ColumnClause[str | int] = sa.column(
        _FORMER_COLUMN if _FORMER_COLUMN in columns else "version_num"
    )
    found = connection.scalar(sa.select(column).select_from(sa.table(schema.schema_version.name)))
    return None if found is None else int(found)


def _version_columns(connection: sa.Connection) -> set[str]:
    inspector = sa.inspect(connection)
    if not inspector.has_table(schema.schema_version.name):
        return set()
    return {column["name"] for column in inspector.get_columns(schema.schema_version.name)}


def _take_over(connection: sa.Connection, found: int) -> None:
    """Give the row the shape that Alembic wants; an earlier dmsnap fails on it, and stays away."""
    if _FORMER_COLUMN in _version_columns(connection):
        schema.schema_version.drop(connection)
        schema.schema_version.create(connection)
        _record(connection, str(found))


def _record(connection: sa.Connection, number: str) -> None:
    connection.execute(schema.schema_version.insert().values(version_num=number))


def _upgrade(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
