"""Catalogues of every earlier version, as they were made, come up to the one that is known."""

import sqlite3
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import catalogue_on_server
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from catalogue_samples import a_volume
from harness.postgresql_server import PostgresqlServer

from dmsnap.catalogue import (
    hook_runs,
    identity,
    jobs,
    migration,
    past,
    released,
    removed,
    schema,
    skipped,
)
from dmsnap.catalogue.database import Place, at
from dmsnap.catalogue.model import (
    AreaRole,
    Deletion,
    IdentifierKind,
    JobState,
    MountRecord,
    Parting,
    VolumeState,
)
from dmsnap.catalogue.store import Catalogue
from dmsnap.catalogue.version import VERSION
from dmsnap.errors import CorruptError, OperatingSystemError

RECORDED = Path(__file__).with_name("catalogues")
EARLIER = sorted(RECORDED.glob("version_*.sql"), key=lambda path: (len(path.name), path.name))

VOLUME = UUID("aaaaaaaa-0000-4000-8000-000000000001")
RECOVERY = UUID("aaaaaaaa-0000-4000-8000-000000000002")
POINT = UUID("bbbbbbbb-0000-4000-8000-000000000001")
DELETED = UUID("bbbbbbbb-0000-4000-8000-000000000002")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalogue.db"


@pytest.fixture(params=EARLIER, ids=lambda script: script.stem)
def earlier(request: pytest.FixtureRequest, path: Path) -> int:
    """A catalogue of an earlier version at ``path``; its number."""
    script: Path = request.param
    with sqlite3.connect(path) as raw:
        raw.executescript(script.read_text())
        (number,) = raw.execute("SELECT * FROM schema_version").fetchone()
    return int(number)


Shape = dict[str, tuple[dict[str, tuple[str, bool]], set[str]]]


def shape(place: Place) -> Shape:
    """Of each table the columns, with type and whether they may be null, and the indexes."""
    connections = at(place).open()
    try:
        with connections.engine.connect() as connection:
            where = f"{connection.dialect.name}_where"
            inspector = sa.inspect(connection)
            return {
                table: (
                    {
                        column["name"]: (str(column["type"]), bool(column["nullable"]))
                        for column in inspector.get_columns(table)
                    },
                    {
                        f"{index['name']} {index['column_names']} {index['unique']} "
                        f"{index.get('dialect_options', {}).get(where)}"
                        for index in inspector.get_indexes(table)
                    },
                )
                for table in inspector.get_table_names()
            }
    finally:
        connections.close()


def test_what_was_recorded_is_still_there(earlier: int, path: Path) -> None:
    require_recorded(earlier, path)


def require_recorded(earlier: int, place: Place) -> None:
    with Catalogue.open(place) as catalogue:
        volume = catalogue.volume("srv")
        assert (volume.id, volume.state) == (VOLUME, VolumeState.PROTECTED)
        assert volume.mounts == (MountRecord("/srv", "ext4", ("rw", "noatime")),)
        parting = Parting(7, None, "boot:2", "boot", 4096)
        assert volume.parting == (parting if earlier >= 2 else None)
        assert volume.units == (("db.service",) if earlier >= 4 else ())
        roles = {area.role for area in catalogue.areas(VOLUME)}
        assert roles == {AreaRole.COW, AreaRole.ERA_METADATA}
        (point,) = catalogue.points(VOLUME)
        assert (point.id, point.keep) == (POINT, True)
        assert catalogue.live_points(VOLUME) == [point]
        (then,) = past.as_of(catalogue, point.created_ns + 4, VOLUME)
        assert [(place.kind, place.device) for place in then.places] == [("live", "/store/cow.img")]
        before = past.as_of(catalogue, point.created_ns, VOLUME)
        assert [one.point.id for one in before] == [DELETED, POINT]
        states = [str(job.state) for job in jobs.recent(catalogue, 9)]
        assert states == ["running", "abandoned", "undone", "done"]
        (left,) = jobs.unfinished(catalogue, VOLUME)
        assert left.state is JobState.RUNNING
        assert left.arguments == ({} if earlier < 3 else {"name": "srv"})
        assert [step.name for step in left.steps] == ["track"]
        done = jobs.newest_done(catalogue, VOLUME, "sync")
        assert done is not None
        assert done.state is JobState.DONE


def test_there_is_one_of_each_earlier_version() -> None:
    assert len(EARLIER) == int(VERSION) - 1


