"""Plans: steps in order, undone in reverse from any place, whatever fails or interrupts."""

import inspect
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from crashes.scenarios import SCENARIOS

from dmsnap.catalogue import jobs, sqlite
from dmsnap.catalogue.model import StepState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import (
    BusyError,
    ExitCode,
    InterruptedBySignal,
    OperatingSystemError,
    UnreachableError,
)
from dmsnap.host import signals
from dmsnap.host.signals import held_back
from dmsnap.service import journal, operations
from dmsnap.service.journal import Plan, Step, UndoFailedError

NAMES = ("one", "two", "three", "four")


class Bench:
    """Steps that write down what is done to them, and fail where they are told to."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.at: dict[str, Callable[[], None]] = {}

    def happens(self, event: str) -> None:
        self.events.append(event)
        if event in self.at:
            self.at[event]()

    def step(self, name: str, *, undo: bool = True) -> Step:
        return Step(
            name,
            f"do {name}",
            lambda: self.happens(f"do {name}"),
            (lambda: self.happens(f"undo {name}")) if undo else None,
        )

    def plan(self, *, without_undo: str = "") -> Plan:
        return Plan("test", (), [self.step(name, undo=name != without_undo) for name in NAMES])


@pytest.fixture
def bench() -> Bench:
    return Bench()


def fails() -> None:
    raise BusyError("the disk is in use")


def undoing(*names: str) -> list[str]:
    return [f"undo {name}" for name in reversed(names)]


def states(catalogue: Catalogue) -> list[str]:
    return [str(step.state) for job in jobs.recent(catalogue, 9) for step in job.steps]


def outcome(catalogue: Catalogue) -> str:
    (job,) = jobs.recent(catalogue, 9)
    return f"{job.state}: {job.outcome}" if job.outcome else str(job.state)


def test_steps_are_done_in_order_and_timed(catalogue: Catalogue, bench: Bench) -> None:
    times = journal.run(catalogue, bench.plan())
    assert bench.events == [f"do {name}" for name in NAMES]
    assert list(times.seconds) == list(NAMES)
    assert times.total == pytest.approx(sum(times.seconds.values()))
    assert states(catalogue) == ["done"] * 4
    assert outcome(catalogue) == "done"


def test_the_descriptions_are_the_plan(bench: Bench) -> None:
    assert bench.plan().descriptions() == [f"do {name}" for name in NAMES]
    assert bench.events == []


def test_all_steps_are_recorded_before_the_first_is_done(
    catalogue: Catalogue, bench: Bench
) -> None:
    seen: list[list[str]] = []
    bench.at["do one"] = lambda: seen.append(states(catalogue))
    bench.at["do three"] = lambda: seen.append(states(catalogue))
    journal.run(catalogue, bench.plan())
    assert seen == [
        ["begun", "planned", "planned", "planned"],
        ["done", "done", "begun", "planned"],
    ]


@pytest.mark.parametrize("failing", range(len(NAMES)))
def test_a_failure_undoes_what_was_begun_the_last_first(
    catalogue: Catalogue, bench: Bench, failing: int
) -> None:
    bench.at[f"do {NAMES[failing]}"] = fails
    with pytest.raises(BusyError, match="the disk is in use"):
        journal.run(catalogue, bench.plan())
    begun = NAMES[: failing + 1]
    assert bench.events == [f"do {name}" for name in begun] + undoing(*begun)
    assert states(catalogue) == ["undone"] * (failing + 1) + ["planned"] * (3 - failing)
    assert outcome(catalogue) == "undone: the disk is in use"


@pytest.mark.parametrize("failing", range(len(NAMES)))
def test_a_failing_undo_does_not_stop_the_others(
    catalogue: Catalogue, bench: Bench, failing: int
) -> None:
    def also_fails() -> None:
        raise OperatingSystemError("cannot unmount /srv")

    bench.at["do four"] = fails
    bench.at[f"undo {NAMES[failing]}"] = also_fails
    with pytest.raises(UndoFailedError) as caught:
        journal.run(catalogue, bench.plan())
    assert bench.events[4:] == undoing(*NAMES)
    assert str(caught.value) == "the disk is in use; and undoing it failed: cannot unmount /srv"
    assert isinstance(caught.value.__cause__, BusyError)
    (failure,) = caught.value.failures.exceptions
    assert isinstance(failure, OperatingSystemError)
    assert states(catalogue)[failing] == "begun" if failing == 3 else "done"
    assert outcome(catalogue).startswith("failed: ")


def test_every_failure_while_undoing_is_told(catalogue: Catalogue, bench: Bench) -> None:
    bench.at["do three"] = fails
    bench.at["undo three"] = bench.at["undo one"] = fails
    with pytest.raises(UndoFailedError) as caught:
        journal.run(catalogue, bench.plan())
    assert len(caught.value.failures.exceptions) == 2
    assert "undo two" in bench.events


def test_a_step_without_undo_is_passed_over(catalogue: Catalogue, bench: Bench) -> None:
    bench.at["do three"] = fails
    with pytest.raises(BusyError):
        journal.run(catalogue, bench.plan(without_undo="two"))
    assert bench.events[3:] == undoing("one", "three")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("arriving", range(len(NAMES)))
def test_a_signal_in_any_step_undoes(
    catalogue: Catalogue, bench: Bench, arriving: int, number: signal.Signals
) -> None:
    bench.at[f"do {NAMES[arriving]}"] = lambda: os.kill(os.getpid(), number)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(InterruptedBySignal) as caught:
        journal.run(catalogue, bench.plan())
    assert caught.value.signal_number == number
    begun = NAMES[: arriving + 1]
    # Python calls the handler between two instructions: at the latest in the next step.
    assert bench.events[: arriving + 1] == [f"do {name}" for name in begun]
    undone = [event.removeprefix("undo ") for event in bench.events if event.startswith("undo ")]
    assert undone[-(arriving + 1) :] == list(reversed(begun))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_while_undoing_change_nothing(
    catalogue: Catalogue, bench: Bench, number: signal.Signals
) -> None:
    bench.at["do four"] = fails
    for name in NAMES:
        bench.at[f"undo {name}"] = lambda: os.kill(os.getpid(), number)
    with pytest.raises(BusyError):
        journal.run(catalogue, bench.plan())
    assert bench.events[4:] == undoing(*NAMES)


def test_a_signal_while_undoing_does_not_hide_a_failure(catalogue: Catalogue, bench: Bench) -> None:
    bench.at["do four"] = bench.at["undo one"] = fails
    bench.at["undo two"] = lambda: os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(UndoFailedError):
        journal.run(catalogue, bench.plan())


def test_a_signal_between_a_failure_and_its_undo_does_not_cut_it_off(
    catalogue: Catalogue, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one moment when signals are not held back yet."""
    edges = [True]

    @contextmanager
    def signalled_first() -> Iterator[None]:
        if edges and edges.pop():
            os.kill(os.getpid(), signal.SIGINT)
        with held_back():
            yield

    monkeypatch.setattr(journal, "held_back", signalled_first)
    bench.at["do two"] = fails
    with pytest.raises(BusyError):
        journal.run(catalogue, bench.plan())
    assert bench.events[2:] == undoing("one", "two")


