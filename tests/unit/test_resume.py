"""What was cut off is brought to its end, each job for itself."""

import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from catalogue_samples import a_volume

from dmsnap.catalogue import jobs as recorded
from dmsnap.catalogue.model import Job, JobState, StepState, Volume, VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.cli import program
from dmsnap.errors import (
    ExitCode,
    LockedError,
    NotFoundError,
    UnreachableError,
    WrongStateError,
)
from dmsnap.recovery import replica
from dmsnap.service import forecast, jobs, operations, reaper
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.health import stranded
from dmsnap.service.journal import Plan
from dmsnap.service.reaper import Reaped
from dmsnap.service.replicas import sync
from dmsnap.service.replicas.audit import Audit
from dmsnap.service.session import Session

NAMES = ("a", "b", "c")


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """Three volumes, a sync of each of which was cut off; that of the second is locked."""
    with Catalogue.open(tmp_path / "catalogue.db") as catalogue:
        for name in NAMES:
            volume = replace(a_volume(name), recovery=None)
            catalogue.add_volume(volume)
            recorded.begin(catalogue, "sync", [volume.id], arguments={}, pid=1, steps=["apply"])

        def conclude(session: Session, job_id: int) -> Job:
            if job_id == 2:
                raise LockedError("another command works on b")
            recorded.end(session.catalogue, job_id, JobState.UNDONE, "cut off at apply")
            return recorded.job(session.catalogue, job_id)

        monkeypatch.setattr(jobs, "conclude", conclude)
        yield Session(Configuration(run_directory=tmp_path), catalogue)


def test_one_that_cannot_be_concluded_keeps_no_other_from_it(session: Session) -> None:
    found = jobs.resume_all(session)
    assert [each.job.state for each in found] == ["undone", jobs.CUT_OFF, "undone"]
    assert [each.exit_code for each in found] == [0, ExitCode.LOCKED, 0]
    assert found[1].error == "another command works on b"
    assert [each.job.volumes for each in jobs.resume_all(session)] == [("b",)]


