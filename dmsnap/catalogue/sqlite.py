"""The catalogue's file: SQLite in WAL mode with full sync."""

import errno
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.statements import Statements
from dmsnap.errors import (
    CorruptError,
    DmsnapError,
    NoSpaceError,
    OperatingSystemError,
    ReadOnlyError,
    WrongStateError,
)
from dmsnap.host import private_directory
from dmsnap.host.locks import directory_lock
from dmsnap.host.system_call import system_call

if TYPE_CHECKING:
    import sqlalchemy as sa

    from dmsnap.catalogue.database import Connections

BUSY_TIMEOUT_SECONDS = 10
# In the pool's records of connections.
_FILE = "dmsnap file"
MOST_FAULTS, MOST_LOOSE_ROWS = 10, 100
SHARED_MEMORY_BYTES = 32768
_FULL = (errno.ENOSPC, errno.EDQUOT)
REBUILD = "dmsnap catalogue rebuild makes it anew, from labels and dm tables"


class SqliteConnections:
    """Connections to a file, one as a rule, for as long as the catalogue is open.

    The last one to be closed checkpoints the write-ahead log: two flushes more if each transaction
    had its own. One to a file that was set aside meanwhile, and made anew, is not used again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[_Opened] = []

    @contextmanager
    def transaction(self) -> Iterator[Statements]:
        """Committed at its end; after a failure its connection goes, and with it what was done."""
        opened = self._take()
        try:
            yield Statements(opened.connection)
            opened.connection.commit()
        except BaseException:
            opened.connection.close()
            raise
        self._idle.append(opened)

    def _take(self) -> "_Opened":
        now = _identity(self._path)
        with suppress(IndexError):  # there is none left, if another thread was faster
            while True:
                opened = self._idle.pop()
                if opened.file == now:
                    return opened
                opened.connection.close()
        return _Opened(now, _connect(self._path))

    @cached_property
    def engine(self) -> "sa.Engine":
        """SQLAlchemy's, with a connection of its own."""
        import sqlalchemy as sa

        connect = partial(_connect, self._path)
        engine = sa.create_engine(f"sqlite:///{self._path}", creator=connect, pool_size=1)

        def note(_connection: object, record: "sa.pool.ConnectionPoolEntry") -> None:
            record.info[_FILE] = _identity(self._path)

        def require_same(
            _connection: object, record: "sa.pool.ConnectionPoolEntry", _proxy: object
        ) -> None:
            if record.info[_FILE] != _identity(self._path):
                # The pool takes another one then.
                raise sa.exc.DisconnectionError(f"{self._path} is another file by now")

        sa.event.listen(engine, "connect", note)
        sa.event.listen(engine, "checkout", require_same)
        return engine

    def close(self) -> None:
        while self._idle:
            self._idle.pop().connection.close()
        if "engine" in self.__dict__:
            self.engine.dispose()


