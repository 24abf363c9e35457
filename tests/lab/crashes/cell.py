"""One crash: the plug is pulled, the computer boots, dmsnap recovers, everything is looked at."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from harness.computer import Computer, computer

from crashes.booting import recover
from crashes.judgement import Facts, Outcome, Reference, Seen, Step, judged
from crashes.proof import prove
from crashes.subject import (
    DISKS,
    STORE,
    Scenario,
    change,
    do,
    fill_devices,
    filled_in,
    prepare,
)

INSPECTION = Path(__file__).with_name("inspection.py").read_text()
CONTENTS = Path(__file__).with_name("contents.py").read_text()
FEW_JOBS = 5
ID = re.compile(r"[0-9a-f]{12}$")


class Moment(StrEnum):
    """When the plug is pulled."""

    MIDDLE = "middle"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class Crash:
    """Where the plug is pulled."""

    position: int
    moment: Moment


class Row:
    """All crashes of one scenario, on one computer."""

    def __init__(self, made: Computer, scenario: Scenario) -> None:
        self.computer = made
        self.scenario = scenario
        prepare(made, scenario)
        former = self._former() if scenario.mends_label else None
        change(made, scenario)
        made.save()
        self.reference = self._reference(former)

    def _former(self) -> Seen:
        """How things are before anything happens to the label; nothing of the look stays."""
        self.computer.save()
        seen = self._recovered()
        self.computer.pull_plug()
        self.computer.restore()
        return seen

    def _reference(self, former: Seen | None) -> Reference:
        self._begin()
        do(self.computer, self.scenario.undone)
        self.computer.pull_plug()
        before = self._recovered()
        published = {Outcome.UNDONE: publish(self.computer, before)}
        published[Outcome.LABEL_MENDED] = published[Outcome.UNDONE]
        self._begin()
        self.computer.dmsnap(*filled_in(self.computer, self.scenario.words))
        steps = self._steps()
        self.computer.pull_plug()
        after = self._recovered()
        published[Outcome.DONE] = publish(self.computer, after)
        reference = Reference(steps, before, after, published, former)
        reference.require_points(after)
        return reference

    def _steps(self) -> tuple[Step, ...]:
        """Those of the operation: a command may have begun another job behind it. Without ids."""
        jobs = self.computer.dmsnap("job", "list", "--count", FEW_JOBS)
        wanted = [job for job in jobs if job["operation"] == self.scenario.operation]
        last = max(wanted, key=lambda job: job["id"])
        return tuple(Step(ID.sub("ID", step["name"]), step["seconds"]) for step in last["steps"])

    def crashes(self) -> Iterator[Crash]:
        """At every step that the scenario is for, in its middle and right after it."""
        only = self.scenario.only
        names = [step.name for step in self.reference.steps]
        if missing := set(only).difference(names):
            raise AssertionError(f"no steps {missing} among {names}")
        for position, name in enumerate(names):
            if not only or name in only:
                yield from (Crash(position, moment) for moment in Moment)

    def run(self, crash: Crash) -> Outcome:
        """Pull the plug there; raises AssertionError, with what is wrong, afterwards."""
        self._begin()
        words = [*filled_in(self.computer, self.scenario.words), "--json"]
        state, later = "done", None
        if crash.moment is Moment.MIDDLE:
            state, later = "begun", self.reference.steps[crash.position].seconds / 2
        operation = self.scenario.operation
        self.computer.dies_at(words, crash.position, state, later=later, operation=operation)
        seen = self._recovered()
        outcome = judged(self.reference, seen)
        prove(self.computer, self.scenario, seen.facts)
        published = publish(self.computer, seen)
        assert published == self.reference.published.get(outcome, published), published
        self.computer.pull_plug()
        return outcome

    def _begin(self) -> None:
        """From the saved disks to the moment before the operation."""
        self.computer.pull_plug()
        self.computer.restore()
        self.computer.boot(without=self.scenario.unplugged)
        if self.scenario.assembled:
            recover(self.computer, self.scenario)
        else:
            self.computer.run("mount", STORE)
        do(self.computer, self.scenario.after_boot)

    def _recovered(self) -> Seen:
        """Boot, let dmsnap do what it does then, and look."""
        self.computer.boot(without=self.scenario.unplugged)
        recover(self.computer, self.scenario)
        return look(self.computer, self.scenario)


@contextmanager
def row(scenario: Scenario) -> Iterator[Row]:
    """A computer of its own for a scenario."""
    with computer(DISKS, init=scenario.init) as made:
        yield Row(made, scenario)


def look(made: Computer, scenario: Scenario) -> Seen:
    """What the computer shows of dmsnap, and of what the scenario is about besides."""
    facts: dict[str, object] = json.loads(made.python(INSPECTION))
    arguments = f"import sys; sys.argv[1:] = [{made.device(scenario.recovery)!r}]\n"
    facts.update(contents := json.loads(made.python(arguments + CONTENTS)))
    if scenario.drops:
        del facts["points"]
        contents["contents"][:] = [each for each in contents["contents"] if "note" in each]
    points = {point.pop("id"): point.pop("bytes", "") for point in contents["contents"]}
    if scenario.shows is not None:
        facts["shown"] = made.shell(fill_devices(scenario.shows.text, made))
    return Seen(facts, {point: digest for point, digest in points.items() if digest})


def publish(made: Computer, seen: Seen) -> Facts:
    """What LIO holds once the boot has published what is exported; empty where nothing is."""
    if not seen.facts["exports"]:
        return {}
    made.dmsnap("export", "restore")
    facts: Facts = json.loads(made.python(INSPECTION))
    return {name: facts[name] for name in ("backstores", "luns")}
