"""Plans: named steps, recorded before the first is done, undone in reverse when one fails."""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

from dmsnap.catalogue import hook_runs, jobs
from dmsnap.catalogue.hook_runs import HookRecord
from dmsnap.catalogue.model import JobState, StepState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import DmsnapError, InterruptedBySignal, UnreachableError
from dmsnap.host.signals import conclude, held_back, interruptible
from dmsnap.service import left_suspended
from dmsnap.service.named_devices import with_devices

log = logging.getLogger(__name__)

NOTHING_BEFORE = left_suspended.Before()


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a plan. ``undo`` must hold on a step that was begun and not finished, too.

    ``check`` raises when what the step would change is not what it was planned for. All checks are
    made before the first step, and each again right before its own step.

    From the first ``final`` step on there is no way back, because it gives up what undoing would
    need: signals are held back, and a failure is reported without undoing anything.

    ``report`` gives the hooks that have run since it was asked last: it is asked when ``do`` or
    ``undo`` has ended, however it did. A step that is ``awaited``, as by an application that was
    stopped, is done also where it cannot be recorded that it begins.
    """

    name: str
    description: str
    do: Callable[[], None]
    undo: Callable[[], None] | None = None
    final: bool = False
    check: Callable[[], None] | None = None
    report: Callable[[], Sequence[HookRecord]] | None = None
    awaited: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What an operation will do; every check was made before it was built.

    ``arguments`` are what it was asked for, as JSON takes it: service.operations begins it anew
    with them. A plan that only goes ``forward`` is never undone: cut off, by a failure or a signal
    as by a crash, it is finished by whoever holds the volume next. One that is ``forward_at_last``
    is so from its first final step on. ``remark`` is asked when all went well, and kept as what
    became of the job.
    """

    operation: str
    volume_ids: Sequence[UUID]
    steps: Sequence[Step]
    arguments: Mapping[str, object] = field(default_factory=dict)
    forward: bool = False
    forward_at_last: bool = False
    remark: Callable[[], str] = str

    def descriptions(self) -> list[str]:
        """For ``--dry-run``."""
        return [step.description for step in self.steps]


@dataclass(slots=True)
class StepTimes:
    """Seconds per step, in the order they were done."""

    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def run(catalogue: Catalogue, plan: Plan) -> StepTimes:
    """Do the steps. On any failure or signal the ones begun are undone, the last one first.

    Neither undoing nor the final steps, and what is recorded behind them, are interrupted by SIGINT
    or SIGTERM. When undoing fails too, the error says both.
    """
    for step in plan.steps:
        if step.check is not None:
            step.check()
    with interruptible():
        before = left_suspended.Before.of(catalogue, plan.volume_ids)
        job_id = jobs.begin(
            catalogue,
            plan.operation,
            plan.volume_ids,
            arguments=with_devices(plan.arguments),
            pid=os.getpid(),
            steps=[step.name for step in plan.steps],
        )
        journal = _Journal(catalogue, job_id, plan.volume_ids, before)
        try:
            journal.do_all(plan)
        except BaseException as error:
            if plan.forward or (plan.forward_at_last and journal.final):
                journal.leave(error)
            else:
                journal.fail(error)
            raise
        journal.end(JobState.DONE, plan.remark())
    return journal.times


