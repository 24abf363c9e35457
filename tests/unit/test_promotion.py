"""What becomes of commits that were cut off, and of those who were to give them up."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from catalogue_samples import a_volume

from dmsnap.catalogue import jobs
from dmsnap.catalogue.model import Job, JobState, StepState, Volume, VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import PointInvalidError, WrongStateError
from dmsnap.service import journal, reaper
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.journal import Plan, Step
from dmsnap.service.session import Session
from dmsnap.service.swaps import impasse, merging, promotion

MERGE = "merge-overlay"


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with Catalogue.open(tmp_path / "catalogue.db") as catalogue:
        yield Session(Configuration(run_directory=tmp_path), catalogue)


def a_volume_in(session: Session, state: VolumeState) -> Volume:
    volume = replace(a_volume(), state=state)
    session.catalogue.add_volume(volume)
    return volume


def cut_off(session: Session, volume: Volume) -> list[Job]:
    return jobs.unfinished(session.catalogue, volume.id)


def conclude_all(session: Session, volume: Volume) -> set[JobState]:
    """As each command does that holds the volume."""
    return {reaper.conclude(session, volume, job) for job in cut_off(session, volume)}


def test_a_merge_that_fails_is_tried_once_by_every_command(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was tried before is no other commit, to be tried beside."""
    volume = a_volume_in(session, VolumeState.COMMITTING)
    tried: list[str] = []

    def merge() -> None:
        tried.append(MERGE)
        raise PointInvalidError(f"Merge failed, at attempt {len(tried)}")

    plan = Plan("swap commit", (volume.id,), [Step(MERGE, "merge", merge)], forward=True)
    monkeypatch.setattr(promotion, "committing", lambda *_, **__: plan)
    with pytest.raises(PointInvalidError):
        journal.run(session.catalogue, plan)
    (first,) = cut_off(session, volume)
    for _ in range(4):
        assert conclude_all(session, volume) == {JobState.RUNNING}
    assert [job.id for job in cut_off(session, volume)] == [first.id]
    assert len(tried) == 5
    states = [job.state for job in jobs.recent(session.catalogue, 100)]
    assert states == [JobState.ABANDONED] * 4 + [JobState.RUNNING]
    assert jobs.recent(session.catalogue, 1)[0].outcome == "Merge failed, at attempt 5"


@pytest.mark.parametrize(
    ("state", "became"),
    [
        (VolumeState.PROTECTED, JobState.DONE),
        (VolumeState.PROMOTED, JobState.UNDONE),
    ],
)
def test_who_was_to_give_up_a_commit_did_not_where_it_came_to_its_end(
    session: Session, state: VolumeState, became: JobState
) -> None:
    volume = a_volume_in(session, state)
    arguments = {"name": volume.name, "kill": False, "give_up": True}
    steps = ["unmount", "record"]
    job = jobs.begin(
        session.catalogue, "swap revert", [volume.id], arguments=arguments, pid=1, steps=steps
    )
    jobs.record_step(session.catalogue, job, 0, StepState.BEGUN, None)
    assert conclude_all(session, volume) == {became}


def a_failed_merge(session: Session, monkeypatch: pytest.MonkeyPatch, *, fails: bool) -> Volume:
    """Of a catalogue that was made again, where no job tells of it."""
    volume = a_volume_in(session, VolumeState.COMMITTING)

    def merge() -> None:
        if fails:
            raise PointInvalidError("Merge failed")

    plan = Plan("swap commit", (volume.id,), [Step(MERGE, "merge", merge)], forward=True)
    monkeypatch.setattr(promotion, "committing", lambda *_, **__: plan)
    monkeypatch.setattr(merging, "failure", lambda _: "the merge met an I/O error")
    return volume


def test_a_merge_that_nobody_has_tried_again_is_tried_before_it_is_given_up(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = a_failed_merge(session, monkeypatch, fails=False)
    with pytest.raises(WrongStateError, match="it has come to its end"):
        impasse.require_no_commit(session, volume)


def test_a_merge_that_fails_again_may_be_given_up(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = a_failed_merge(session, monkeypatch, fails=True)
    for _ in range(2):
        impasse.require_no_commit(session, volume)
        assert len(jobs.recent(session.catalogue, 100)) == 1
