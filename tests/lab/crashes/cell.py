"""One crash: the plug is pulled, the computer boots, dmsnap recovers, everything is looked at."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from harness.computer import Computer, computer

from crashes.subject import (
    DISKS,
    MOUNT_POINT,
    NAME,
    STORE,
    Scenario,
    do,
    fill_devices,
    filled_in,
    prepare,
)

INSPECTION = Path(__file__).with_name("inspection.py").read_text()
CONTENTS = Path(__file__).with_name("contents.py").read_text()
WRITE_SECONDS = 300
NOT_FOUND = 4  # what a command ends with whose device is not there

Facts = Mapping[str, object]


class Moment(StrEnum):
    """When the plug is pulled."""

    MIDDLE = "middle"
    AFTER = "after"


class Outcome(StrEnum):
    """What became of an operation that was cut off."""

    UNDONE = "undone"
    DONE = "done"
    AS_BEFORE = "as before"  # there is no telling: the operation changes nothing that lasts


@dataclass(frozen=True, slots=True)
class Step:
    """A step as the journal recorded it when nothing happened to it."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Seen:
    """How things are: facts that are the same each time, and every byte of points, by their ids.

    A point that is taken anew in each boot has other bytes each time: those of its files are facts.
    """

    facts: Facts
    points: Mapping[str, str]

    def summary(self) -> str:
        """How much of points there is to compare."""
        shown = [each.get("note") or each["refused"] for each in self.facts["contents"]]  # type: ignore[attr-defined]
        return f"points: {', '.join(shown) or 'none'}; label: {self.facts['label']}"

    def require_points(self, other: "Seen") -> None:
        """Raise where a point shows something else, whatever became of the operation."""
        for point, digest in self.points.items():
            assert other.points.get(point, digest) == digest, f"point {point} shows something else"


@dataclass(frozen=True, slots=True)
class Reference:
    """How things are without a crash: before the operation and after it, each after a boot."""

    steps: tuple[Step, ...]
    before: Seen
    after: Seen
    published: Mapping[Outcome, Facts]


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
        made.save()
        self.reference = self._reference()

    def _reference(self) -> Reference:
        self._begin()
        self.computer.pull_plug()
        before = self._recovered()
        published = {Outcome.UNDONE: publish(self.computer, before)}
        self._begin()
        self.computer.dmsnap(*filled_in(self.computer, self.scenario.words))
        (job,) = self.computer.dmsnap("job", "list", "--count", 1)
        steps = tuple(Step(step["name"], step["seconds"]) for step in job["steps"])
        self.computer.pull_plug()
        after = self._recovered()
        published[Outcome.DONE] = publish(self.computer, after)
        after.require_points(before)
        return Reference(steps, before, after, published)

    def crashes(self) -> Iterator[Crash]:
        """At every step, in its middle and right after it."""
        for position in range(len(self.reference.steps)):
            yield from (Crash(position, moment) for moment in Moment)

    def run(self, crash: Crash) -> Outcome:
        """Pull the plug there; raises AssertionError, with what is wrong, afterwards."""
        self._begin()
        words = [*filled_in(self.computer, self.scenario.words), "--json"]
        if crash.moment is Moment.AFTER:
            self.computer.dies_at(words, crash.position, "done")
        else:
            later = self.reference.steps[crash.position].seconds / 2
            self.computer.dies_at(words, crash.position, "begun", later=later)
        seen = self._recovered()
        outcome = judged(self.reference, seen)
        if self.scenario.unplugged:
            prove_recoverable(self.computer, seen.facts)
        else:
            prove(self.computer, seen.facts)
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
    with computer(DISKS, init="minimal") as made:
        yield Row(made, scenario)


def recover(made: Computer, scenario: Scenario) -> None:
    """What the units of a boot do: stores, stacks, mounts, then what was cut off."""
    made.shell(f"""
        mount {STORE}
        for unit in /etc/systemd/system/dmsnap-assemble@*.service.d; do
            [ -e "$unit" ] && touch /run/assembled
        done || true
    """)
    do(made, scenario.at_boot)
    if made.shell("ls /run/assembled 2>/dev/null || true"):
        assemble(made, scenario)
    made.shell(f"""
        mountpoint -q {MOUNT_POINT} || ! [ -e $(findmnt -sno SOURCE {MOUNT_POINT}) ] \\
            || mount {MOUNT_POINT}
    """)
    made.dmsnap("job", "resume", "--all")


