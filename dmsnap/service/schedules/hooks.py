"""The hooks of the policies that volumes are under: what runs before and after a phase.

Where none is declared nothing of this costs anything: the tables are read when a file has hooks.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING

from dmsnap.catalogue.hook_runs import HookRecord
from dmsnap.errors import DeadlineError, DmsnapError, InterruptedBySignal, ProgramError
from dmsnap.host.hook import KEPT_BYTES, HookRun, run_hook
from dmsnap.host.signals import held_back
from dmsnap.service.configuration import configuration
from dmsnap.service.journal import Step
from dmsnap.service.session import Session
from dmsnap.service.volumes import membership

if TYPE_CHECKING:
    from dmsnap.service.configuration.declaration import Declarations, Hook

log = logging.getLogger(__name__)

TOLD_CHARACTERS = 200
MAX_CHARACTERS = 2 * KEPT_BYTES + 200  # with the note that something is left out


class Phase(StrEnum):
    """When a hook runs, and the name of the step in which it does."""

    PRESNAPSHOT = "presnapshot"
    POSTSNAPSHOT = "postsnapshot"
    PRECOPY = "precopy"
    POSTCOPY = "postcopy"
    UNSNAP = "unsnap"


# What runs once the other has begun to, whatever comes between them.
PAIRS = {Phase.PRESNAPSHOT: Phase.POSTSNAPSHOT, Phase.PRECOPY: Phase.POSTCOPY}


@dataclass(frozen=True, slots=True)
class Hooks:
    """The hooks for an operation on ``volumes``, in the order in which they run.

    ``ran`` is what has run and was not reported yet.
    """

    volumes: tuple[str, ...] = ()
    named: Mapping[str, "Hook"] = field(default_factory=dict)
    ran: list[HookRecord] = field(default_factory=list, compare=False)

    def of(self, phase: Phase) -> dict[str, "Hook"]:
        return {name: hook for name, hook in self.named.items() if hook.phase is phase}

    def report(self) -> Sequence[HookRecord]:
        """What has run since this was asked last."""
        runs = tuple(self.ran)
        self.ran.clear()
        return runs

    def before(self, phase: Phase) -> None:
        """Run the hooks of a phase; the first that is required and fails raises.

        ``ProgramError``, ``DeadlineError`` or ``NotPermittedError``; ``output`` is in its fields.
        """
        for hook, failure in self._failures(phase, {}):
            if hook.required:
                raise failure
            log.warning("%s", failure)

    def after(self, phase: Phase, outcome: str) -> None:
        """Run all hooks of a phase. What fails is told, and changes nothing: it is done.

        Signals wait: what a hook stopped in the application, another has to start again.
        """
        with held_back():
            for _hook, failure in self._failures(phase, {"OUTCOME": outcome}):
                log.warning("%s", failure)

    def _failures(
        self, phase: Phase, facts: Mapping[str, str]
    ) -> Iterator[tuple["Hook", DmsnapError]]:
        """Run each hook of a phase when it is asked for; yields those that failed, and how."""
        for name, hook in self.of(phase).items():
            variables = {
                "HOOK": name, "PHASE": phase.value, "VOLUMES": " ".join(self.volumes), **facts
            }  # fmt: skip
            try:
                done = run_hook(hook.command, variables, deadline_seconds=hook.deadline)
            except DmsnapError as error:
                self.ran.append(HookRecord(name, phase, f"was not run: {error}", True, None, ""))
                yield hook, error
                continue
            except InterruptedBySignal:
                outcome = "was interrupted and killed"
                self.ran.append(HookRecord(name, phase, outcome, True, None, ""))
                raise
            self.ran.append(
                HookRecord(name, phase, _end(hook, done), done.failed, done.seconds, _text(done))
            )
            log.debug("the %s hook %s wrote: %s", phase, name, _text(done))
            if done.failed:
                yield hook, _failure(phase, name, hook, done)

    def bracket(self, first: Phase) -> "Bracket":
        """The steps of ``first`` and of what runs after it."""
        return Bracket(self, first)

    def step(self, phase: Phase) -> list[Step]:
        """The step in which a phase's hooks run once all is done; none where there are none."""
        if not self.of(phase):
            return []
        do = partial(self.after, phase, "done")
        return [Step(phase, self.describe(phase), do, final=True, report=self.report)]

    def describe(self, phase: Phase) -> str:
        return f"run the {phase} hooks {', '.join(self.of(phase))}"


