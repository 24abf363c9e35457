"""Where a catalogue is kept: a file, or a database named by a URL."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from dmsnap.catalogue.sqlite import SqliteFile
from dmsnap.errors import DmsnapError
from dmsnap.secret import Secret

# The path of an SQLite file, or a URL, which may hold a password.
Place = Path | Secret


class Database(Protocol):
    """What the catalogue needs to know of the database that it is in."""

    @property
    def name(self) -> str:
        """As sentences name it: without a password."""

    def exists(self) -> bool:
        """Whether there is a catalogue; :class:`DmsnapError` when that cannot be known."""

    def open(self) -> sa.Engine:
        """An engine for it; the file is made where there is none."""

    def alone(self) -> AbstractContextManager[None]:
        """Opening for the first time, in one process at a time."""

    def change(self, engine: sa.Engine) -> AbstractContextManager[sa.Connection]:
        """One transaction, of one process at a time, that makes or changes tables."""

    def failure(self, error: sa.exc.DBAPIError) -> DmsnapError:
        """What went wrong, as a sentence."""

    def take_numbers(self, connection: sa.Connection, table: sa.Table) -> None:
        """After rows were inserted with numbers of their own: the next one gets a higher one."""

    def require_sound(self, connection: sa.Connection) -> None:
        """Look at every page; :class:`CorruptError` when one is damaged."""

    def loose_rows(self, connection: sa.Connection) -> list[str]:
        """A sentence for each row that names another one that is not there."""

    def damage(self) -> str | None:
        """What is wrong with what is stored; None: nothing that a rebuild could put right."""

    def set_aside(self) -> Path | None:
        """Give what is damaged another name; returns that name."""


def at(place: Place) -> Database:
    """The database at a place."""
    if isinstance(place, Path):
        return SqliteFile(place)
    # Imported for those who have such a server.
    from dmsnap.catalogue.postgresql import PostgresqlDatabase

    return PostgresqlDatabase.of(place)
