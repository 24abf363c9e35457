"""The catalogue: what is recorded comes back, and a damaged file is a sentence."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from dmsnap._native.extent_set import ExtentSet
from dmsnap.catalogue import export as recorded
from dmsnap.catalogue import jobs, schema, skipped
from dmsnap.catalogue.clock import format_time
from dmsnap.catalogue.export import Export, ExportKind, Source
from dmsnap.catalogue.model import (
    Area,
    AreaRole,
    Hydration,
    JobState,
    LiveFront,
    MountRecord,
    Parting,
    Point,
    StepState,
    Volume,
    VolumeState,
)
from dmsnap.catalogue.skipped import Skipped
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import CorruptError, NotFoundError, OperatingSystemError, WrongStateError
from dmsnap.extent import Extent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "catalogue.db"


@pytest.fixture
def catalogue(path: Path) -> Iterator[Catalogue]:
    with Catalogue.open(path) as opened:
        yield opened


def a_volume(name: str = "srv") -> Volume:
    return Volume(
        id=uuid4(),
        name=name,
        state=VolumeState.BUILDING,
        backing="/dev/vg/srv",
        recovery="/dev/sdb",
        recovery_id=uuid4(),
        store="/var/lib/dmsnap/store",
        size_bytes=2**44,
        block_bytes=65536,
        chunk_bytes=4096,
        fs_type="ext4",
        fs_uuid="3f1c",
        mounts=(
            MountRecord("/srv", "ext4", ("rw", "noatime")),
            MountRecord("/mnt/a b", "ext4", ()),
        ),
        generation=1,
        tracking_id="boot:1",
        created_ns=1_790_000_000_000_000_001,
    )


def an_area(volume: Volume, role: AreaRole = AreaRole.COW) -> Area:
    return Area(uuid4(), volume.id, role, 1, f"/store/{uuid4().hex}.img", 2**34, uuid4())


def a_point(volume: Volume, created_ns: int = 5) -> Point:
    return Point(uuid4(), volume.id, created_ns, True, False, 7, "boot:1", 0.0034, uuid4(), "torn")


def test_a_volume_comes_back_as_it_was(catalogue: Catalogue) -> None:
    volume = a_volume()
    catalogue.add_volume(volume)
    assert catalogue.volume("srv") == volume
    assert catalogue.volume_by_id(volume.id) == volume
    changed = replace(
        volume,
        state=VolumeState.PROMOTED,
        recovery=None,
        recovery_id=None,
        trial_point=uuid4(),
        previous_backing="/dev/vg/old",
        mounts=(),
        hydration=Hydration("/dev/vg/old", "/dev/vg/new", 2**40, 9, "boot:1", 2**33),
        left_behind=("/dev/sdx", "/dev/a b"),
        live=LiveFront("vg-data", "LVM-abc", "boot"),
    )
    catalogue.update_volume(changed)
    assert catalogue.volumes() == [changed]
    assert isinstance(catalogue.volume("srv").state, VolumeState)


def test_volumes_are_listed_by_name(catalogue: Catalogue) -> None:
    for name in ("b", "c", "a"):
        catalogue.add_volume(a_volume(name))
    assert [volume.name for volume in catalogue.volumes()] == ["a", "b", "c"]


def test_an_unknown_volume_is_a_sentence(catalogue: Catalogue) -> None:
    assert catalogue.find_volume("srv") is None
    with pytest.raises(NotFoundError, match="no protected volume named 'srv'"):
        catalogue.volume("srv")
    with pytest.raises(NotFoundError):
        catalogue.volume_by_id(uuid4())


def test_a_name_is_taken_while_protected_and_free_again_afterwards(catalogue: Catalogue) -> None:
    first, second = a_volume(), a_volume()
    catalogue.add_volume(first)
    for taken in (second, replace(first, name="another")):
        with pytest.raises(WrongStateError, match="refuses"):
            catalogue.add_volume(taken)
    assert catalogue.volume("srv").id == first.id
    catalogue.remove_volume(first.id)
    assert catalogue.find_volume("srv") is None
    catalogue.add_volume(second)
    assert catalogue.volume("srv").id == second.id


def test_a_volume_that_was_unprotected_is_protected_again(catalogue: Catalogue) -> None:
    """Its label gives it its former identity back, and with it its points."""
    volume = a_volume()
    catalogue.add_volume(volume)
    point = a_point(volume)
    catalogue.add_point(point)
    catalogue.remove_volume(volume.id)
    again = replace(volume, generation=1, tracking_id="boot:2", store="/elsewhere")
    catalogue.add_volume(again)
    assert catalogue.volumes() == [again]
    assert catalogue.points(volume.id) == [point]


def test_areas_come_back_and_go(catalogue: Catalogue) -> None:
    volume = a_volume()
    catalogue.add_volume(volume)
    cow, era = an_area(volume), replace(an_area(volume, AreaRole.ERA_METADATA), point_id=None)
    catalogue.add_area(cow)
    catalogue.add_area(era)
    assert catalogue.areas(volume.id) == [cow, era]
    assert catalogue.areas(volume.id, AreaRole.ERA_METADATA) == [era]
    spare = replace(era, role=AreaRole.SPARE)
    catalogue.update_area(spare)
    assert catalogue.areas(volume.id) == [cow, spare]
    catalogue.update_area(era)
    catalogue.remove_area(cow.id)
    catalogue.remove_area(cow.id)
    assert catalogue.areas(volume.id) == [era]
    assert catalogue.areas(uuid4()) == []


def test_areas_and_points_belong_to_a_volume(catalogue: Catalogue) -> None:
    with pytest.raises(WrongStateError, match="refuses"):
        catalogue.add_area(an_area(a_volume()))
    with pytest.raises(WrongStateError, match="refuses"):
        catalogue.add_point(a_point(a_volume()))


def test_the_points_of_one_moment_are_recorded_together(catalogue: Catalogue) -> None:
    """As when a command is killed in between: a set of volumes has all of them or none."""
    volume = a_volume()
    catalogue.add_volume(volume)
    good, bad = a_point(volume), a_point(a_volume("other"))
    with pytest.raises(WrongStateError, match="refuses"):
        catalogue.add_points([good, bad])
    assert catalogue.points() == []
    catalogue.add_points([good, a_point(volume, 9)])
    assert len(catalogue.points(volume.id)) == 2


def test_points_come_back_oldest_first_and_stay_recorded(catalogue: Catalogue, path: Path) -> None:
    volume = a_volume()
    catalogue.add_volume(volume)
    newer, older = a_point(volume, 9), a_point(volume, 3)
    for point in (newer, older):
        catalogue.add_point(point)
    assert catalogue.points() == [older, newer]
    assert catalogue.find_point(newer.id) == newer
    settled = replace(newer, area_id=None, invalid_reason=None, keep=False)
    catalogue.update_point(settled)
    assert catalogue.find_point(newer.id) == settled
    catalogue.delete_point(older.id)
    assert catalogue.find_point(older.id) is None
    assert catalogue.points(volume.id) == [settled]
    with sqlite3.connect(path) as raw:
        kept = raw.execute("SELECT deleted_ns, area_id FROM point WHERE id = ?", [str(older.id)])
        deleted_ns, area_id = kept.fetchone()
    assert deleted_ns > 0
    assert area_id is None


def test_jobs_are_recorded_before_their_steps_and_after(catalogue: Catalogue, path: Path) -> None:
    volume_id, steps = uuid4(), ["track", "apply"]
    job_id = jobs.begin(
        catalogue, "sync", [volume_id], arguments={"name": "srv"}, pid=42, steps=steps
    )
    jobs.record_step(catalogue, job_id, 0, StepState.DONE, 0.5)
    jobs.record_step(catalogue, job_id, 1, StepState.BEGUN, None)
    with sqlite3.connect(path) as raw:
        rows = raw.execute("SELECT name, state, seconds FROM job_step ORDER BY position")
        assert rows.fetchall() == [("track", "done", 0.5), ("apply", "begun", None)]
        assert raw.execute("SELECT finished_ns FROM job").fetchone() == (None,)
    (job,) = jobs.unfinished(catalogue, volume_id)
    assert job == jobs.job(catalogue, job_id)
    assert (job.arguments, job.last_begun) == ({"name": "srv"}, "apply")
    assert job.has_begun("apply")
    assert not job.has("apply", StepState.DONE)
    jobs.end(catalogue, job_id, JobState.DONE, "")
    assert jobs.unfinished(catalogue, volume_id) == []
    empty = jobs.begin(catalogue, "assemble", [uuid4()], arguments={}, pid=42, steps=[])
    assert [(each.id, each.state) for each in jobs.recent(catalogue, 1)] == [(empty, "running")]
    assert [each.id for each in jobs.recent(catalogue, 2)] == [empty, job_id]
    with pytest.raises(NotFoundError, match="no job 77"):
        jobs.job(catalogue, 77)


def test_a_job_of_two_volumes_is_over_when_both_are_settled(catalogue: Catalogue) -> None:
    one, two = uuid4(), uuid4()
    job_id = jobs.begin(catalogue, "point create", [one, two], arguments={}, pid=42, steps=["w"])
    jobs.settle(catalogue, job_id, one, JobState.UNDONE, "cut off")
    assert jobs.unfinished(catalogue, one) == []
    assert jobs.job(catalogue, job_id).state is JobState.RUNNING
    assert [job.id for job in jobs.unfinished(catalogue, two)] == [job_id]
    assert [job.id for job in jobs.recent(catalogue, 1)] == [job_id]
    jobs.settle(catalogue, job_id, two, JobState.UNDONE, "cut off")
    assert jobs.job(catalogue, job_id).state is JobState.UNDONE


def to_second_version(raw: sqlite3.Connection) -> None:
    for column in ("hydration", "left_behind", "units", "trial_live", "live"):
        raw.execute(f"ALTER TABLE volume DROP COLUMN {column}")
    for column in ("arguments", "state"):
        raw.execute(f"ALTER TABLE job DROP COLUMN {column}")
    raw.execute("ALTER TABLE job ADD COLUMN volume_id TEXT")
    raw.execute("CREATE INDEX ix_job_volume_id ON job (volume_id)")
    raw.execute("DROP TABLE job_volume")
    raw.execute("UPDATE schema_version SET version = 2")


def test_jobs_of_the_second_version_are_brought_up(path: Path) -> None:
    volume_id = str(uuid4())
    with Catalogue.open(path):
        pass
    with sqlite3.connect(path) as raw:
        to_second_version(raw)
        raw.executemany(
            "INSERT INTO job (operation, pid, started_ns, finished_ns, outcome, volume_id)"
            " VALUES ('sync', 1, 1, ?, ?, ?)",
            [(2, "done", volume_id), (2, "undone: the disk is full", volume_id),
             (2, "abandoned: its process was killed", None), (None, None, volume_id)],
        )  # fmt: skip
    with Catalogue.open(path) as catalogue:
        states = [str(job.state) for job in jobs.recent(catalogue, 9)]
        assert states == ["running", "abandoned", "undone", "done"]
        (left,) = jobs.unfinished(catalogue, UUID(volume_id))
        assert (left.state, left.arguments) == (JobState.RUNNING, {})
        jobs.begin(catalogue, "sync", [UUID(volume_id)], arguments={}, pid=1, steps=["a"])


def test_it_is_kept_from_others_and_opens_again(catalogue: Catalogue, path: Path) -> None:
    catalogue.add_volume(a_volume())
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    with Catalogue.open(path) as second:
        assert len(second.volumes()) == 1


def test_every_transaction_is_written_through(catalogue: Catalogue) -> None:
    with catalogue.transaction() as connection:
        assert connection.scalar(sa.text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(sa.text("PRAGMA synchronous")) == 2
        assert connection.scalar(sa.text("PRAGMA foreign_keys")) == 1


@pytest.mark.parametrize("damage", ["garbage", "header", "page"])
def test_a_damaged_file_is_a_sentence(path: Path, damage: str) -> None:
    with Catalogue.open(path) as catalogue:
        for number in range(3):
            catalogue.add_volume(a_volume(f"v{number}"))
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(path.read_bytes())
    if damage == "garbage":
        content[:] = b"\xa5" * len(content)
    elif damage == "header":
        content[0:16] = b"not a database!!"
    else:
        content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(CorruptError, match="is damaged") as caught:
        Catalogue.open(path).volumes()
    assert caught.value.hint
    assert str(path) in str(caught.value)


def test_a_catalogue_of_the_first_version_is_brought_up(path: Path) -> None:
    volume = a_volume()
    with Catalogue.open(path) as catalogue:
        catalogue.add_volume(volume)
    with sqlite3.connect(path) as raw:
        to_second_version(raw)
        raw.execute("ALTER TABLE volume DROP COLUMN parting")
        raw.execute("UPDATE schema_version SET version = 1")
    parted = replace(volume, parting=Parting(7, None, "boot:2", "boot", 4096))
    with Catalogue.open(path) as catalogue:
        assert catalogue.volume(volume.name) == volume
        catalogue.update_volume(parted)
    with Catalogue.open(path) as catalogue:
        assert catalogue.volume(volume.name) == parted


def test_a_catalogue_of_the_fourth_version_is_brought_up(path: Path) -> None:
    volume = a_volume()
    with Catalogue.open(path) as catalogue:
        catalogue.add_volume(volume)
    with sqlite3.connect(path) as raw:
        raw.execute("ALTER TABLE volume DROP COLUMN live")
        raw.execute("UPDATE schema_version SET version = 4")
    live = replace(volume, live=LiveFront("vg-data", "LVM-abc", "boot"))
    with Catalogue.open(path) as catalogue:
        assert catalogue.volume(volume.name) == volume
        catalogue.update_volume(live)
        assert catalogue.volume(volume.name) == live


def test_a_catalogue_of_a_later_version_is_left_alone(path: Path) -> None:
    with Catalogue.open(path) as catalogue, catalogue.transaction() as connection:
        connection.execute(schema.schema_version.update().values(version=99))
    with pytest.raises(CorruptError, match="has schema 99"):
        Catalogue.open(path)


def test_a_directory_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatingSystemError, match="cannot be opened") as caught:
        Catalogue.open(tmp_path / "file" / "catalogue.db")
    assert caught.value.fields["errnum"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_directory_is_a_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OperatingSystemError, match="cannot be opened"):
        Catalogue.open(tmp_path / "catalogue.db")


def test_a_catalogue_that_another_holds_is_a_sentence(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmsnap.catalogue.store.BUSY_TIMEOUT_SECONDS", 0.01)
    with Catalogue.open(path) as catalogue, sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OperatingSystemError, match="locked"):
            catalogue.add_volume(a_volume())
        other.execute("ROLLBACK")
        catalogue.add_volume(a_volume())


@settings(max_examples=20, deadline=None)
@given(
    name=st.text(min_size=1),
    mounts=st.lists(st.tuples(st.text(), st.text(), st.lists(st.text())), max_size=3),
    size_bytes=st.integers(0, 2**62),
)
def test_any_text_survives(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    mounts: list[tuple[str, str, list[str]]],
    size_bytes: int,
) -> None:
    records = tuple(MountRecord(at, kind, tuple(options)) for at, kind, options in mounts)
    volume = replace(a_volume(), name=name, mounts=records, size_bytes=size_bytes)
    with Catalogue.open(tmp_path_factory.mktemp("any") / "catalogue.db") as catalogue:
        catalogue.add_volume(volume)
        assert catalogue.volume_by_id(volume.id) == volume


def test_times_are_utc() -> None:
    assert format_time(1_790_000_000_999_999_999) == "2026-09-21T14:13:20Z"


def test_two_first_commands_make_it_at_once(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from dmsnap.catalogue.store import Catalogue\n"
    script += "sys.stdin.read(1); Catalogue.open(Path(sys.argv[1])).volumes()"
    for attempt in range(3):
        path = str(tmp_path / f"catalogue-{attempt}.db")
        racers = [
            subprocess.Popen(
                [sys.executable, "-c", script, path],
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(4)
        ]
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("x")
            racer.stdin.flush()
        ends = [racer.communicate(timeout=60)[1] for racer in racers]
        assert [racer.returncode for racer in racers] == [0] * 4, ends


def test_what_a_replica_leaves_out_is_good_for_its_points_only(tmp_path: Path) -> None:
    recovery, other, point, next_point = (uuid4() for _ in range(4))
    extents = ExtentSet.from_extents([Extent(4096, 8192), Extent(2**44, 4096)])
    with Catalogue.open(tmp_path / "catalogue.db") as opened:
        assert not skipped.of_replica(opened, recovery, point)
        skipped.record(opened, Skipped(recovery, (point,), extents))
    with Catalogue.open(tmp_path / "catalogue.db") as opened:
        assert skipped.of_replica(opened, recovery, point) == extents
        assert not skipped.of_replica(opened, recovery, next_point)
        assert not skipped.of_replica(opened, recovery, None)
        assert not skipped.of_replica(opened, other, point)
        fewer = ExtentSet.from_extents([Extent(4096, 4096)])
        skipped.record(opened, Skipped(recovery, (point, next_point), fewer))
        assert skipped.of_replica(opened, recovery, point) == fewer
        assert skipped.of_replica(opened, recovery, next_point) == fewer
        skipped.record(opened, Skipped(recovery, (next_point,), ExtentSet()))
        assert not skipped.of_replica(opened, recovery, next_point)
        skipped.record(opened, Skipped(recovery, (point,), extents))
        skipped.forget(opened, recovery)
        assert not skipped.of_replica(opened, recovery, point)


def an_export(volume: Volume) -> Export:
    return Export(
        id=uuid4(),
        source=Source(ExportKind.POINT, volume.id, uuid4(), None, 2**44),
        target="iqn.2026-01.local.dmsnap:srv-1",
        lun=0,
        address="2001:db8::1",
        port=3260,
        initiators=("iqn.2026-01.org.example:a", "iqn.2026-01.org.example:b"),
        read_only=True,
        generation=1,
        complete=False,
        created_ns=1,
    )


def test_exports_come_back_as_they_were(catalogue: Catalogue) -> None:
    volume = a_volume()
    catalogue.add_volume(volume)
    first = an_export(volume)
    device = Source(ExportKind.DEVICE, None, None, "/dev/disk/by-id/x", 4096)
    second = replace(first, id=uuid4(), source=device, address="192.0.2.1", created_ns=2)
    for export in (second, first):
        recorded.record(catalogue, export)
    assert recorded.exports(catalogue) == [first, second]
    assert recorded.exports(catalogue, volume.id) == [first]
    done = replace(first, complete=True, generation=2)
    recorded.record(catalogue, done)
    assert recorded.exports(catalogue, volume.id) == [done]
    assert done.backstore == f"dmsnap-{done.id.hex[:12]}-2"
    assert (done.portal, second.portal) == ("[2001:db8::1]:3260", "192.0.2.1:3260")
    recorded.forget(catalogue, first.id)
    assert recorded.exports(catalogue) == [second]
