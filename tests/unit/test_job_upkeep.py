"""What goes of old jobs and what stays, in either kind of database."""

from collections.abc import Iterator, Sequence
from itertools import count
from uuid import UUID, uuid4

import pytest

from dmsnap.catalogue import hook_runs, job_upkeep, jobs
from dmsnap.catalogue.database import Place
from dmsnap.catalogue.hook_runs import HookRecord
from dmsnap.catalogue.job_upkeep import DAY_NS
from dmsnap.catalogue.model import JobState
from dmsnap.catalogue.store import Catalogue

NOW = 2000 * DAY_NS
ONE, TWO = uuid4(), uuid4()


class Past:
    """Jobs that began so many days ago, by their numbers."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    def job(
        self,
        days: float,
        operation: str = "sync",
        state: JobState = JobState.DONE,
        volumes: Sequence[UUID] = (ONE,),
    ) -> int:
        steps = ["first", "second"]
        number = jobs.begin(self.catalogue, operation, volumes, arguments={}, pid=1, steps=steps)
        hook = HookRecord("quiesce", "precopy", "ended with 0", False, 0.1, "")
        hook_runs.record(self.catalogue, number, "first", [hook])
        if state is not JobState.RUNNING:
            jobs.end(self.catalogue, number, state, "")
        with self.catalogue.statements() as statements:
            started = NOW - int(days * DAY_NS)
            statements.update("job", {"id": number, "started_ns": started})
        return number

    def left(self) -> dict[int, bool]:
        """The jobs that are there, and whether they have their steps."""
        return {each.id: bool(each.steps) for each in jobs.recent(self.catalogue, 10_000)}


@pytest.fixture
def past(place: Place) -> Iterator[Past]:
    with Catalogue.open(place) as catalogue:
        yield Past(catalogue)


def test_steps_go_after_months_and_jobs_after_a_year(past: Past) -> None:
    ancient, broken = past.job(400), past.job(390, state=JobState.FAILED)
    old, failed = past.job(100), past.job(95, state=JobState.UNDONE)
    young, newest = past.job(80), past.job(70)
    job_upkeep.forget_old(past.catalogue, NOW)
    assert past.left() == {old: False, failed: True, young: True, newest: True}
    assert not {ancient, broken} & past.left().keys()
    assert hook_runs.of_job(past.catalogue, young)
    assert hook_runs.of_job(past.catalogue, ancient) == ()


def test_the_newest_of_each_volume_and_operation_stay(past: Past) -> None:
    """And the newest that ended well: how long a swap took is told for years."""
    swap = past.job(900, "swap")
    failed = [past.job(800 - each, "swap", JobState.FAILED) for each in range(3)]
    other = past.job(700, "swap", volumes=(TWO,))
    both = past.job(600, "point create", volumes=(ONE, TWO))
    later = past.job(500, "point create", volumes=(ONE,))
    running = past.job(450, "sync", JobState.RUNNING)
    last = past.job(1, "audit")
    job_upkeep.forget_old(past.catalogue, NOW)
    kept = {swap, failed[-1], other, both, later, running, last}
    assert past.left() == dict.fromkeys(kept, True)


def test_what_was_cut_off_is_done_the_next_time(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In lots, of which the oldest go first."""
    monkeypatch.setattr(job_upkeep, "LOT", 4)
    found = [past.job(200 - each) for each in range(15)]
    newest = past.job(1)
    deleted = count()
    delete = job_upkeep.__dict__["_delete"]

    def dies(*given: object) -> None:
        if next(deleted) == 2:
            raise KeyboardInterrupt
        delete(*given)

    with monkeypatch.context() as patch:
        patch.setattr(job_upkeep, "_delete", dies)
        with pytest.raises(KeyboardInterrupt):
            job_upkeep.forget_old(past.catalogue, NOW)
    left = past.left()
    assert [left[each] for each in found] == [False] * 7 + [True] * 8
    job_upkeep.forget_old(past.catalogue, NOW)
    assert past.left() == {**dict.fromkeys(found, False), newest: True}
