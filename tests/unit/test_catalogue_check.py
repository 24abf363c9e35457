"""Checking the catalogue: what contradicts itself is said, what is sound is not."""

import re
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa
from catalogue_samples import a_point, a_volume, an_export

from dmsnap.catalogue import export, jobs, schema
from dmsnap.catalogue.model import Area, AreaRole, JobState, Point, Volume, VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import CorruptError
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.records import catalogue_check
from dmsnap.service.session import Session
from dmsnap.snapshot.space import plan_area


@pytest.fixture
def session(catalogue: Catalogue, tmp_path: Path) -> Session:
    return Session(Configuration(run_directory=tmp_path / "run"), catalogue)


@pytest.fixture
def volume(session: Session, tmp_path: Path) -> Volume:
    """A volume with a live point, an earlier one on its recovery volume, a deleted one, a job."""
    store = tmp_path / "store"
    store.mkdir()
    made = replace(a_volume(), store=str(store), state=VolumeState.PROTECTED)
    session.catalogue.add_volume(made)
    live, earlier, gone = (a_point(made, created_ns) for created_ns in (3, 2, 1))
    area = plan_area(made, AreaRole.COW, 4096, point_id=live.id)
    Path(area.path).touch()
    session.catalogue.add_area(area)
    session.catalogue.add_points(
        [replace(live, area_id=area.id), replace(earlier, area_id=None), gone]
    )
    session.catalogue.record_replica(made, [earlier.id])
    session.catalogue.delete_point(gone.id, "no room")
    job_id = jobs.begin(session.catalogue, "sync", [made.id], arguments={}, pid=1, steps=["a"])
    jobs.end(session.catalogue, job_id, JobState.DONE, "")
    jobs.begin(session.catalogue, "sync", [made.id], arguments={}, pid=1, steps=["a"])
    return made


def problems(session: Session) -> tuple[str, ...]:
    return catalogue_check.check(session).problems


def live_point(session: Session, volume: Volume) -> tuple[Point, Area]:
    (area,) = session.catalogue.areas(volume.id)
    (point,) = (each for each in session.catalogue.points(volume.id) if each.area_id == area.id)
    return point, area


def test_what_is_sound_has_no_problems(session: Session, volume: Volume) -> None:
    found = catalogue_check.check(session)
    assert found.problems == ()
    assert found.catalogue == session.catalogue.name


def test_pieces_without_a_file_and_files_without_a_record(session: Session, volume: Volume) -> None:
    _, area = live_point(session, volume)
    stray = plan_area(volume, AreaRole.OVERLAY, 4096)
    foreign = plan_area(replace(volume, name="other"), AreaRole.OVERLAY, 4096)
    Path(area.path).rename(stray.path)
    Path(foreign.path).touch()
    assert problems(session) == (
        f"the piece {area.path} of srv is recorded and not there",
        f"the piece {stray.path} of srv is in no record",
    )
    Path(stray.path).unlink()
    Path(foreign.path).unlink()
    Path(volume.store).rmdir()
    assert problems(session) == (f"the piece {area.path} of srv is recorded and not there",)