@dataclass(frozen=True, slots=True)
class SqliteFile:
    """A catalogue in the file at ``path``."""

    path: Path

    @property
    def errors(self) -> type[Exception]:
        return sqlite3.Error

    @property
    def absent(self) -> type[Exception]:
        return sqlite3.OperationalError

    @property
    def name(self) -> str:
        """As sentences name it."""
        return str(self.path)

    def exists(self) -> bool:
        return self.path.exists()

    def server(self, connections: "Connections") -> None:
        """There is none."""

    def open(self) -> SqliteConnections:
        """Make the file where there is none (0600, its folder 0700), and look at nothing in it."""
        try:
            private_directory.make(self.path.parent)
            if not self.path.exists():
                self.path.touch(mode=0o600)
        except OSError as error:
            raise self._not_made(error) from error
        return SqliteConnections(self.path)

    def is_made(self) -> bool:
        return self.path.exists() and self.path.stat().st_size > 0

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One process at a time: SQLite's own waiting does not cover the change to WAL mode."""
        with directory_lock(self.path.parent):
            yield

    @contextmanager
    def change(self, engine: "sa.Engine") -> Iterator["sa.Connection"]:
        """A transaction that may hold CREATE and ALTER: all of it is done, or nothing.

        The driver begins one before INSERT, UPDATE and DELETE only, unless it is told to begin
        none.
        """
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
            connection.commit()

    def failure(self, error: Exception) -> DmsnapError:
        """What went wrong, as a sentence."""
        kind = getattr(error, "sqlite_errorname", "")
        # In WAL mode even who only reads makes two files beside it: that fails with these.
        beside = kind.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN"))
        obstacle = self._obstacle() if beside else None
        if kind.startswith("SQLITE_READONLY") or obstacle == errno.EROFS:
            return self._read_only()
        if kind == "SQLITE_FULL" or obstacle in _FULL or (beside and not self._has_room()):
            return self._full()
        if isinstance(error, sqlite3.OperationalError):
            return OperatingSystemError(f"the catalogue {self.path}: {error}")
        if isinstance(error, sqlite3.IntegrityError):
            return WrongStateError(f"the catalogue {self.path} refuses: {error}")
        return CorruptError(f"the catalogue {self.path} is damaged: {error}", hint=REBUILD)

    def _not_made(self, error: OSError) -> DmsnapError:
        if error.errno == errno.EROFS:
            return self._read_only()
        if error.errno in _FULL:
            return self._full()
        return OperatingSystemError(
            f"the catalogue {self.path} cannot be opened: {error.strerror}", errnum=error.errno
        )

    def _read_only(self) -> DmsnapError:
        return ReadOnlyError(f"the catalogue {self.path}", "dmsnap")

    def _full(self) -> DmsnapError:
        return NoSpaceError(
            f"the disk of the catalogue {self.path} is full: nothing more can be recorded",
            hint=f"make room on the file system of {self.path.parent}",
        )

    def _obstacle(self) -> int | None:
        """What keeps a file without a name from being made beside it; None: nothing that is known.

        A file system that was shut after an I/O error need not say that it is read-only (ext4).
        """
        try:
            os.close(os.open(self.path.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except OSError as error:
            return error.errno
        return None

    def _has_room(self) -> bool:
        try:
            status = os.statvfs(self.path.parent)
        except OSError:
            return True
        return status.f_bavail * status.f_frsize >= SHARED_MEMORY_BYTES

    def take_numbers(self, statements: Statements, table: str) -> None:
        """The next one is the highest plus one as it is."""

    def require_sound(self, statements: Statements) -> None:
        found = statements.values(f"PRAGMA integrity_check({MOST_FAULTS})")
        if found != ["ok"]:
            # Where it is, is said in several lines.
            first = " ".join(str(found[0]).split())
            raise CorruptError(
                f"the catalogue {self.path} is damaged: {first}", hint=REBUILD, faults=found
            )

    def loose_rows(self, statements: Statements) -> list[str]:
        query = "SELECT * FROM pragma_foreign_key_check LIMIT :most"
        found = statements.rows(query, most=MOST_LOOSE_ROWS)
        return [
            f"a row of {row['table']} names a row of {row['parent']} that is not there"
            for row in found
        ]

    def damage(self) -> str | None:
        """What is wrong with the file; None: nothing, or there is none yet.

        Whether its schema is one that this dmsnap knows is for whoever opens it to say.
        """
        if not self.path.exists() or not self.path.stat().st_size:
            return None
        try:
            with closing(sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_SECONDS)) as connection:
                (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.OperationalError as error:
            raise self.failure(error) from error
        except sqlite3.DatabaseError as error:
            return str(error)
        return None if found == "ok" else str(found)

    def set_aside(self) -> Path:
        """Give a damaged file another name, with what belongs to it; returns that name."""
        aside = self.path.with_name(f"{self.path.name}.damaged-{now_ns()}")
        with self.alone(), system_call(f"rename {self.path}"):
            # The log first: beside a new file it must not be taken for its own. And once more: who
            # opened the file in between has made another one.
            self._rename(aside, ("-wal", "-shm", ""))
            self._rename(aside, ("-wal", "-shm"), "-late")
        return aside

    def _rename(self, aside: Path, suffixes: Sequence[str], mark: str = "") -> None:
        for suffix in suffixes:
            part = self.path.with_name(self.path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix + mark))


@dataclass(frozen=True, slots=True)
class _Opened:
    """A connection, and which file the path named right before it was made."""

    file: tuple[int, int] | None
    connection: sqlite3.Connection


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of what a path names; None: nothing. It fails as SQLite would of that."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        sentence = f"unable to look at the file: {error.strerror}"
        raise sqlite3.OperationalError(sentence) from error
    return status.st_dev, status.st_ino


def _connect(path: Path) -> sqlite3.Connection:
    # One thread at a time has it: not always the one that made it. And no file is made by it: one
    # that was set aside just now is made again by who did that.
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw", uri=True,
        timeout=BUSY_TIMEOUT_SECONDS, check_same_thread=False,
    )  # fmt: skip
    try:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").close()
    except BaseException:
        connection.close()
        raise
    return connection
