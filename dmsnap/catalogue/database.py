"""Where a catalogue is kept: a file, or a database named by a URL."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dmsnap.catalogue.sqlite import SqliteFile
from dmsnap.catalogue.statements import Statements
from dmsnap.errors import DmsnapError
from dmsnap.secret import Secret

if TYPE_CHECKING:
    import sqlalchemy as sa

# The path of an SQLite file, or a URL, which may hold a password.
Place = Path | Secret


class Connections(Protocol):
    """A database that was opened: its connections are kept for the next transaction."""

    def transaction(self) -> AbstractContextManager[Statements]:
        """One transaction, committed at its end."""

    @property
    def engine(self) -> "sa.Engine":
        """SQLAlchemy's way in, which takes its import."""

    def close(self) -> None:
        """Close them all."""


class Database(Protocol):
    """What the catalogue needs to know of the database that it is in."""

    @property
    def name(self) -> str:
        """As sentences name it: without a password."""

    @property
    def errors(self) -> type[Exception]:
        """What its driver raises."""

    @property
    def absent(self) -> type[Exception]:
        """What it raises where a table or a column is not there, among other reasons."""

    def server(self, connections: Connections) -> str | None:
        """Where its server answers: an IP address, or a socket's directory; None: it is a file."""

    def exists(self) -> bool:
        """Whether there is a catalogue; :class:`DmsnapError` when that cannot be known."""

    def open(self) -> Connections:
        """Look at nothing in it; the file is made where there is none."""

    def is_made(self) -> bool:
        """Whether there is more of it than a name. One that is being made may say so, too."""

    def alone(self) -> AbstractContextManager[None]:
        """Opening for the first time, in one process at a time."""

    def change(self, engine: "sa.Engine") -> AbstractContextManager["sa.Connection"]:
        """One transaction, of one process at a time, that makes or changes tables."""

    def failure(self, error: Exception) -> DmsnapError:
        """What one of these errors means, as a sentence."""

    def take_numbers(self, statements: Statements, table: str) -> None:
        """After rows were inserted with numbers of their own: the next one gets a higher one."""

    def require_sound(self, statements: Statements) -> None:
        """Look at every page; :class:`CorruptError` when one is damaged."""

    def loose_rows(self, statements: Statements) -> list[str]:
        """A sentence for each row that names another one that is not there; the first of them."""

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
