"""What was cut off is brought to its end, each job for itself."""

import os
import select
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from catalogue_samples import a_volume

from dmsnap.catalogue import jobs as recorded
from dmsnap.catalogue.model import Job, JobState
from dmsnap.catalogue.store import Catalogue
from dmsnap.cli import program
from dmsnap.errors import ExitCode, LockedError
from dmsnap.service import jobs
from dmsnap.service.configuration.configuration import Configuration
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