def test_what_each_version_added_is_still_there(earlier: int, path: Path) -> None:
    require_added(earlier, path)


def require_added(earlier: int, place: Place) -> None:
    with Catalogue.open(place) as catalogue:
        volume = catalogue.volume("srv")
        (point,) = catalogue.points(VOLUME)
        (gone,) = past.deleted(catalogue, str(DELETED).replace("-", "")[:8])
        assert gone.deletion is not None
        assert gone.point.area_id is None
        assert (point.expires_ns, point.comment) == (None, None)
        known = {(each.kind, each.value) for each in identity.identifiers(catalogue, VOLUME)}
        link = (IdentifierKind.LINK, "/dev/vg/srv")
        assert (link in known) is (earlier >= 5)
        if earlier >= 5:
            deletion = Deletion(point.created_ns + 4, "prune", "admin")
            assert gone.deletion == deletion
            assert [place.kind for place in gone.places] == ["live"]
            (now,) = past.as_of(catalogue, 2**62, VOLUME)
            assert {place.kind for place in now.places} == {"live", "replica"}
            left_out = skipped.of_replica(catalogue, RECOVERY, POINT)
            assert list(left_out.pairs()) == [(65536, 131072)]
        # By this it is found how long it had lived, whichever version deleted it.
        (found,) = past.deleted_since(catalogue, VOLUME, 0, 9)
        assert found.point.id == DELETED
        assert (volume.live is not None) is (earlier >= 7)
        runs = hook_runs.of_job(catalogue, 1)
        assert [(run.hook, run.output) for run in runs] == [("quiesce", "of a hook\n")] * (
            earlier >= 8
        )
        assert (released.find(catalogue, "/dev/sdy") is not None) is (earlier >= 8)
        assert volume.joined is (earlier >= 9)
        former = removed.last(catalogue, "3f1c", [])
        assert (former.name if former else None) == ("former" if earlier >= 9 else None)
        assert volume.device_bytes == (2 * volume.size_bytes if earlier >= 10 else None)
        assert volume.led_to == ()
        operations = {job.operation for job in jobs.newest_of_each(catalogue, [VOLUME], ["sync"])}
        assert operations == {"sync"}


@pytest.mark.usefixtures("earlier")
def test_it_is_written_to_as_a_new_one(path: Path) -> None:
    require_writable(path)


def require_writable(place: Place) -> None:
    with Catalogue.open(place) as catalogue:
        volume = catalogue.volume("srv")
        catalogue.update_volume(volume)
        number = jobs.begin(catalogue, "sync", [VOLUME], arguments={}, pid=1, steps=["a"])
        assert number == 5
        catalogue.delete_point(POINT, "point delete")
        assert catalogue.points() == []


@pytest.mark.usefixtures("earlier")
def test_it_has_the_tables_of_a_new_one(path: Path, tmp_path: Path) -> None:
    with Catalogue.open(tmp_path / "new.db"):
        pass
    require_tables(path, shape(tmp_path / "new.db"))


def require_tables(place: Place, expected: Shape) -> None:
    with Catalogue.open(place) as catalogue, catalogue.transaction() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": schema.schema_version.name}
        )
        assert compare_metadata(context, schema.metadata) == []
        assert migration.version(connection) == int(VERSION)
    assert shape(place) == expected


@pytest.fixture(scope="module")
def new_on_server(postgresql: PostgresqlServer) -> Shape:
    place = postgresql.new_database()
    with Catalogue.open(place):
        return shape(place)


@pytest.mark.parametrize("number", range(catalogue_on_server.FIRST, int(VERSION)))
def test_on_a_server_it_is_the_same(
    postgresql: PostgresqlServer, new_on_server: Shape, number: int
) -> None:
    """Types that SQLite does not look at, numbers that a sequence gives, another SQL."""
    place = postgresql.new_database()
    catalogue_on_server.make(place, RECORDED, number)
    require_recorded(number, place)
    require_added(number, place)
    require_tables(place, new_on_server)
    require_writable(place)