class Forgetful:
    """A catalogue that stops recording at its n-th call: its disk is full."""

    def __init__(self, catalogue: Catalogue, calls: int) -> None:
        self._catalogue = catalogue
        self.calls = calls

    def __getattr__(self, name: str) -> object:
        method = getattr(self._catalogue, name)

        def recorded(*arguments: object) -> object:
            self.calls -= 1
            if self.calls < 0:
                raise OperatingSystemError("the catalogue: disk full")
            return method(*arguments)

        return recorded


@pytest.mark.parametrize("calls", range(10))
def test_a_catalogue_that_fails_anywhere_leaves_all_or_nothing(
    catalogue: Catalogue, bench: Bench, calls: int
) -> None:
    """The job's begin, then "begun" and "done" for each of the four steps, then its end."""
    forgetful = Forgetful(catalogue, calls)
    finished = calls == 9
    if finished:
        journal.run(forgetful, bench.plan())  # type: ignore[arg-type]
        assert bench.events == [f"do {name}" for name in NAMES]
        return
    with pytest.raises(OperatingSystemError, match="disk full"):
        journal.run(forgetful, bench.plan())  # type: ignore[arg-type]
    done = [event.removeprefix("do ") for event in bench.events if event.startswith("do ")]
    undone = [event.removeprefix("undo ") for event in bench.events if event.startswith("undo ")]
    assert set(done) <= set(undone)
    assert undone == sorted(undone, key=NAMES.index, reverse=True)


def test_what_a_signal_interrupts_is_told_by_its_number(catalogue: Catalogue, bench: Bench) -> None:
    bench.at["do two"] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(InterruptedBySignal):
        journal.run(catalogue, bench.plan())
    assert outcome(catalogue).startswith("undone: interrupted")


def test_every_check_is_made_before_the_first_step(catalogue: Catalogue, bench: Bench) -> None:
    plan = bench.plan()
    steps = [*plan.steps[:3], replace(plan.steps[3], check=fails)]
    with pytest.raises(BusyError):
        journal.run(catalogue, replace(plan, steps=steps))
    assert bench.events == []
    assert states(catalogue) == []