def test_one_that_hangs_keeps_no_other_waiting(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a disk that does not answer: the first goes on only when all others are through."""
    reading, writing = os.pipe2(os.O_CLOEXEC)

    def conclude(session: Session, job_id: int) -> Job:
        for _ in NAMES[1:] if job_id == 1 else ():
            if not select.select([reading], [], [], 60)[0]:
                raise LockedError("the others wait")
            os.read(reading, 1)
        recorded.end(session.catalogue, job_id, JobState.UNDONE, "")
        if job_id != 1:
            os.write(writing, b"x")
        return recorded.job(session.catalogue, job_id)

    monkeypatch.setattr(jobs, "conclude", conclude)
    found = jobs.resume_all(session)
    os.close(reading)
    os.close(writing)
    assert [(each.job.id, each.job.state) for each in found] == [
        (1, "undone"), (2, "undone"), (3, "undone")
    ]  # fmt: skip
    assert jobs.resume_all(session) == []


def test_one_whose_process_dies_is_left(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def conclude(session: Session, job_id: int) -> Job:
        if job_id == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        recorded.end(session.catalogue, job_id, JobState.UNDONE, "")
        return recorded.job(session.catalogue, job_id)

    monkeypatch.setattr(jobs, "conclude", conclude)
    found = jobs.resume_all(session)
    assert [each.job.state for each in found] == ["undone", jobs.CUT_OFF, "undone"]
    assert (found[1].exit_code, found[1].error) == (
        ExitCode.FAILURE, "the process that was to conclude it died"
    )  # fmt: skip


def test_jobs_with_a_volume_in_common_are_one_after_the_other(session: Session) -> None:
    first, *_ = jobs.cut_off(session)
    volumes = (("a",), ("c", "d"), ("b",), (), ("a", "d"), ())
    views = [replace(first, id=number, volumes=each) for number, each in enumerate(volumes)]
    groups = cast(Any, jobs)._apart(views)
    assert [[each.id for each in group] for group in groups] == [[2], [0, 1, 4], [3, 5]]


def test_its_exit_code_is_the_commands(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Session, "open", lambda: session)
    assert program.main(["job", "resume", "--all"]) == ExitCode.LOCKED
    assert capsys.readouterr().out.splitlines() == [
        "job 1, sync, is undone: cut off at apply",
        "job 2, sync, is cut off; another command works on b",
        "job 3, sync, is undone: cut off at apply",
    ]


def test_one_volume_is_held_once_and_no_other(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing was cut off: a job that failed may have left something suspended."""
    recorded.end(session.catalogue, 2, JobState.FAILED, "")
    held: list[str] = []

    def reap(session: Session, volume: Volume, _wanted: object, obstacles: object) -> Reaped:
        assert session.is_held_by(volume.name, os.getpid())
        held.append(volume.name)
        for job in recorded.unfinished(session.catalogue, volume.id):
            recorded.settle(session.catalogue, job.id, volume.id, JobState.UNDONE, "cut off")
        return Reaped()

    mended: list[str] = []
    monkeypatch.setattr(jobs, "reap", reap)
    monkeypatch.setattr(operations, "mend", lambda _: lambda volume: mended.append(volume.name))
    assert jobs.resume_volume(session, "b") == []
    (resumed,) = jobs.resume_volume(session, "c")
    assert (resumed.job.id, resumed.job.state) == (3, "undone")
    assert (held, mended) == (["b", "c"], ["c"])
    assert [view.id for view in jobs.cut_off(session)] == [1]
    with pytest.raises(NotFoundError):
        jobs.resume_volume(session, "d")


def test_one_volume_of_a_job_keeps_no_other_from_it(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a point of three: one is locked, one cannot be concluded, and both are told with why."""
    monkeypatch.undo()
    volumes = [session.catalogue.volume(name) for name in NAMES]
    ids = [each.id for each in volumes]
    for number in (1, 2, 3):
        recorded.end(session.catalogue, number, JobState.DONE, "")
    recorded.begin(session.catalogue, "point create", ids, arguments={}, pid=1, steps=["window"])
    begun(session, 4, StepState.BEGUN)

    def clear(_session: Session, volume: Volume, *_: object, **_words: object) -> None:
        if volume.name == "a":
            raise UnreachableError("its target does not answer")

    def has_come_to_its_end(_session: Session, volume: Volume, _job: Job) -> bool:
        if volume.name == "b":
            raise UnreachableError("the session is lost")
        return False

    for name, function in (
        ("clear_suspended", lambda *_: None),
        ("clear", clear),
        ("has_come_to_its_end", has_come_to_its_end),
    ):
        monkeypatch.setattr(reaper, name, function)
    monkeypatch.setattr(stranded, "suspended", lambda _: set())
    (left,) = jobs.resume_all(session)
    assert left.error == "a: its target does not answer; b: the session is lost"
    assert (left.exit_code, left.job.state) == (ExitCode.UNREACHABLE, jobs.CUT_OFF)
    assert [len(recorded.unfinished(session.catalogue, each)) for each in ids] == [1, 1, 0]
    (left,) = jobs.resume_volume(session, "b")
    assert (left.error, left.exit_code) == ("the session is lost", ExitCode.UNREACHABLE)
    with pytest.raises(jobs.NotConcludedError, match="b: the session is lost"):
        jobs.resume(session, 4)
    monkeypatch.setattr(Session, "open", lambda: session)
    assert program.main(["job", "resume", "--volume", "b"]) == ExitCode.UNREACHABLE
    assert "is cut off; the session is lost" in capsys.readouterr().out


def test_one_of_three_is_asked_for(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Session, "open", lambda: session)
    for words in ((), ("1", "--all"), ("--all", "--volume", "a"), ("1", "--volume", "a")):
        assert program.main(["job", "resume", *words]) == ExitCode.USAGE
    capsys.readouterr()
    assert program.main(["job", "resume", "--volume", "a", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  1. record job 1, sync of a, as undone: it was cut off at its start"
    ]


# dry runs


def begun(session: Session, number: int, *states: StepState) -> None:
    for state in states:
        recorded.record_step(session.catalogue, number, 0, state, None)


def test_what_would_become_of_each_is_told_and_nothing_is_done(session: Session) -> None:
    begun(session, 2, StepState.BEGUN)
    begun(session, 3, StepState.BEGUN, StepState.DONE)
    (volume, *_) = session.catalogue.volumes()
    recorded.begin(session.catalogue, "swap", [volume.id], arguments={}, pid=1, steps=["load"])
    begun(session, 4, StepState.BEGUN)
    recorded.begin(session.catalogue, "protect", [uuid4()], arguments={}, pid=1, steps=["copy"])
    begun(session, 5, StepState.BEGUN)
    before = [recorded.job(session.catalogue, number) for number in range(1, 6)]
    assert forecast.resuming_all(session).descriptions() == [
        "record job 1, sync of a, as undone: it was cut off at its start",
        "take back job 2, sync of b, which was cut off at apply",
        "clear what is left of job 3, sync of c, which was cut off at apply, and record it as done",
        "finish job 4, swap of a, which was cut off at load, or take it back, as labels and "
        "devices have it",
        "record job 5, protect, which was cut off at copy, as abandoned: its volume is not "
        "protected",
    ]
    one = forecast.resuming(session, 2)
    assert isinstance(one, forecast.Forecast)
    assert one.steps == (
        "take back job 2, sync of b, which was cut off at apply",
        "begin sync anew, if it was taken back",
    )
    done = forecast.resuming(session, 3)
    assert isinstance(done, forecast.Forecast)
    assert len(done.steps) == 1
    assert forecast.aborting(session, 2).steps == one.steps[:1]
    assert [recorded.job(session.catalogue, number) for number in range(1, 6)] == before


def test_a_job_under_way_would_be_asked_to_end(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(session, 1, StepState.BEGUN)
    monkeypatch.setattr(jobs, "runs", lambda *_: True)
    (step,) = forecast.aborting(session, 1).steps
    assert step.startswith("ask process 1 to end, and wait until job 1, sync of a, is undone")
    with pytest.raises(WrongStateError, match="job 1 is under way, in process 1"):
        forecast.resuming(session, 1)


def test_what_is_at_its_end(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Done, there is nothing to do; undone, it is begun anew, which first concludes what else was
    cut off on its volumes: so it is not asked what it would do.
    """
    recorded.end(session.catalogue, 1, JobState.DONE, "")
    recorded.end(session.catalogue, 2, JobState.UNDONE, "")
    with pytest.raises(WrongStateError, match="nothing to abort"):
        forecast.aborting(session, 1)
    done = forecast.resuming(session, 1)
    assert isinstance(done, jobs.Resumed)
    assert (done.job.state, done.result) == ("done", None)

    def again(_name: str) -> Callable[..., Plan]:
        pytest.fail("it was begun, and so held the volume")

    monkeypatch.setattr(operations, "again", again)
    assert forecast.resuming(session, 2) == forecast.Forecast("job resume", ("begin sync anew",))
    b = session.catalogue.volume("b")
    recorded.begin(session.catalogue, "swap", [b.id], arguments={}, pid=1, steps=["load"])
    begun(session, 4, StepState.BEGUN)
    before = [recorded.job(session.catalogue, number) for number in range(1, 5)]
    found = forecast.resuming(session, 2)
    assert isinstance(found, forecast.Forecast)
    assert found.steps == (
        "finish job 4, swap of b, which was cut off at load, or take it back, as labels and "
        "devices have it",
        "begin sync anew",
    )
    assert [recorded.job(session.catalogue, number) for number in range(1, 5)] == before


def test_what_was_cut_off_under_a_name_is_concluded_first(session: Session) -> None:
    """A protect that was undone has no volume any more, but what it is to be called."""
    words = {"name": "a", "device": "/dev/sda"}
    recorded.begin(session.catalogue, "protect", [uuid4()], arguments=words, pid=1, steps=["copy"])
    recorded.end(session.catalogue, 4, JobState.FAILED, "")
    found = forecast.resuming(session, 4)
    assert isinstance(found, forecast.Forecast)
    assert found.steps == (
        "record job 1, sync of a, as undone: it was cut off at its start",
        "begin protect anew",
    )


def test_what_another_version_did_cannot_be_begun_anew(session: Session) -> None:
    recorded.begin(session.catalogue, "shuffle", [], arguments={}, pid=1, steps=["mix"])
    recorded.end(session.catalogue, 4, JobState.UNDONE, "")
    for resume in (forecast.resuming, jobs.resume):
        with pytest.raises(WrongStateError, match="shuffle cannot be begun anew"):
            resume(session, 4)


def test_what_would_be_done_is_printed_as_a_plan(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Session, "open", lambda: session)
    assert program.main(["job", "resume", "--all", "--dry-run"]) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == "job resume would:"
    assert second == "  1. record job 1, sync of a, as undone: it was cut off at its start"
    assert recorded.job(session.catalogue, 1).state is JobState.RUNNING


def test_what_is_left_to_do_is_done_of_all_that_was_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Holding the volume for the first job concludes the second, whose roll-back is left."""
    mended: list[str] = []

    def reap(session: Session, volume: Volume, _wanted: object, obstacles: object) -> Reaped:
        for job in recorded.unfinished(session.catalogue, volume.id):
            recorded.settle(session.catalogue, job.id, volume.id, JobState.UNDONE, "cut off")
        return Reaped()

    monkeypatch.setattr(jobs, "reap", reap)
    monkeypatch.setattr(
        operations, "mend", lambda name: (lambda _: mended.append(name)) if name == "sync" else None
    )
    with Catalogue.open(tmp_path / "catalogue.db") as catalogue:
        catalogue.add_volume(volume := a_volume("a"))
        for operation in ("point create", "sync"):
            recorded.begin(catalogue, operation, [volume.id], arguments={}, pid=1, steps=["apply"])
        found = jobs.resume_all(Session(Configuration(run_directory=tmp_path), catalogue))
    assert [each.job.state for each in found] == ["undone", "undone"]
    assert mended == ["sync"]


@pytest.mark.parametrize("operation", ["sync", "swap", "resize"])
def test_a_roll_back_that_was_cut_off_goes_on_with_the_boot(
    operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may have begun one; the sync that made it necessary may be concluded long since."""
    brought_back: list[Volume] = []

    @contextmanager
    def opened(volume: Volume) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(settle=lambda: brought_back.append(volume))

    monkeypatch.setattr(replica, "opened", opened)
    mend = operations.mend(operation)
    assert mend is not None
    mend(volume := replace(a_volume("a"), state=VolumeState.PROTECTED))
    assert brought_back == [volume]


def test_a_sync_that_is_begun_anew_takes_a_point_of_its_own(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}
    monkeypatch.setattr(sync, "sync", lambda _session, **named: asked.update(named))
    recorded_as = {"name": "a", "audit": "none", "io_priority": None, "point": str(uuid4())}
    operations.again("sync")(session, **recorded_as, dry_run=False)
    assert asked == {"name": "a", "audit": Audit.NONE, "io_priority": None, "dry_run": False}
