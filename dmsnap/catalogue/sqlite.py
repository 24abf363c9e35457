"""The catalogue's file: SQLite in WAL mode with full sync."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from dmsnap.catalogue.clock import now_ns
from dmsnap.errors import (
    CorruptError,
    DmsnapError,
    NoSpaceError,
    OperatingSystemError,
    ReadOnlyError,
    WrongStateError,
)
from dmsnap.host.locks import directory_lock
from dmsnap.host.system_call import system_call

BUSY_TIMEOUT_SECONDS = 10
MOST_FAULTS = 10
SHARED_MEMORY_BYTES = 32768
REBUILD = "dmsnap catalogue rebuild makes it anew, from labels and dm tables"


@dataclass(frozen=True, slots=True)
class SqliteFile:
    """A catalogue in the file at ``path``."""

    path: Path

    @property
    def name(self) -> str:
        """As sentences name it."""
        return str(self.path)

    def exists(self) -> bool:
        return self.path.exists()

    def open(self) -> sa.Engine:
        """Make the file where there is none (0600, its folder 0700), and look at nothing in it."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self.path.exists():
                self.path.touch(mode=0o600)
        except OSError as error:
            raise self._not_made(error) from error
        engine = self._engine()
        sa.event.listen(engine, "connect", _configure_connection)
        return engine

    def _engine(self) -> sa.Engine:
        # One connection for as long as the catalogue is open: the last to be closed checkpoints the
        # write-ahead log, which is two flushes more for each transaction.
        return sa.create_engine(
            f"sqlite:///{self.path}",
            pool_size=1,
            connect_args={"timeout": BUSY_TIMEOUT_SECONDS},
        )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One process at a time: SQLite's own waiting does not cover the change to WAL mode."""
        with directory_lock(self.path.parent):
            yield

    @contextmanager
    def change(self, engine: sa.Engine) -> Iterator[sa.Connection]:
        """A transaction that may hold CREATE and ALTER: all of it is done, or nothing.

        The driver begins one before INSERT, UPDATE and DELETE only, unless it is told to begin
        none.
        """
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
            connection.commit()

    def failure(self, error: sa.exc.DBAPIError) -> DmsnapError:
        """What went wrong, as a sentence."""
        kind = getattr(error.orig, "sqlite_errorname", "")
        # In WAL mode even who only reads makes two files beside it: that fails with these.
        beside = kind.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN"))
        if kind.startswith("SQLITE_READONLY") or (beside and self._is_on_read_only_file_system()):
            return self._read_only()
        if kind == "SQLITE_FULL" or (beside and not self._has_room()):
            return self._full()
        if isinstance(error, sa.exc.OperationalError):
            return OperatingSystemError(f"the catalogue {self.path}: {error.orig}")
        if isinstance(error, sa.exc.IntegrityError):
            return WrongStateError(f"the catalogue {self.path} refuses: {error.orig}")
        return CorruptError(f"the catalogue {self.path} is damaged: {error.orig}", hint=REBUILD)

    def _not_made(self, error: OSError) -> DmsnapError:
        if error.errno == errno.EROFS:
            return self._read_only()
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
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

    def _is_on_read_only_file_system(self) -> bool:
        return bool(os.statvfs(self.path.parent).f_flag & os.ST_RDONLY)

    def _has_room(self) -> bool:
        status = os.statvfs(self.path.parent)
        return status.f_bavail * status.f_frsize >= SHARED_MEMORY_BYTES

    def take_numbers(self, connection: sa.Connection, table: sa.Table) -> None:
        """The next one is the highest plus one as it is."""

    def require_sound(self, connection: sa.Connection) -> None:
        found = connection.scalars(sa.text(f"PRAGMA integrity_check({MOST_FAULTS})")).all()
        if found != ["ok"]:
            # Where it is, is said in several lines.
            first = " ".join(str(found[0]).split())
            raise CorruptError(
                f"the catalogue {self.path} is damaged: {first}", hint=REBUILD, faults=list(found)
            )

    def loose_rows(self, connection: sa.Connection) -> list[str]:
        return [
            f"a row of {table} names a row of {parent} that is not there"
            for table, _, parent, _ in connection.execute(sa.text("PRAGMA foreign_key_check"))
        ]

    def damage(self) -> str | None:
        """What is wrong with the file; None: nothing, or there is none yet.

        Whether its schema is one that this dmsnap knows is for whoever opens it to say.
        """
        if not self.path.exists() or not self.path.stat().st_size:
            return None
        engine = self._engine()
        try:
            with engine.begin() as connection:
                found = str(connection.scalar(sa.text("PRAGMA quick_check(1)")))
        except sa.exc.OperationalError as error:
            raise self.failure(error) from error
        except sa.exc.DatabaseError as error:
            return str(error.orig)
        finally:
            engine.dispose()
        return None if found == "ok" else found

    def set_aside(self) -> Path:
        """Give a damaged file another name, with what belongs to it; returns that name."""
        aside = self.path.with_name(f"{self.path.name}.damaged-{now_ns()}")
        with self.alone(), system_call(f"rename {self.path}"):
            # The log first: beside a new file it must not be taken for its own.
            for suffix in ("-wal", "-shm", ""):
                part = self.path.with_name(self.path.name + suffix)
                if part.exists():
                    part.rename(aside.with_name(aside.name + suffix))
        return aside


def _configure_connection(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