class _Journal:
    """What was begun of a plan, and how long it took. ``before``: what was suspended already."""

    def __init__(
        self,
        catalogue: Catalogue,
        job_id: int,
        volume_ids: Sequence[UUID] = (),
        before: left_suspended.Before = NOTHING_BEFORE,
    ) -> None:
        self._catalogue = catalogue
        self._job_id = job_id
        self._volume_ids = volume_ids
        self._before = before
        self._begun: list[tuple[int, Step]] = []
        self.final = False
        self.times = StepTimes()

    def do_all(self, plan: Plan) -> None:
        """A signal that comes during the final steps, or behind the last, takes nothing away."""
        steps = list(enumerate(plan.steps))
        final = next((position for position, step in steps if step.final), len(steps))
        for position, step in steps[:final]:
            log.debug("%s: %s", plan.operation, step.description)
            self.do(position, step)
        with held_back():
            for position, step in steps[final:]:
                self.final = True
                log.debug("%s: %s", plan.operation, step.description)
                self.do(position, step)
            conclude()

    def do(self, position: int, step: Step) -> None:
        if step.check is not None:
            step.check()
        self._begun.append((position, step))
        try:
            jobs.record_step(self._catalogue, self._job_id, position, StepState.BEGUN, None)
        except DmsnapError:
            if step.awaited:
                self.do_unrecorded(position, step)
            raise
        started = time.monotonic()
        try:
            step.do()
        finally:
            self.keep_report(step)
        seconds = time.monotonic() - started
        self.times.seconds[step.name] = seconds
        jobs.record_step(self._catalogue, self._job_id, position, StepState.DONE, seconds)

    def do_unrecorded(self, position: int, step: Step) -> None:
        """Nobody is to wait for what the catalogue takes; it may take that it is done."""
        step.do()
        self.keep_report(step)
        with suppress(DmsnapError):
            jobs.record_step(self._catalogue, self._job_id, position, StepState.DONE, None)

    def keep_report(self, step: Step) -> None:
        """Record what hooks did in a step; what they did is done, recorded or not."""
        runs = step.report() if step.report is not None else ()
        if not runs:
            return
        try:
            hook_runs.record(self._catalogue, self._job_id, step.name, runs)
        except DmsnapError as error:
            log.warning("what hooks wrote in job %d is not kept: %s", self._job_id, error)

    def fail(self, error: BaseException) -> None:
        """Undo what was begun; from the first final step on there is nothing to undo."""
        if not self.final:
            failures = self.give_up(error)
            if failures:
                raise undo_failure(error, failures) from error
        else:
            self.end(JobState.FAILED, str(error))

    def leave(self, error: BaseException) -> None:
        """As a crash would, for who holds the volume next; what was in the way is kept."""
        try:
            jobs.note(self._catalogue, self._job_id, _told(error))
        except DmsnapError as failure:
            log.debug("what became of job %d is not recorded: %s", self._job_id, failure)

    def give_up(self, error: BaseException) -> list[Exception]:
        """Undo, whatever signals come; returns what failed of it.

        A signal wants what is happening anyway. It raises once, at the edges of held_back, where
        it must neither cut off the undo nor hide a failure of it: hence a second time around.
        """
        failures: list[Exception] | None = None
        for _ in range(2):
            with suppress(InterruptedBySignal), held_back():
                if failures is None:
                    failures = self.undo()
                    self.end(JobState.FAILED if failures else JobState.UNDONE, str(error))
        return failures or []

    def undo(self) -> list[Exception]:
        """Undo the steps begun, the last one first; a failure does not stop the others."""
        failures: list[Exception] = []
        for position, step in reversed(self._begun):
            try:
                if step.undo is not None:
                    step.undo()
                    self.keep_report(step)
            except Exception as error:
                log.debug("undoing %s", step.name, exc_info=True)
                failures.append(error)
            else:
                with suppress(DmsnapError):
                    jobs.record_step(
                        self._catalogue, self._job_id, position, StepState.UNDONE, None
                    )
        return failures

    def end(self, state: JobState, outcome: str = "") -> None:
        left = self._before.left(state, self._volume_ids)
        outcome = left_suspended.told(outcome, left)
        # The catalogue only repeats what devices and labels say: a full disk under it must
        # not turn a finished operation into a failed one.
        try:
            jobs.end(self._catalogue, self._job_id, state, outcome)
        except DmsnapError as error:
            log.warning("the end of job %d could not be recorded: %s", self._job_id, error)


class UndoFailedError(DmsnapError):
    """An operation failed, and so did a part of taking it back."""

    def __init__(self, cause: BaseException, failures: Sequence[Exception]) -> None:
        undone = "; ".join(dict.fromkeys(str(failure) for failure in failures))
        super().__init__(
            f"{_told(cause)}; and undoing it failed: {undone}",
            hint="dmsnap status shows what is left",
        )
        self.failures = ExceptionGroup("while undoing", failures)


class UndoneLaterError(UndoFailedError):
    """An operation failed, and what it had begun could not all be taken back: the catalogue takes
    nothing, its server is away, or a target. The exit code is that of ``missing``.
    """

    def __init__(
        self, cause: BaseException, failures: Sequence[Exception], missing: DmsnapError
    ) -> None:
        super().__init__(cause, failures)
        if cause is missing:
            self.args = (f"{cause}; not all that was begun could be taken back without it",)
        away = isinstance(missing, UnreachableError)
        when = "when it is there again," if away else "when it takes changes again,"
        self.hint = f"{'' if away or not missing.hint else f'{missing.hint}; '}{when} {LATER}"
        self.exit_code = missing.exit_code


LATER = "the next command on the volume takes back what is left, or dmsnap job resume --all"


def undo_failure(cause: BaseException, failures: Sequence[Exception]) -> UndoFailedError:
    """What to raise when undoing failed, too. One cause of all is said once."""
    away = isinstance(cause, UnreachableError)
    if not all(
        _is_of_catalogue(each) or (away and isinstance(each, UnreachableError)) for each in failures
    ):
        return UndoFailedError(cause, failures)
    missing = cause if away or _is_of_catalogue(cause) else failures[0]
    assert isinstance(missing, DmsnapError)  # noqa: S101 - each of them is
    return UndoneLaterError(cause, failures, missing)


def _is_of_catalogue(error: BaseException) -> bool:
    """Whether it is the catalogue that failed, whatever became of it."""
    return isinstance(error, DmsnapError) and "catalogue" in error.fields


def _told(cause: BaseException) -> str:
    """That all has been undone is what a signal says otherwise."""
    return "interrupted" if isinstance(cause, InterruptedBySignal) else str(cause)