NO_HOOKS = Hooks()


@dataclass(slots=True)
class Bracket:
    """Two phases around something: once the first began, the second runs, and once."""

    hooks: Hooks
    first: Phase
    is_open: bool = False

    @property
    def second(self) -> Phase:
        return PAIRS[self.first]

    def opening(self) -> list[Step]:
        """The step before; its undo runs what should have come after."""
        if not self.hooks.of(self.first):
            return []
        return [
            Step(
                self.first,
                self.hooks.describe(self.first),
                self._open,
                partial(self._close, "undone"),
                report=self.hooks.report,
            )
        ]

    def closing(self, *, final: bool = False) -> list[Step]:
        """The step behind."""
        if not self.hooks.of(self.second):
            return []
        description = self.hooks.describe(self.second)
        do, report = self._close_done, self.hooks.report
        return [Step(self.second, description, do, final=final, report=report, awaited=final)]

    def _open(self) -> None:
        self.is_open = True
        self.hooks.before(self.first)

    def _close(self, outcome: str) -> None:
        if self.is_open:
            self.is_open = False
            self.hooks.after(self.second, outcome)

    def _close_done(self) -> None:
        self.is_open = True  # there may be no hook before
        self._close("done")


def hooks_of(session: Session, volumes: Sequence[str]) -> Hooks:
    """The hooks of the policies that the configuration gives for volumes.

    ``ConfigurationError`` when it has hooks and mistakes: what is to run cannot be known then.
    """
    if not configuration.declares(session.configuration.iscsi_secrets, "hook"):
        return Hooks(tuple(volumes))
    return Hooks(tuple(volumes), _chosen(membership.declared_now(session), volumes))


def _chosen(declared: "Declarations", volumes: Sequence[str]) -> dict[str, "Hook"]:
    """Each hook once, in the order of sub-clients and of their policies' lists."""
    from dmsnap.service.configuration.coherence import volumes_of

    policies = [
        declared.policy[subclient.policy]
        for name, subclient in declared.subclient.items()
        if subclient.policy and set(volumes) & set(volumes_of(declared.subclient, name))
    ]
    names = dict.fromkeys(name for policy in policies for name in policy.hooks)
    return {name: declared.hook[name] for name in names}


def _failure(phase: Phase, name: str, hook: "Hook", done: HookRun) -> DmsnapError:
    """How a hook failed, with the last line that it wrote; all of it is among the fields."""
    output = _text(done)
    last = next((line for line in reversed(output.split("\n")) if line.strip()), "it wrote nothing")
    kind: type[DmsnapError] = DeadlineError if done.overdue else ProgramError
    return kind(
        f"the {phase} hook {name} {_end(hook, done)}: {last.strip()[:TOLD_CHARACTERS]}",
        hook=name,
        phase=phase,
        returncode=done.returncode,
        output=output,
    )


def _end(hook: "Hook", done: HookRun) -> str:
    if not done.failed:
        return "is done"
    if done.overdue:
        return f"did not end within {hook.deadline} and was killed"
    code = done.returncode or 0
    return f"was killed by signal {-code}" if code < 0 else f"failed with {code}"


def _text(done: HookRun) -> str:
    """The output for people: what is neither printed nor ends a line is shown as what it is."""
    text = done.output.decode(errors="backslashreplace")
    shown = "".join(
        each if each.isprintable() or each in "\n\t" else ascii(each)[1:-1] for each in text
    )
    surplus = len(shown) - MAX_CHARACTERS
    if surplus <= 0:
        return shown
    # Bytes that are no text take four characters each.
    half = MAX_CHARACTERS // 2
    return f"{shown[:half]}\n… {surplus} characters left out …\n{shown[-half:]}"