def test_a_volume_that_is_worked_on_is_left_out(
    session: Session, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, area = live_point(session, volume)
    Path(area.path).unlink()
    monkeypatch.setattr("dmsnap.service.session.holder_of", lambda *_: "dmsnap sync srv")
    found = catalogue_check.check(session)
    assert (found.problems, found.skipped) == ((), ("srv",))


def change(session: Session, statement: sa.Executable) -> None:
    with session.catalogue.transaction() as connection:
        connection.execute(statement)


def deleted_in_part(session: Session, volume: Volume) -> None:
    point, _ = live_point(session, volume)
    values = {"deleted_ns": 9, "area_id": None}
    change(session, schema.point.update().filter_by(id=str(point.id)).values(values))


def without_area(session: Session, volume: Volume) -> None:
    point, _ = live_point(session, volume)
    change(session, schema.point.update().filter_by(id=str(point.id)).values(area_id=None))


def in_another_area(session: Session, volume: Volume) -> None:
    point, _ = live_point(session, volume)
    values = {"area_id": str(uuid4())}
    change(session, schema.point.update().filter_by(id=str(point.id)).values(values))


def unprotected_in_part(session: Session, volume: Volume) -> None:
    export.record(session.catalogue, an_export(volume))
    session.catalogue.remove_volume(volume.id)


def exported_and_deleted(session: Session, volume: Volume) -> None:
    point, area = live_point(session, volume)
    made = an_export(volume)
    source = replace(made.source, point_id=point.id)
    export.record(session.catalogue, replace(made, source=source))
    session.catalogue.remove_area(area.id)
    Path(area.path).unlink()
    session.catalogue.delete_point(point.id, "point delete")


def promoted(session: Session, volume: Volume) -> None:
    session.catalogue.update_volume(replace(volume, state=VolumeState.PROMOTED))


def on_trial(session: Session, volume: Volume) -> None:
    session.catalogue.update_volume(replace(volume, state=VolumeState.TRIAL, recovery=None))


def ended_in_part(session: Session, volume: Volume) -> None:
    change(session, schema.job.update().filter_by(state="running").values(finished_ns=9))


def ended_without_time(session: Session, volume: Volume) -> None:
    change(session, schema.job.update().filter_by(state="done").values(finished_ns=None))


def unsettled(session: Session, volume: Volume) -> None:
    change(session, schema.job_volume.update().values(settled=False))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (deleted_in_part, ["deleted, and as being somewhere"]),
        (without_area, ["as live, and not in a piece"]),
        (in_another_area, ["as live in a piece of the store that is not recorded"]),
        (unprotected_in_part, ["the piece .* not protected", "the export .* not protected"]),
        (exported_and_deleted, ["of a point that was deleted"]),
        (promoted, ["promoted without a former device"]),
        (on_trial, ["on trial without a recovery volume"]),
        (ended_in_part, ["job 2 is recorded as running, and as ended"]),
        (ended_without_time, ["job 1 is recorded as ended, and not when"]),
        (unsettled, ["job 1 is recorded as ended, and something of it as left"]),
    ],
)
def test_rows_that_contradict_each_other(
    session: Session,
    volume: Volume,
    spoil: Callable[[Session, Volume], None],
    expected: list[str],
) -> None:
    spoil(session, volume)
    found = problems(session)
    assert len(found) == len(expected)
    for sentence, pattern in zip(found, expected, strict=True):
        assert re.search(pattern, sentence)


def test_a_row_that_names_nothing(tmp_path: Path) -> None:
    """A hand with another program does not keep SQLite's foreign keys."""
    path = tmp_path / "catalogue.db"
    with Catalogue.open(path) as catalogue:
        with sqlite3.connect(path) as raw:
            raw.execute("INSERT INTO place VALUES ('nothing', 'live', 1, '/dev/x', NULL)")
        session = Session(Configuration(run_directory=tmp_path), catalogue)
        assert problems(session) == ("a row of place names a row of point that is not there",)


def test_a_page_that_is_damaged(tmp_path: Path) -> None:
    """The schema is read without it: only a look at every page finds it."""
    path = tmp_path / "catalogue.db"
    with Catalogue.open(path) as catalogue:
        for number in range(300):
            catalogue.add_volume(a_volume(f"volume-{number}"))
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(path.read_bytes())
    content[-4096:] = b"\xa5" * 4096
    path.write_bytes(content)
    with Catalogue.open(path) as catalogue:
        session = Session(Configuration(run_directory=tmp_path), catalogue)
        with pytest.raises(CorruptError, match="is damaged") as caught:
            catalogue_check.check(session)
    assert "rebuild" in (caught.value.hint or "")
