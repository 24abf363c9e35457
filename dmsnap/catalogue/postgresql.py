"""A catalogue on a PostgreSQL server, in a schema (a namespace) of this host's own."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

import sqlalchemy as sa
from sqlalchemy.pool import QueuePool

from dmsnap.catalogue.statements import Driver, Statements
from dmsnap.errors import (
    ConfigurationError,
    CorruptError,
    DmsnapError,
    NoSpaceError,
    NotPermittedError,
    OperatingSystemError,
    ReadOnlyError,
    UnreachableError,
    WrongStateError,
)
from dmsnap.host import kernel
from dmsnap.secret import Secret

if TYPE_CHECKING:
    import psycopg

    from dmsnap.catalogue.database import Connections

DRIVER = "postgresql+psycopg"

# libpq's own words. A server whose host is gone is given up after a quarter of a minute; who asks
# for a lock that somebody holds waits as long as with SQLite.
_CONNECTION = {
    "application_name": "dmsnap",
    "connect_timeout": 10,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15000,
}
SETTINGS = {
    "synchronous_commit": "on",
    "lock_timeout": "10s",
    # A server whose disk hangs answers nobody. None of our queries takes a hundredth of it.
    "statement_timeout": "60s",
    "timezone": "UTC",
    # To start workers takes longer than any of our queries, and so does to compile one: 130 ms for
    # points of the past, of which the planner expects many more than there are.
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
}
# No server ends and begins anew in so short a time.
FRESH_SECONDS = 0.05
_USED = "dmsnap_used"
# Any number: advisory locks of the same number exclude each other, in one database.
_MAKING = 0x646D736E6170

# What a sentence leaves out of a URL's query.
_SECRETS = ("password", "sslpassword")
WITHOUT_IT = (
    "start the server or correct the URL; without it, leave the key catalogue out of the "
    "configuration: dmsnap swap --from-label DEVICE recovers a volume with nothing recorded"
)


@dataclass(frozen=True, slots=True)
class PostgresqlConnections:
    """SQLAlchemy's pool, which finds out whether a connection is still one."""

    engine: sa.Engine

    @contextmanager
    def transaction(self) -> Iterator[Statements]:
        """Committed at its end; after a failure its connection goes, and with it what was done."""
        connection = self.engine.raw_connection()
        driver = cast("psycopg.Connection", connection.driver_connection)
        try:
            driver.autocommit = True  # nothing begins a transaction but Statements
            yield Statements(cast(Driver, driver), is_postgresql=True)
            driver.commit()
            driver.autocommit = False
        except BaseException:
            connection.invalidate()
            raise
        finally:
            connection.close()

    def close(self) -> None:
        self.engine.dispose()


