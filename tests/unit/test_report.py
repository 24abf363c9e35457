"""What a report is made of, and writing it."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from catalogue_samples import a_volume
from test_pruning import NOW, a_label, a_point

from dmsnap._native.label import LabelState
from dmsnap.catalogue import jobs
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import (
    Deletion,
    Job,
    JobState,
    PastPoint,
    PlaceKind,
    RecordedPlace,
    VolumeState,
)
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import NotFoundError, ProgramError, WrongWordError
from dmsnap.host import systemd
from dmsnap.policy.copying import Copying
from dmsnap.report.content import Content, Lane, Overwritten, Verdict
from dmsnap.service.configuration import configuration_check
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.configuration.declaration import (
    CopyTable,
    Declarations,
    Make,
    Policy,
    Subclient,
)
from dmsnap.service.health import report, status
from dmsnap.service.health.recoverable import RecoverablePoint
from dmsnap.service.health.status import VolumeStatus
from dmsnap.service.points import point
from dmsnap.service.points.point import Place, PointView
from dmsnap.service.schedules.promises import Promises
from dmsnap.service.session import Session

SECOND = 10**9


def view(created_ns: int, *kinds: str) -> PointView:
    places = tuple(Place(kind, "/dev/x") for kind in kinds)
    return PointView(
        uuid4(), "other", created_ns, True, None, places, None, expires_ns=NOW, comment="before it"
    )


def past_point(hours_ago: int, *kinds: PlaceKind) -> PastPoint:
    places = tuple(RecordedPlace(kind, "/dev/x", 1, 2) for kind in kinds)
    return PastPoint(a_point(hours_ago), places, Deletion(NOW, "prune", "root"))


def test_points_are_where_they_are_or_were_last() -> None:
    present = [view(NOW, "live", "replica"), view(NOW - 1)]
    gone = [
        past_point(3, PlaceKind.REPLICA, PlaceKind.HISTORY),
        past_point(4),
    ]
    again = replace(gone[0], point=replace(gone[0].point, id=present[0].id))
    found = report.points(present, [*gone, again])
    assert [each.lanes for each in found] == [
        (Lane.NOWHERE,), (Lane.HISTORY,), (Lane.NOWHERE,), (Lane.LIVE, Lane.REPLICA),
    ]  # fmt: skip
    assert [each.is_gone for each in found] == [True, True, False, False]
    assert found[0].deleted_reason == "prune"
    assert [each.keep for each in found] == [False, False, True, True]
    assert (found[3].expires_ns, found[3].comment) == (NOW, "before it")


def test_a_store_is_of_the_sync_that_brought_the_next_point() -> None:
    label = a_label(1, 4, 9)
    hour = 3600 * SECOND
    assert report.overwritten(label) == [
        Overwritten(NOW - 4 * hour, 4096), Overwritten(NOW - hour, 4096),
    ]  # fmt: skip
    assert report.overwritten(a_label(1)) == []
    assert report.overwritten(replace(label, state=LabelState.APPLYING)) == []
    assert report.overwritten(None) == []


def test_failed_jobs_are_those_of_the_volume() -> None:
    volume = uuid4()
    base = Job(1, "sync", {}, (volume,), 1, 0, 5, JobState.FAILED, None, ())
    recent = [
        replace(base, state=JobState.DONE), replace(base, volume_ids=(uuid4(),)),
        replace(base, state=JobState.RUNNING, finished_ns=None), base,
        replace(base, state=JobState.UNDONE, outcome="no room"),
    ]  # fmt: skip
    found = report.failed(recent, volume)
    assert [(each.state, each.outcome) for each in found] == [("failed", ""), ("undone", "no room")]
    assert len(report.failed([base] * 99, volume)) == report.FAILED


def test_everything_comes_together(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(Configuration(), catalogue)
    volume, other = a_volume("<b>"), a_volume("other")
    gone = a_point(1, volume_id=volume.id)
    for each in (volume, other):
        catalogue.add_volume(each)
    catalogue.add_points([replace(gone, created_ns=now_ns() - SECOND)])
    catalogue.delete_point(gone.id, "point delete")
    job = jobs.begin(catalogue, "sync", [volume.id], arguments={}, pid=1, steps=[])
    jobs.end(catalogue, job, JobState.UNDONE, "no room")
    newest = RecoverablePoint("x", now_ns(), 0.0)
    found = VolumeStatus(
        "<b>", VolumeState.PROTECTED, "/dev/mapper/b", "/dev/sda", 1, (), None, (), None, (),
        ("it is wrong",), newest=newest, recovery_seconds=2.0,
    )  # fmt: skip
    label = a_label(1, 2)
    monkeypatch.setattr(status, "statuses", lambda *_: [(found, None), (found, None)])
    monkeypatch.setattr(point, "list_points", lambda *_: [view(NOW, "live")])
    monkeypatch.setattr(point, "label_of", lambda _volume: label)
    monkeypatch.setattr(Promises, "read", Promises)
    first, second = report.gathered(session).volumes
    assert (first.name, first.newest_ns, first.recovery_seconds) == ("<b>", newest.created_ns, 2.0)
    assert first.problems == ("it is wrong",)
    assert [each.deleted_reason for each in first.points if each.is_gone] == ["point delete"]
    assert [each.outcome for each in first.failed] == ["no room"]
    assert first.overwritten == report.overwritten(label)
    assert first.punctuality.verdict is Verdict.UNSCHEDULED
    assert (len(second.points), list(second.failed)) == (1, [])


@pytest.fixture
def gathered(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(report, "gathered", lambda _session: Content("host", NOW))
    return SimpleNamespace()


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_a_new_file_is_for_its_owner_alone(gathered: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    result = report.write(gathered, path)
    assert (mode(path), result.volumes) == (0o600, 0)
    assert result.size_bytes == path.stat().st_size
    assert path.read_text().startswith("<!DOCTYPE html>")
    path.chmod(0o644)
    path.write_text("old")
    report.write(gathered, path)
    assert mode(path) == 0o644
    assert path.read_text().endswith("</html>\n")
    assert os.listdir(tmp_path) == ["report.html"]  # noqa: PTH208 - names


def test_only_files_are_replaced(gathered: Any, tmp_path: Path) -> None:
    pipe, link, real = tmp_path / "pipe", tmp_path / "link", tmp_path / "real"
    os.mkfifo(pipe)
    real.write_text("old")
    link.symlink_to(real)
    for path in (pipe, link, tmp_path, Path("/dev/null")):
        with pytest.raises(WrongWordError, match="no regular file"):
            report.write(gathered, path)
    assert real.read_text() == "old"
    with pytest.raises(NotFoundError, match="no directory"):
        report.write(gathered, tmp_path / "none" / "report.html")


def declared(policy: Policy) -> Promises:
    return Promises(
        Declarations(policy={"p": policy}, subclient={"s": Subclient(volumes=("srv",), policy="p")})
    )


HOURLY = Policy(schedule=("hourly", "daily"))


def test_promises_are_the_next_runs_of_every_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def elapses(expression: str, after_seconds: int, count: int) -> list[int]:
        asked.append((expression, after_seconds, count))
        return [after_seconds + 10, after_seconds + 20]

    monkeypatch.setattr(systemd, "elapses", elapses)
    found = declared(HOURLY).judged("srv", 1000 * SECOND + 5, (1010 + 61) * SECOND)
    assert (found.verdict, found.policies, found.due_ns) == (Verdict.DUE, ("p",), 1010 * SECOND)
    assert asked == [("hourly", 1000, 2), ("daily", 1000, 2)]


def test_what_cannot_be_judged_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_asked: object) -> list[int]:
        raise ProgramError("systemd-analyze is not installed")

    monkeypatch.setattr(systemd, "elapses", fail)
    found = declared(HOURLY).judged("srv", NOW, NOW)
    assert (found.verdict, found.reason) == (Verdict.UNKNOWN, "systemd-analyze is not installed")
    assert declared(HOURLY).judged("other", NOW, NOW).verdict is Verdict.UNSCHEDULED
    assert declared(Policy()).judged("srv", NOW, NOW).verdict is Verdict.UNSCHEDULED
    assert declared(HOURLY).judged("srv", None, NOW).verdict is Verdict.MISSING
    night = Policy(
        schedule=("hourly",), make=Make.RECOVERY_VOLUME, copy=CopyTable(hours="22:00-06:00")
    )
    assert isinstance(night.copy and night.copy.copying, Copying)
    assert declared(night).judged("srv", NOW, NOW).reason == "p copies in hours of its own"
    both = replace(night, make=Make.BOTH)
    assert declared(both).judged("srv", NOW, NOW).reason == "systemd-analyze is not installed"


def test_mistakes_in_the_configuration_are_a_doubt(tmp_path: Path) -> None:
    file = tmp_path / "dmsnap.toml"
    file.write_text('[policy.p]\nschedule = ["hourly"]\nmake = "x"\n')
    checked = configuration_check.check(file, calendars=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(configuration_check, "check", lambda **_: checked)
        found = Promises.read().judged("srv", NOW, NOW)
    assert found.verdict is Verdict.UNKNOWN
    assert "config check" in (found.reason or "")