def test_a_migration_that_fails_leaves_all_as_it_was(
    earlier: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when it is killed: tables are changed together with the version, or not at all."""
    before = shape(path)
    bring_up = migration.bring_up

    def fail_at_the_end(connection: sa.Connection, name: str) -> None:
        bring_up(connection, name)
        connection.exec_driver_sql("CREATE TABLE volume (id TEXT)")

    monkeypatch.setattr(migration, "bring_up", fail_at_the_end)
    with pytest.raises(OperatingSystemError, match="volume already exists"):
        Catalogue.open(path)
    assert shape(path) == before
    monkeypatch.undo()
    with Catalogue.open(path) as catalogue:
        assert [volume.name for volume in catalogue.volumes()] == ["srv"]


def test_an_earlier_dmsnap_stays_away(path: Path) -> None:
    """It asks for its own column, finds none, and changes nothing."""
    with Catalogue.open(path):
        pass
    with (
        sqlite3.connect(path) as raw,
        pytest.raises(sqlite3.OperationalError, match="no such column"),
    ):
        raw.execute("SELECT version FROM schema_version")


@pytest.mark.parametrize("number", ["99", "100"])
def test_a_catalogue_of_a_later_version_is_left_alone(path: Path, number: str) -> None:
    with Catalogue.open(path) as catalogue, catalogue.transaction() as connection:
        connection.execute(schema.schema_version.update().values(version_num=number))
    with pytest.raises(CorruptError, match=f"has schema {number}") as caught:
        Catalogue.open(path)
    assert caught.value.hint


def test_the_migrations_are_one_chain_up_to_what_is_known() -> None:
    config = Config()
    config.set_main_option("script_location", str(migration.SCRIPTS))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [VERSION]
    numbers = [script.revision for script in scripts.walk_revisions()]
    assert numbers == [str(number) for number in range(int(VERSION), 0, -1)]


@pytest.mark.parametrize("made_before", [True, False])
def test_a_current_catalogue_is_opened_without_alembic(path: Path, made_before: bool) -> None:
    """Its import would be half of a command's start."""
    if made_before:
        Catalogue.open(path).close()
    script = (
        "import sys; from pathlib import Path; from dmsnap.catalogue.store import Catalogue\n"
        "Catalogue.open(Path(sys.argv[1])).volumes(); print('alembic' in sys.modules)"
    )
    words = [sys.executable, "-c", script, str(path)]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "False\n"


def test_what_is_asked_and_recorded_often_takes_no_sqlalchemy(path: Path) -> None:
    """Its import would be three quarters of a command's start."""
    with Catalogue.open(path) as catalogue:
        catalogue.add_volume(a_volume())
    script = """
import sys
from pathlib import Path
from uuid import uuid4
from dmsnap.catalogue import excerpt, export, hook_runs, identity, jobs, recall, released, skipped
from dmsnap.catalogue.hook_runs import HookRecord
from dmsnap.catalogue.model import JobState, StepState
from dmsnap.catalogue.store import Catalogue
with Catalogue.open(Path(sys.argv[1])) as catalogue:
    (volume,) = catalogue.volumes()
    job = jobs.begin(catalogue, "swap", [volume.id], arguments={}, pid=1, steps=["a"])
    jobs.record_step(catalogue, job, 0, StepState.DONE, 1.0)
    jobs.end(catalogue, job, JobState.DONE, "")
    catalogue.update_volume(volume)
    catalogue.record_replica(volume, [])
    found = catalogue.points(), catalogue.areas(volume.id), jobs.unfinished(catalogue, volume.id)
    more = export.exports(catalogue), identity.identifiers(catalogue, volume.id)
    hook_runs.record(catalogue, job, "a", [HookRecord("x", "precopy", "done", False, 0.1, "")])
    hooks = hook_runs.of_job(catalogue, job), released.find(catalogue, "/dev/sdx")
    taken = excerpt.take(catalogue, volume.id)
    text = excerpt.encode(taken)
    also = lambda statements: recall.everything(statements, taken)
    catalogue.add_whole(volume, (), (), also)
print("sqlalchemy" in sys.modules)
"""
    words = [sys.executable, "-c", script, str(path)]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "False\n"


def test_alembic_brings_up_what_is_old(earlier: int, path: Path) -> None:
    """The look above would see it: here it is imported."""
    script = (
        "import sys; from pathlib import Path; from dmsnap.catalogue.store import Catalogue\n"
        "Catalogue.open(Path(sys.argv[1])).volumes(); print('alembic' in sys.modules)"
    )
    words = [sys.executable, "-c", script, str(path)]
    expected = str(earlier < int(VERSION)) + "\n"
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == expected
