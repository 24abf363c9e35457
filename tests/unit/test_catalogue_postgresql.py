"""The catalogue on a PostgreSQL server: what becomes of it, and of its password, when it fails."""

import builtins
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa
from catalogue_samples import a_volume
from harness.postgresql_server import INSTALLED, PostgresqlServer

from dmsnap.catalogue import jobs
from dmsnap.catalogue.database import at
from dmsnap.catalogue.model import JobState, StepState
from dmsnap.catalogue.postgresql import SETTINGS
from dmsnap.catalogue.store import Catalogue
from dmsnap.cli import program
from dmsnap.errors import (
    ConfigurationError,
    DmsnapError,
    ExitCode,
    NotPermittedError,
    ReadOnlyError,
    UnreachableError,
    WrongStateError,
)
from dmsnap.host import kernel
from dmsnap.secret import Secret
from dmsnap.service import journal, reaper
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.health import doctor
from dmsnap.service.health.finding import Level
from dmsnap.service.hydrations import destination
from dmsnap.service.journal import Plan, Step
from dmsnap.service.records import backup
from dmsnap.service.session import Session

PASSWORD = "kX7-secret"  # noqa: S105 - of no server
NOWHERE = Secret(f"postgresql+psycopg://dmsnap:{PASSWORD}@127.0.0.1:1/dmsnap")


@pytest.fixture
def own_server() -> Iterator[PostgresqlServer]:
    """A server that a test may stop."""
    if not INSTALLED:
        pytest.skip("make deps installs PostgreSQL")
    with PostgresqlServer.make() as server:
        yield server


def test_a_server_that_cannot_be_reached_is_a_sentence() -> None:
    with pytest.raises(UnreachableError, match="cannot be reached") as caught:
        Catalogue.open(NOWHERE)
    assert "postgresql+psycopg://dmsnap:***@127.0.0.1:1/dmsnap" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "swap --from-label" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"u:{PASSWORD}@host/db", "u:***@host/db"),
        (f"u@host/db?password={PASSWORD}", "u@host/db"),
        (
            f"u@host/db?sslpassword={PASSWORD}&sslmode=require",
            "u@host/db?sslmode=require",
        ),
        ("u@/db?host=/run/postgresql", "u@/db?host=%2Frun%2Fpostgresql"),
    ],
)
def test_a_password_is_masked(url: str, shown: str) -> None:
    place = Secret(f"postgresql+psycopg://{url}")
    assert at(place).name == f"postgresql+psycopg://{shown}"
    assert PASSWORD not in repr(at(place).name) + repr(place)


def test_a_url_that_is_none_does_not_show_what_it_is() -> None:
    with pytest.raises(ConfigurationError) as caught:
        at(Secret(f"postgresql+psycopg://dmsnap:{PASSWORD}@host:port/db"))
    error: BaseException | None = caught.value
    while error is not None:
        assert PASSWORD not in str(error)
        error = error.__cause__
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("flags", [("--json",), ("--debug",), ()])
def test_no_command_shows_the_password(
    flags: Sequence[str],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path_factory.mktemp("configured") / "dmsnap.toml"
    path.write_text(f'catalogue = "{NOWHERE.reveal()}"\nstate_directory = "{path.parent}"\n')
    monkeypatch.setenv("DMSNAP_CONFIG", str(path))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert program.main(("status", *flags)) == ExitCode.UNREACHABLE
    shown = capsys.readouterr()
    assert PASSWORD not in shown.out + shown.err
    if flags == ("--json",):
        assert json.loads(shown.err)["kind"] == "UnreachableError"
    settings = Configuration(catalogue=NOWHERE.reveal())
    assert PASSWORD not in repr(settings)
    check = doctor.catalogue_check(settings, root=True)
    assert check.level is Level.MISSING
    assert PASSWORD not in repr(check)


def test_psycopg_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002 - the names of __import__
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        if name == "psycopg":
            raise ImportError("no pq wrapper available")
        return real(name, globals, locals, fromlist or (), level)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationError, match="needs psycopg and libpq") as caught:
        Catalogue.open(NOWHERE)
    assert PASSWORD not in str(caught.value)