def assemble(made: Computer, scenario: Scenario) -> None:
    """What the volume's unit does; without its device it fails, and the boot goes on."""
    expected = (0, NOT_FOUND) if scenario.unplugged else (0,)
    words = ["assemble", NAME, "--boot"]
    made.python(
        "import sys; from dmsnap.cli.main import main; "
        f"sys.exit(main({words!r}) not in {expected!r})"
    )


def look(made: Computer, scenario: Scenario) -> Seen:
    """What the computer shows of dmsnap, and of what the scenario is about besides."""
    facts: dict[str, object] = json.loads(made.python(INSPECTION))
    arguments = f"import sys; sys.argv[1:] = [{made.device('recovery')!r}]\n"
    facts.update(contents := json.loads(made.python(arguments + CONTENTS)))
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


def judged(reference: Reference, seen: Seen) -> Outcome:
    """Whether things are as before the operation or as after it."""
    seen.require_points(reference.before)
    seen.require_points(reference.after)
    before, after = reference.before.facts, reference.after.facts
    if before == after == seen.facts:
        return Outcome.AS_BEFORE
    if seen.facts == before:
        return Outcome.UNDONE
    if seen.facts == after:
        return Outcome.DONE
    raise AssertionError(
        "neither as before the operation nor as after it:\n"
        + textwrap.indent("\n".join(differences(reference, seen.facts)), "  ")
    )


def differences(reference: Reference, facts: Facts) -> Iterator[str]:
    """What is another than before, or than after: whichever is nearer."""
    found = [
        [(name, value, other[name]) for name, value in facts.items() if value != other[name]]
        for other in (reference.before.facts, reference.after.facts)
    ]
    nearer = min(found, key=len)
    yield "next to before" if nearer is found[0] else "next to after"
    for name, value, other in nearer:
        yield f"{name}: {value} instead of {other}"


def prove_recoverable(made: Computer, facts: Facts) -> None:
    """There is no primary: the volume is in trial, or the next swap has it so; and it is kept."""
    assert facts["suspended"] == []
    assert facts["unfinished"] == []
    if dict(facts["volumes"])[NAME] != "trial":  # type: ignore[call-overload]
        made.dmsnap("swap", NAME)
    source = made.run("findmnt", "-no", "SOURCE", "-M", MOUNT_POINT).strip()
    assert source == f"/dev/mapper/{NAME}", source
    made.shell(
        f"sha256sum --quiet -c /var/kept.sum; echo x >{MOUNT_POINT}/probe; sync -f {MOUNT_POINT}",
        timeout=WRITE_SECONDS,
    )
    made.dmsnap("swap", "commit", NAME)
    made.shell(f"umount {MOUNT_POINT}; e2fsck -fn {source}")


def prove(made: Computer, facts: Facts) -> None:
    """The volume is whole and can be written to, and the next sync equals it."""
    assert facts["suspended"] == []
    assert facts["unfinished"] == []
    assert not [each for each in facts["contents"] if each.get("e2fsck", 0)]  # type: ignore[attr-defined]
    if not facts["volumes"] and not facts["note"]:
        return  # nothing is left, or there yet, that could be mounted
    made.shell(
        f"sha256sum --quiet -c /var/kept.sum; echo x >{MOUNT_POINT}/probe; sync -f {MOUNT_POINT}; "
        f"rm {MOUNT_POINT}/probe",
        timeout=WRITE_SECONDS,
    )
    state = dict(facts["volumes"]).get(NAME)  # type: ignore[call-overload]
    mounted = f"/dev/mapper/{NAME}" if state else made.run("findmnt", "-sno", "SOURCE", MOUNT_POINT)
    mounted = mounted.strip()
    source = made.run("findmnt", "-no", "SOURCE", "-M", MOUNT_POINT).strip()
    assert source == mounted, source
    # Of what was recovered by a label alone nothing may be left to go back to, or to sync.
    has_way_back = all(backing for backing, _recovery in facts["places"])  # type: ignore[attr-defined]
    if state == "trial" and has_way_back:
        made.dmsnap("swap", "revert", NAME)
        state = "protected"
    if state == "protected":
        made.dmsnap("sync", NAME, "--audit", "full")
    made.shell(f"umount {MOUNT_POINT}; e2fsck -fn {mounted}")
    if state == "protected":
        # The unmount wrote to the file system, and the check only reads.
        made.dmsnap("sync", NAME)
        size_bytes = made.run("blockdev", "--getsize64", mounted).strip()
        made.run("cmp", "-n", size_bytes, mounted, made.device("recovery"))