def test_a_check_is_made_again_right_before_its_step(catalogue: Catalogue, bench: Bench) -> None:
    plan = bench.plan()
    answers = [lambda: None, fails]
    steps = [*plan.steps[:3], replace(plan.steps[3], check=lambda: answers.pop(0)())]
    with pytest.raises(BusyError):
        journal.run(catalogue, replace(plan, steps=steps))
    assert bench.events[3:] == undoing("one", "two", "three")


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (fails, "the disk is in use"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), "interrupted"),
    ],
)
def test_what_only_goes_forward_is_left_as_cut_off(
    catalogue: Catalogue, bench: Bench, end: Callable[[], None], reason: str
) -> None:
    """With what was in the way of it, which the job is told with."""
    bench.at["do two"] = end
    with pytest.raises((BusyError, InterruptedBySignal)):
        journal.run(catalogue, replace(bench.plan(), forward=True))
    assert not any(event.startswith("undo") for event in bench.events)
    assert outcome(catalogue) == f"running: {reason}"


def test_a_signal_in_the_final_steps_changes_nothing(catalogue: Catalogue, bench: Bench) -> None:
    bench.at["do two"] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    plan = bench.plan()
    steps = [plan.steps[0], *(replace(step, final=True) for step in plan.steps[1:])]
    journal.run(catalogue, replace(plan, steps=steps))
    assert bench.events == [f"do {name}" for name in NAMES]
    assert outcome(catalogue) == "done"