def test_it_says_where_its_server_is(postgresql: PostgresqlServer, tmp_path: Path) -> None:
    with Catalogue.open(postgresql.new_database()) as catalogue:
        assert catalogue.server() == str(postgresql.directory)
    with Catalogue.open(tmp_path / "catalogue.db") as catalogue:
        assert catalogue.server() is None


@pytest.mark.parametrize(
    ("address", "given", "refused"),
    [
        ("/run/postgresql", False, True),
        ("/run/postgresql", True, False),
        ("127.0.0.1", False, True),
        ("192.0.2.9", False, False),
        (None, False, False),
    ],
)
def test_a_volume_that_its_server_could_lie_on_is_not_moved(
    address: str | None, given: bool, refused: bool
) -> None:
    catalogue = SimpleNamespace(server=lambda: address, name="postgresql://host/db")
    session: Any = SimpleNamespace(catalogue=catalogue)
    if not refused:
        destination.require_catalogue_elsewhere(session, a_volume(), given=given)
        return
    with pytest.raises(WrongStateError, match="is on this host") as raised:
        destination.require_catalogue_elsewhere(session, a_volume(), given=given)
    assert "--force" in (raised.value.hint or "")


def test_hosts_do_not_see_each_other(
    postgresql: PostgresqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One database for many hosts: a volume of another must never be assembled here."""
    place, here, there = postgresql.new_database(), uuid4(), uuid4()
    for host in (here, there):
        monkeypatch.setattr(kernel, "machine_id", lambda host=host: host)
        assert not at(place).exists()
        with Catalogue.open(place) as catalogue:
            assert catalogue.volumes() == []
            catalogue.add_volume(a_volume())
            assert len(catalogue.volumes()) == 1
        assert at(place).exists()


def test_what_is_recorded_is_written_through(postgresql: PostgresqlServer) -> None:
    with (
        Catalogue.open(postgresql.new_database()) as catalogue,
        catalogue.statements() as statements,
    ):
        assert statements.value("SHOW synchronous_commit") == "on"


def test_a_server_that_was_started_anew_goes_unnoticed(own_server: PostgresqlServer) -> None:
    with Catalogue.open(own_server.new_database()) as catalogue:
        catalogue.add_volume(a_volume())
        own_server.stop()
        with pytest.raises(UnreachableError):
            catalogue.volumes()
        own_server.start()
        assert len(catalogue.volumes()) == 1


@pytest.mark.parametrize("where", ["do", "undo"])
def test_a_server_that_stops_during_a_job(own_server: PostgresqlServer, where: str) -> None:
    """What was begun is undone although nothing can be recorded; the job is cut off, not lost."""
    volume_id, undone = uuid4(), []

    def first_undone() -> None:
        if where == "undo":
            own_server.stop()
        undone.append("first")

    def fail() -> None:
        if where == "do":
            own_server.stop()
        raise WrongStateError("the disk is in use")

    steps = [
        Step("first", "do the first", lambda: None, first_undone),
        Step("second", "do the second", fail, lambda: undone.append("second")),
    ]
    with Catalogue.open(own_server.new_database()) as catalogue:
        with pytest.raises(DmsnapError) as caught:
            journal.run(catalogue, Plan("sync", [volume_id], steps))
        assert "the disk is in use" in str(caught.value)
        assert undone == ["second", "first"]
        own_server.start()
        (job,) = jobs.unfinished(catalogue, volume_id)
        assert job.state is JobState.RUNNING
        assert job.has("first", StepState.DONE)
        assert job.has_begun("second") == (where == "do")


def test_the_next_command_settles_what_a_stopped_server_left(
    own_server: PostgresqlServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It stops while a step works: one sentence with a code of its own, and all of it is undone."""
    volume, undone = a_volume(), []

    def steps(meanwhile: Callable[[], None]) -> list[Step]:
        return [
            Step("repair", "repair", lambda: None, lambda: undone.append("repair")),
            Step("apply", "apply", meanwhile, lambda: undone.append("apply")),
        ]

    with Catalogue.open(own_server.new_database()) as catalogue:
        catalogue.add_volume(volume)
        with pytest.raises(UnreachableError) as caught:
            journal.run(catalogue, Plan("sync", [volume.id], steps(own_server.stop)))
        assert caught.value.exit_code is ExitCode.UNREACHABLE
        assert "\n" not in str(caught.value)
        assert "cannot be reached" in str(caught.value)
        assert undone == ["apply", "repair"]
        # What a command that comes meanwhile is told, and whatever it would back up.
        with pytest.raises(UnreachableError):
            catalogue.volumes()
        backup.keep(catalogue, volume.name)
        own_server.start()
        assert catalogue.volumes() == [volume]
        session = Session(Configuration(run_directory=tmp_path_factory.mktemp("run")), catalogue)
        (job,) = jobs.unfinished(catalogue, volume.id)
        assert job.last_begun == "apply"
        assert reaper.conclude(session, volume, job) is JobState.UNDONE
        assert jobs.unfinished(catalogue, volume.id) == []
        assert jobs.running(catalogue) == []
        journal.run(catalogue, Plan("sync", [volume.id], steps(lambda: None)))
        assert undone == ["apply", "repair"]
        assert [each.state for each in jobs.recent(catalogue, 9)] == [
            JobState.DONE,
            JobState.UNDONE,
        ]


def test_a_query_that_hangs_is_given_up(
    postgresql: PostgresqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for what brings the tables up, which takes as long as there are rows."""
    sleep = "SELECT CAST(pg_sleep(:seconds) AS text)"
    place = postgresql.new_database()
    Catalogue.open(place).close()
    assert SETTINGS["statement_timeout"] == "60s"
    monkeypatch.setitem(SETTINGS, "statement_timeout", "50ms")
    database = at(place)
    connections = database.open()
    try:
        with database.change(connections.engine) as connection:
            connection.execute(sa.text(sleep), {"seconds": 0.2})
    finally:
        connections.close()
    with Catalogue.open(place) as catalogue:
        with (
            pytest.raises(UnreachableError, match="statement timeout"),
            catalogue.statements() as statements,
        ):
            statements.value(sleep, seconds=60)
        assert catalogue.volumes() == []


def test_a_user_who_may_make_nothing_is_told(postgresql: PostgresqlServer) -> None:
    place = postgresql.new_database()
    url = sa.make_url(place.reveal())
    with psycopg.connect(f"host={postgresql.directory} user=dmsnap dbname={url.database}") as admin:
        admin.execute("CREATE ROLE visitor LOGIN")
    visitor = Secret(url.set(username="visitor").render_as_string(hide_password=False))
    with pytest.raises(NotPermittedError, match="permission denied") as caught:
        Catalogue.open(visitor)
    assert "CREATE" in (caught.value.hint or "")


def test_a_server_that_takes_no_changes_is_read_only(postgresql: PostgresqlServer) -> None:
    place = postgresql.new_database()
    url = sa.make_url(place.reveal())
    with Catalogue.open(place):
        pass
    with psycopg.connect(f"host={postgresql.directory} user=dmsnap dbname={url.database}") as admin:
        admin.execute(f"ALTER DATABASE {url.database} SET default_transaction_read_only = on")
    with Catalogue.open(place) as catalogue:
        assert catalogue.volumes() == []
        with pytest.raises(ReadOnlyError, match="is read-only"):
            catalogue.add_volume(a_volume())


def test_a_database_that_is_not_there_is_a_sentence(postgresql: PostgresqlServer) -> None:
    with pytest.raises(UnreachableError, match='database "nobody_made_it" does not exist'):
        Catalogue.open(postgresql.url("nobody_made_it"))