@dataclass(frozen=True, slots=True)
class PostgresqlDatabase:
    """The catalogue of one host in a database that many may share, each in its own schema."""

    url: sa.URL
    schema: str

    @classmethod
    def of(cls, url: Secret) -> Self:
        """Read a URL; it is not connected to."""
        try:
            parsed = sa.make_url(url.reveal())
        except (sa.exc.ArgumentError, ValueError):
            # What it says may be the password: not even as the cause is it shown.
            raise ConfigurationError(
                "the URL of the catalogue cannot be read",
                hint=f"it looks like {DRIVER}://USER@HOST/DATABASE",
            ) from None
        return cls(parsed, own_schema())

    @property
    def name(self) -> str:
        return self.url.difference_update_query(_SECRETS).render_as_string(hide_password=True)

    @property
    def errors(self) -> type[Exception]:
        # Imported by now: who fails with one has tried to connect.
        import psycopg

        return psycopg.Error

    @property
    def absent(self) -> type[Exception]:
        import psycopg

        return psycopg.ProgrammingError

    def exists(self) -> bool:
        connections = self.open()
        find = "SELECT to_regclass(:name)"
        try:
            with connections.transaction() as statements:
                return statements.value(find, name=f"{self.schema}.schema_version") is not None
        except self.errors as error:
            raise self.failure(error) from error
        finally:
            connections.close()

    def open(self) -> PostgresqlConnections:
        settings = {**SETTINGS, "search_path": self.schema}
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        given = {key: value for key, value in _CONNECTION.items() if key not in self.url.query}
        try:
            engine = sa.create_engine(
                self.url,
                # Connecting costs more than most transactions.
                poolclass=QueuePool,
                pool_size=1,
                connect_args={**given, "options": options},
            )
        except ImportError as error:
            raise ConfigurationError(
                f"the catalogue {self.name} needs psycopg and libpq: {error}",
                hint="install dmsnap with its extra postgresql",
            ) from error
        _look_after(engine)
        return PostgresqlConnections(engine)

    def server(self, connections: "Connections") -> str:
        """What libpq has connected to, whatever the URL and the environment left open."""
        connection = connections.engine.raw_connection()
        try:
            info = cast("psycopg.Connection", connection.driver_connection).info
            return info.hostaddr or info.host
        finally:
            connection.close()

    def is_made(self) -> bool:
        """Its server was asked for it by name."""
        return True

    def alone(self) -> nullcontext[None]:
        """Who only opens is in nobody's way."""
        return nullcontext()

    @contextmanager
    def change(self, engine: sa.Engine) -> Iterator[sa.Connection]:
        with engine.begin() as connection:
            # A million points may take as long as they take to be brought up.
            connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MAKING)))
            if self.schema not in sa.inspect(connection).get_schema_names():
                connection.execute(sa.schema.CreateSchema(self.schema))
            yield connection

    def failure(self, error: Exception) -> DmsnapError:
        import psycopg

        state = getattr(error, "sqlstate", None) or ""
        reason = one_line(str(error))
        if isinstance(error, psycopg.IntegrityError):
            return WrongStateError(f"the catalogue {self.name} refuses: {reason}")
        if state.startswith("53"):
            return NoSpaceError(f"the server of the catalogue {self.name} has no room: {reason}")
        if state == "25006":
            return ReadOnlyError(f"the catalogue {self.name}", "what records something")
        if state == "42501":
            return NotPermittedError(
                f"the server of the catalogue {self.name} refuses: {reason}",
                hint="its user needs CONNECT and CREATE on the database",
            )
        if state.startswith("XX"):
            return CorruptError(f"the catalogue {self.name} is damaged: {reason}")
        # Without a state it never came to the server.
        lost = isinstance(error, psycopg.OperationalError) and not state
        if lost or state[:2] in ("08", "28", "3D", "57"):
            return UnreachableError(
                f"the catalogue {self.name} cannot be reached: {reason}", hint=WITHOUT_IT
            )
        return OperatingSystemError(f"the catalogue {self.name}: {reason}")

    def take_numbers(self, statements: Statements, table: str) -> None:
        next_one = f"SELECT coalesce(max(id), 0) + 1 FROM {table}"  # noqa: S608
        sequence = "pg_get_serial_sequence(:name, 'id')"
        statements.value(f"SELECT setval({sequence}, ({next_one}), false)", name=table)

    def require_sound(self, statements: Statements) -> None:
        """The server has checksums, and tools, of its own."""

    def loose_rows(self, statements: Statements) -> list[str]:  # noqa: ARG002 - of both
        """None: nobody can switch the server's foreign keys off for himself."""
        return []

    def damage(self) -> None:
        """The server checks its own pages, and says so when they are read."""

    def set_aside(self) -> None:
        """Nothing of it is ever damaged in a way that a rebuild could put right."""


def _look_after(engine: sa.Engine) -> None:
    """Have a connection that was not used for a while asked whether it is still one: the server may
    have been started anew since. SQLAlchemy's pool would ask before each transaction, which is once
    more to the server and back.
    """

    def note(_connection: object, record: sa.pool.ConnectionPoolEntry) -> None:
        record.info[_USED] = time.monotonic()

    def require_alive(connection: Any, record: sa.pool.ConnectionPoolEntry, _proxy: object) -> None:
        if time.monotonic() - record.info[_USED] < FRESH_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            # The pool takes another one then.
            raise sa.exc.DisconnectionError(str(error)) from error

    sa.event.listen(engine, "connect", note)
    sa.event.listen(engine, "checkin", note)
    sa.event.listen(engine, "checkout", require_alive)


def own_schema() -> str:
    """The schema of this host, by its machine-id: no host ever sees another one's volumes."""
    machine_id = kernel.machine_id()
    return f"dmsnap_{machine_id.hex}" if machine_id else "dmsnap"


def one_line(message: str) -> str:
    """The first line of what the server or libpq says: further ones repeat or guess."""
    return message.strip().partition("\n")[0].strip()