def test_a_signal_behind_the_last_step_changes_nothing(
    catalogue: Catalogue, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = jobs.end

    def interrupted(catalogue: Catalogue, *arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        recorded(catalogue, *arguments)

    monkeypatch.setattr(jobs, "end", interrupted)
    with signals.interruptible():
        journal.run(catalogue, bench.plan())
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(InterruptedBySignal):  # the next plan is not begun
            journal.run(catalogue, bench.plan())
    assert bench.events == [f"do {name}" for name in NAMES]
    assert outcome(catalogue) == "done"


def test_what_is_away_for_the_undo_as_well_is_said_once(
    catalogue: Catalogue, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """With an exit code of its own: nothing is wrong but that the catalogue's server is away."""

    def away() -> None:
        raise UnreachableError("the catalogue cannot be reached: refused")

    bench.at |= {"do three": away, "undo two": away, "undo one": away}
    with pytest.raises(UndoFailedError) as caught:
        journal.run(catalogue, bench.plan())
    assert caught.value.exit_code is ExitCode.UNREACHABLE
    assert str(caught.value).count("cannot be reached") == 1
    assert "could be taken back" in str(caught.value)
    assert "the next command" in (caught.value.hint or "")
    assert bench.events[-3:] == undoing("one", "two", "three")
    bench.at["undo one"] = fails
    with pytest.raises(UndoFailedError, match=r"undoing it failed: .* in use") as caught:
        journal.run(catalogue, bench.plan())
    assert caught.value.exit_code is ExitCode.FAILURE


def to_the_end(bench: Bench, *, forward_at_last: bool = False) -> Plan:
    """From the third step on there is no way back, and for the third somebody waits."""
    steps = [replace(step, final=step.name in NAMES[2:]) for step in bench.plan().steps]
    steps[2] = replace(steps[2], awaited=True)
    return Plan("test", (), steps, forward_at_last=forward_at_last)


def test_what_goes_forward_at_last_is_left_to_others_with_what_was_in_the_way(
    catalogue: Catalogue, bench: Bench
) -> None:
    bench.at["do four"] = fails
    with pytest.raises(BusyError):
        journal.run(catalogue, to_the_end(bench, forward_at_last=True))
    assert outcome(catalogue) == "running: the disk is in use"
    assert states(catalogue) == ["done"] * 3 + ["begun"]
    assert bench.events == [f"do {name}" for name in NAMES]


def test_before_that_it_is_undone(catalogue: Catalogue, bench: Bench) -> None:
    bench.at["do two"] = fails
    with pytest.raises(BusyError):
        journal.run(catalogue, to_the_end(bench, forward_at_last=True))
    assert outcome(catalogue) == "undone: the disk is in use"


def test_others_are_at_their_end(catalogue: Catalogue, bench: Bench) -> None:
    bench.at["do four"] = fails
    with pytest.raises(BusyError):
        journal.run(catalogue, to_the_end(bench))
    assert outcome(catalogue) == "failed: the disk is in use"


def test_what_is_awaited_is_done_though_that_cannot_be_recorded(
    in_file: Catalogue, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else is any nearer: an application that was stopped is started again."""
    recorded = jobs.record_step

    def record_step(
        catalogue: Catalogue, job_id: int, at: int, state: StepState, seconds: float | None
    ) -> None:
        if (at, state) == (2, StepState.BEGUN):
            raise OperatingSystemError("it is locked")
        recorded(catalogue, job_id, at, state, seconds)

    monkeypatch.setattr(jobs, "record_step", record_step)
    with pytest.raises(OperatingSystemError, match="it is locked"):
        journal.run(in_file, to_the_end(bench, forward_at_last=True))
    assert bench.events == ["do one", "do two", "do three"]
    assert states(in_file) == ["done"] * 3 + ["planned"]
    assert outcome(in_file) == "running: it is locked"


# What makes SQLite refuse each change, as a read-only file and a full disk do.
TROUBLES = {
    "query_only = ON": ExitCode.READ_ONLY,
    "max_page_count = 1": ExitCode.NO_SPACE,
}


@pytest.fixture
def in_file(tmp_path: Path) -> Iterator[Catalogue]:
    with Catalogue.open(tmp_path / "catalogue.db") as opened:
        yield opened


def troubled(monkeypatch: pytest.MonkeyPatch, catalogue: Catalogue, pragma: str) -> None:
    """From now on, whatever connection is made."""
    connect = sqlite._connect

    def connected(path: Path) -> sqlite3.Connection:
        connection = connect(path)
        connection.execute(f"PRAGMA {pragma}").close()
        return connection

    monkeypatch.setattr(sqlite, "_connect", connected)
    catalogue.close()


def grow(catalogue: Catalogue) -> None:
    """Record what takes more than a page."""
    jobs.begin(catalogue, "test", (), arguments={"much": "x" * 65536}, pid=1, steps=())


@pytest.mark.parametrize("pragma", TROUBLES)
@pytest.mark.parametrize("cause", ["catalogue", "device", "signal"])
def test_a_catalogue_that_takes_nothing_any_more_has_its_exit_code(
    in_file: Catalogue, bench: Bench, monkeypatch: pytest.MonkeyPatch, pragma: str, cause: str
) -> None:
    """Also where it is the undo alone that it keeps from its end: the next command does that."""

    def begins() -> None:
        troubled(monkeypatch, in_file, pragma)
        if cause == "device":
            fails()
        elif cause == "signal":
            raise InterruptedBySignal(signal.SIGTERM)
        else:
            grow(in_file)

    bench.at |= {"do three": begins, "undo two": lambda: grow(in_file)}
    with pytest.raises(UndoFailedError) as caught:
        journal.run(in_file, bench.plan())
    assert caught.value.exit_code is TROUBLES[pragma]
    assert str(caught.value).count(str(in_file.name)) == 1
    assert "the next command" in (caught.value.hint or "")
    assert bench.events[-3:] == undoing("one", "two", "three")


def test_what_fails_beside_the_catalogue_is_a_failure(
    in_file: Catalogue, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begins() -> None:
        troubled(monkeypatch, in_file, "query_only = ON")
        grow(in_file)

    bench.at |= {"do three": begins, "undo two": lambda: grow(in_file), "undo one": fails}
    with pytest.raises(UndoFailedError, match="the disk is in use") as caught:
        journal.run(in_file, bench.plan())
    assert caught.value.exit_code is ExitCode.FAILURE


def test_no_trace_of_an_end_that_is_not_recorded(
    catalogue: Catalogue, bench: Bench, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """What is said on standard error is sentences."""

    def full(*_arguments: object) -> None:
        raise OperatingSystemError("the disk is full")

    monkeypatch.setattr(jobs, "end", full)
    journal.run(catalogue, bench.plan())
    (record,) = caplog.records
    assert record.getMessage().endswith("could not be recorded: the disk is full")
    assert record.exc_info is None


def test_every_operation_is_in_the_crash_matrix() -> None:
    # A spare is made behind other commands, and a part of one is given back by whoever comes.
    known = {*operations.OPERATIONS, "spare"}
    assert {scenario.operation for scenario in SCENARIOS} == known


@pytest.mark.parametrize("name", operations.OPERATIONS)
def test_every_operation_can_be_begun_anew(name: str) -> None:
    again = operations.again(name)
    assert callable(again)
    parameters = inspect.signature(again).parameters
    assert "dry_run" in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )
    operation = operations.OPERATIONS[name]
    finish = operations.finish(name)
    assert (finish is None) == (operation.finish is None)
    mend = operations.mend(name)
    assert (mend is None) == (operation.mend is None)
