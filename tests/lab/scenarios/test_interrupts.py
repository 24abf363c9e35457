"""SIGINT, SIGTERM and SIGKILL at every step of every command that changes devices.

A signal undoes what was begun: the volume, its mounts, the store, the label and the catalogue are
as before, and no device is left suspended. What SIGKILL leaves is cleared by the next command.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import pytest
from conftest import (
    HANGS_SECONDS,
    MIB,
    PATIENCE_SECONDS,
    Ended,
    Lab,
    World,
    catalogue_rows,
    configured,
    dm_devices,
    dmsnap,
    dying,
    forked,
    loop_files,
    mount_lines,
    planned,
    rarely,
    run,
    sha256,
    step_at,
    suspended,
    wait_until,
    world,
)
from patience import requests_under_way

from dmsnap._native import window
from dmsnap._native.window import WindowAction, WindowStep
from dmsnap.catalogue.model import StepState
from dmsnap.recovery import apply
from dmsnap.service.journal import Plan

SIZE = 32 * MIB
RECOVERY_SIZE = 48 * MIB
# What Bench.dirty changes takes eight seconds and more then, in each of the two steps that copy.
SLOWLY = "256KiB"
MINOR_FIELDS = ("backup", "generation", "host", "lease_time", "lease_time_ns")


@dataclass
class Bench:
    """A mounted volume, protected or about to be, and what must not be lost of it."""

    lab: Lab
    name: str
    primary: str
    recovery: str
    mount_point: Path
    content: bytes
    count: int = 0
    problems: list[str] = field(default_factory=list)

    @classmethod
    def made(cls, lab: Lab, *, protected: bool = True) -> "Bench":
        primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
        mount_point = lab.mounted(primary, options="noatime,nodev")
        content = os.urandom(200_000)
        (mount_point / "kept").write_bytes(content)
        run("sync")
        bench = cls(lab, lab.name(), primary, recovery, mount_point, content)
        lab.store()
        if protected:
            dmsnap(*bench.protect)
        return bench

    @property
    def protect(self) -> list[object]:
        return ["protect", self.primary, "--name", self.name, "--recovery", self.recovery,
                "--store", self.lab.store()]  # fmt: skip

    def dirty(self) -> None:
        """Change something, so that a sync has work."""
        self.count += 1
        (self.mount_point / "changing").write_bytes(os.urandom(2 * MIB))
        run("sync", "-f", self.mount_point)

    def label(self) -> dict[str, Any]:
        label = dict(dmsnap("inspect", "label", self.recovery))
        return {key: value for key, value in label.items() if key not in MINOR_FIELDS}

    def look(self) -> World:
        """The world without the catalogue's record of points, whose ids are new each time."""
        return world(self.lab)

    def require_in_use(self, step: str) -> None:
        """The file system is there, with what was in it, and can be written to."""
        assert suspended() == [], step
        self.require_usable(step)

    def require_usable(self, step: str) -> None:
        """The same, whatever devices of others are suspended."""
        assert os.path.ismount(self.mount_point), step
        assert (self.mount_point / "kept").read_bytes() == self.content, step
        probe = self.mount_point / "probe"
        with probe.open("wb") as file:
            file.write(b"x")
            os.fsync(file.fileno())
        probe.unlink()
        (shown,) = [row for row in mount_lines() if f" {self.mount_point} " in row]
        options = shown.split(" ")[2].split(",")
        assert {"noatime", "nodev"} <= set(options), step


def steps_of(*words: object) -> int:
    return len(dmsnap(*words, "--dry-run")["steps"])


def differences(before: World, after: World) -> list[str]:
    """What is not as it was, in words."""
    found = []
    for name in World.__dataclass_fields__:
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            found.append(f"{name}: {old} became {new}")
    return found


def interrupted(
    bench: Bench,
    words: Sequence[object],
    again: Callable[[], None],
    *,
    number: int,
    prepare: Callable[[], None] = lambda: None,
    labelled: bool = True,
) -> None:
    """Send a signal at every step; ``again`` takes back a command that was through already.

    One that comes before a step that can be undone is never too late.
    """
    problems = []
    plan = planned(*words)
    for position in range(len(plan.steps)):
        state = "begun" if number == signal.SIGINT or position % 2 else "done"
        prepare()
        before, label = bench.look(), bench.label() if labelled else {}
        # At once or in the middle of the step; every third time twice.
        send = (number, number) if position % 3 == 2 else (number,)
        after = 0.005 * (position % 4) if state == "begun" else 0
        at = (position, state)
        ended = forked(*words, at=at, send=send, after=after)
        step = f"{' '.join(map(str, words))} after step {at}: exit {ended.code}: {ended.stderr}"
        if ended.code == 0:
            # It was through, or the signal came too late to be of any use.
            again()
        if ended.code not in allowed(number, after, final=is_final(plan, position)):
            problems.append(step)
        elif ended.code > 0 and ended.stderr.count('"error"') != 1:
            problems.append(f"no sentence: {step}")
        bench.require_in_use(step)
        if ended.code:
            problems += [f"{step}: {what}" for what in differences(before, bench.look())]
            if labelled and bench.label() != label:
                problems.append(f"{step}: label {label} became {bench.label()}")
    assert not problems, "\n".join(problems)


def is_final(plan: Plan, position: int) -> bool:
    """Whether there is no way back at a step, nor behind it."""
    return any(step.final for step in plan.steps[: position + 1])


def allowed(number: int, after: float, *, final: bool) -> tuple[int, ...]:
    """How a command may end that got a signal at a step: some seconds later, or from itself."""
    if after:
        return 0, 128 + number, -number
    return (0,) if final else (128 + number,)


# Where a command is killed: at every step, or at every second one where another test, or another
# variant of this one, has the same steps.
EVERY, EVEN, ODD = slice(None), slice(0, None, 2), slice(1, None, 2)


def moments(count: int, which: slice = EVERY) -> list[tuple[int, str]]:
    """Of so many steps those that have just begun, and the end of the last."""
    return [*[(position, "begun") for position in range(count)][which], (count - 1, "done")]


def killed(
    bench: Bench,
    words: Sequence[object],
    again: Callable[[Ended, str], None],
    *,
    prepare: Callable[[], None] = lambda: None,
    mounted: bool = True,
    which: slice = EVERY,
) -> None:
    """SIGKILL at every step, or at some.

    ``again`` runs the next command and brings back the state before.
    """
    problems = []
    count = steps_of(*words)
    for at in moments(count, which):
        prepare()
        before = bench.look()
        # In the middle of the step, where it takes that long; else a little later.
        after = 0.004 * (at[0] % 3) if at[1] == "begun" else 0
        ended = forked(*words, at=at, send=(signal.SIGKILL,), after=after)
        step = f"{' '.join(map(str, words))} killed after step {at}"
        assert ended.code == -signal.SIGKILL or (after and ended.code == 0), f"{step}: {ended}"
        resumed = wait_resumed()
        if resumed:
            problems.append(f"{step}: suspended {resumed}")
        try:
            again(ended, step)
            if mounted:
                bench.require_in_use(step)
        except (AssertionError, OSError) as error:
            problems.append(f"{step}: {str(error)[:600]}")
            break
        problems += [f"{step}: {what}" for what in differences(before, bench.look())]
    assert not problems, "\n".join(problems)


def wait_resumed() -> list[str]:
    """What is still suspended when the watchdog had its time."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while (stuck := suspended()) and time.monotonic() < ends:
        time.sleep(0.05)
    return stuck


def points_of(name: str) -> list[str]:
    return [point["id"] for point in dmsnap("point", "list", name)]


def live_points_of(name: str) -> list[str]:
    return [
        point["id"]
        for point in dmsnap("point", "list", name)
        if any(place["kind"] == "live" for place in point["places"])
    ]


# One handler serves both: each once at every step of the two commands with the most of them.
SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, rarely(signal.SIGINT)])
SIGTERM = pytest.mark.parametrize("number", [signal.SIGTERM])


# signals: undone


@SIGTERM
def test_protect(lab: Lab, number: int) -> None:
    bench = Bench.made(lab, protected=False)

    def again() -> None:
        dmsnap("unprotect", bench.name, "--forget")
        run("wipefs", "-qa", bench.recovery)

    def empty() -> None:
        """A copy that was given up is no twin of the file system that was to be copied."""
        assert run("wipefs", "-n", bench.recovery) == ""

    interrupted(bench, bench.protect, again, number=number, prepare=empty, labelled=False)
    empty()
    assert dm_devices() == []
    assert catalogue_rows("select * from volume where removed_ns is null") == []
    # The recovery device carries no label of a copy that was given up.
    dmsnap("inspect", "label", bench.recovery, expected=13)


def test_a_protect_whose_volume_is_used_by_then(lab: Lab, tmp_path: Path) -> None:
    """From its mount on the front is for everybody, and the copy may take hours: what cannot be
    unmounted stays there, with all that it is built of, and is not forgotten.
    """
    bench = Bench.made(lab, protected=False)
    before = bench.look()
    pid = tmp_path / "pid"

    def used_and_interrupted() -> None:
        holder = subprocess.Popen(["sleep", "600"], stdin=(bench.mount_point / "kept").open())
        pid.write_text(str(holder.pid))
        os.kill(os.getpid(), signal.SIGTERM)

    at = (step_at("copy", *bench.protect), "begun")
    with configured("unmount_wait_seconds = 0.5"):
        ended = forked(*bench.protect, at=at, happens=used_and_interrupted)
    try:
        assert ended.code not in (0, 99), ended
        assert f"dmsnap unprotect {bench.name}" in ended.stderr
        bench.require_in_use("while it is used")
        (recorded,) = dmsnap("status", expected=24)
        assert (recorded["volume"], recorded["state"]) == (bench.name, "building")
        assert set(before.loops) < set(loop_files()), "its metadata are in the store"
        assert Path(f"/etc/systemd/system/dmsnap-assemble@{bench.name}.service.d").is_dir()
        assert "unprotect" in dmsnap(*bench.protect, expected=7)["hint"]
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)
    dmsnap("unprotect", bench.name)
    assert differences(before, bench.look()) == []
    bench.require_in_use("as before")
    assert run("wipefs", "-n", bench.recovery) == ""
    dmsnap(*bench.protect)


@pytest.mark.exhaustive
@SIGTERM
def test_point_create(lab: Lab, number: int) -> None:
    bench = Bench.made(lab)

    def again() -> None:
        for point in live_points_of(bench.name):
            dmsnap("point", "delete", point)

    interrupted(bench, ["point", "create", bench.name], again, number=number)


@SIGNALS
def test_sync(lab: Lab, number: int) -> None:
    """The replica is the former point or the next one, byte for byte, and the label knows which."""
    bench = Bench.made(lab)
    interrupted(bench, ["sync", bench.name], lambda: None, number=number, prepare=bench.dirty)
    run("umount", bench.mount_point)
    dmsnap("sync", bench.name)
    assert sha256(bench.recovery, SIZE) == sha256(bench.primary)


@SIGNALS
def test_a_signal_behind_the_last_step_takes_nothing_away(lab: Lab, number: int) -> None:
    """While the catalogue is backed up, a spare is made, and the result is written."""
    bench = Bench.made(lab)
    for after in (0, 0.01, 0.03, 0.09):
        bench.dirty()
        at = (steps_of("sync", bench.name) - 1, "done")
        ended = forked("sync", bench.name, at=at, send=(number, number), after=after)
        assert ended.code == 0, ended
        assert '"bytes_written"' in ended.stdout
        bench.require_in_use(str(ended))


def signalled(do: Callable[..., Any], look: Callable[[], object]) -> Callable[..., Any]:
    """``do``, a look at what it did, and SIGTERM for the process."""

    def done(*arguments: Any, **options: Any) -> Any:
        do(*arguments, **options)
        look()
        os.kill(os.getpid(), signal.SIGTERM)

    return done


def test_sync_takes_the_replica_back(lab: Lab) -> None:
    """SIGTERM before, while and after the new content is written: the old bytes are there again."""
    bench = Bench.made(lab)
    label, replica = bench.label(), sha256(bench.recovery, SIZE)
    bench.dirty()
    words = ("sync", bench.name)
    seen = lab.directory / "seen"

    def look() -> None:
        seen.write_text(sha256(bench.recovery, SIZE))

    def require_taken_back(ended: Ended) -> None:
        assert ended.code == 128 + signal.SIGTERM, ended
        assert bench.label() == label
        assert sha256(bench.recovery, SIZE) == replica
        bench.require_in_use(str(ended))

    at = step_at("apply", *words), "begun"
    require_taken_back(forked(*words, at=at, send=(signal.SIGTERM,)))
    for step in ("mark_applying", "write_new", "mark_consistent"):
        with patch.object(apply, step, signalled(getattr(apply, step), look)):
            require_taken_back(forked(*words))
        # It was another one's content when the signal came.
        assert (seen.read_text() == replica) == (step == "mark_applying"), step
    dmsnap(*words, "--audit", "full")
    assert sha256(bench.recovery, SIZE) != replica


@SIGNALS
def test_swap(lab: Lab, number: int) -> None:
    bench = Bench.made(lab)

    def again() -> None:
        dmsnap("swap", "revert", bench.name)

    interrupted(bench, ["swap", bench.name, "--trial"], again, number=number)


@pytest.mark.exhaustive
def test_swap_to_an_earlier_point(lab: Lab) -> None:
    bench = Bench.made(lab)
    bench.dirty()
    dmsnap("sync", bench.name)
    earlier = points_of(bench.name)[0]

    def again() -> None:
        dmsnap("swap", "revert", bench.name)

    interrupted(
        bench, ["swap", bench.name, "--to", earlier, "--trial"], again, number=signal.SIGTERM
    )


@SIGTERM
def test_swap_revert(lab: Lab, number: int) -> None:
    """Undone, it is still in trial, with what was written in the trial."""
    bench = Bench.made(lab)
    dmsnap("swap", bench.name, "--trial")
    written = bench.mount_point / "in-trial"
    written.write_text("x")

    def again() -> None:
        assert not written.exists()
        dmsnap("swap", bench.name, "--trial")
        written.write_text("x")

    interrupted(bench, ["swap", "revert", bench.name], again, number=number)
    assert written.exists()


@pytest.mark.exhaustive
@SIGTERM
def test_point_mount(lab: Lab, number: int) -> None:
    bench = Bench.made(lab)
    bench.dirty()
    dmsnap("sync", bench.name)
    earlier = points_of(bench.name)[0]

    def again() -> None:
        dmsnap("point", "umount", earlier)

    interrupted(bench, ["point", "mount", earlier], again, number=number)


@SIGTERM
def test_unprotect(lab: Lab, number: int) -> None:
    """From the removal of the front on there is no way back: then it is through."""
    bench = Bench.made(lab)
    problems = []
    plan = planned("unprotect", bench.name)
    for position in range(len(plan.steps)):
        state = "begun" if position % 2 else "done"
        at = (position, state)
        before = bench.look()
        ended = forked("unprotect", bench.name, at=at, send=(number,))
        step = f"unprotect after {at}: {ended}"
        bench.require_in_use(step)
        assert ended.code in allowed(number, 0, final=is_final(plan, position)), step
        if ended.code == 0:
            if dm_devices():
                problems.append(f"{step}: left {dm_devices()}")
            dmsnap(*bench.protect)
        else:
            # The stack may have been built anew: then tracking starts again, and no more.
            now = replace(bench.look(), loops=before.loops, dm_tables=before.dm_tables)
            problems += [f"{step}: {what}" for what in differences(before, now)]
            dmsnap("status", bench.name)
    assert not problems, "\n".join(problems)


# one step of the others that `make test` has no time for every step of


def taken_back(bench: Bench, words: Sequence[object], begins: str, number: int) -> Any:
    """The command sends the signal to itself, when one step is done: never too early or too late.

    All is as before, the job says so, and the same command then does what it was to do: its result.
    """
    steps = planned(*words).steps
    (position,) = (at for at, step in enumerate(steps) if step.description.startswith(begins))
    before, label = bench.look(), bench.label()
    ended = forked(*words, at=(position, "done"), send=(number,))
    assert ended.code == 128 + number, ended
    assert ended.stderr.count('"error"') == 1, ended
    bench.require_in_use(str(ended))
    assert differences(before, bench.look()) == []
    assert bench.label() == label
    (job,) = dmsnap("job", "list", "--count", 1)
    assert job["state"] == "undone", job
    # What had begun is undone, what had not is as it was.
    undone = [step["state"] == "undone" for step in job["steps"]]
    assert undone == [at <= position for at in range(len(steps))], job
    return dmsnap(*words)


@SIGNALS
def test_a_point_that_was_taken_is_taken_back(lab: Lab, number: int) -> None:
    bench = Bench.made(lab)
    taken_back(bench, ["point", "create", bench.name], "take the point", number)
    assert len(live_points_of(bench.name)) == 1


def test_a_point_that_was_mounted_is_unmounted(lab: Lab) -> None:
    """SIGINT; the point is an earlier one, which has a chain of devices below its overlay."""
    bench = Bench.made(lab)
    bench.dirty()
    dmsnap("sync", bench.name)
    earlier = points_of(bench.name)[0]
    mounted = taken_back(bench, ["point", "mount", earlier], "mount it on", signal.SIGINT)
    at = Path(mounted["mount_point"])
    assert (at / "kept").read_bytes() == bench.content
    assert not (at / "changing").exists()
    dmsnap("point", "umount", earlier)


def test_a_front_that_shows_an_earlier_point_is_put_back(lab: Lab) -> None:
    bench = Bench.made(lab)
    bench.dirty()
    dmsnap("sync", bench.name)
    words = ["swap", bench.name, "--to", points_of(bench.name)[0], "--trial"]
    taken_back(bench, words, "put it under", signal.SIGTERM)
    assert not (bench.mount_point / "changing").exists()
    dmsnap("swap", "revert", bench.name)
    assert (bench.mount_point / "changing").exists()


# SIGKILL: the next command clears what is left


@pytest.mark.exhaustive
def test_protect_killed(lab: Lab) -> None:
    bench = Bench.made(lab, protected=False)

    def again(_ended: Ended, step: str) -> None:
        states = catalogue_rows("select state from volume where removed_ns is null")
        if states:
            dmsnap("unprotect", bench.name, "--forget")
            run("wipefs", "-qa", bench.recovery)
        assert catalogue_rows("select * from volume where removed_ns is null") == [], step

    killed(bench, bench.protect, again)


def test_protect_again_killed(lab: Lab) -> None:
    """The recovery volume is the point that it was, or the volume is protected."""
    bench = Bench.made(lab)
    bench.dirty()
    dmsnap("sync", bench.name)
    dmsnap("unprotect", bench.name)
    bench.dirty()
    before, content = bench.label(), sha256(bench.recovery, SIZE)
    for step, is_through in (("write_new", False), ("mark_consistent", True)):
        with patch.object(apply, step, dying(getattr(apply, step), before=False)):
            assert forked(*bench.protect).code == -signal.SIGKILL
        dmsnap("job", "resume", "--all")
        bench.require_in_use(step)
        if not is_through:
            assert (bench.label(), sha256(bench.recovery, SIZE)) == (before, content)
            assert catalogue_rows("select * from volume where removed_ns is null") == []
    bench.dirty()
    assert dmsnap("sync", bench.name, "--audit", "full")["tracker"] == "era"


@pytest.mark.exhaustive
def test_point_create_killed(lab: Lab) -> None:
    bench = Bench.made(lab)

    def again(_ended: Ended, step: str) -> None:
        dmsnap("point", "create", bench.name)
        dmsnap("status", bench.name)
        for point in live_points_of(bench.name):
            dmsnap("point", "delete", point)

    killed(bench, ["point", "create", bench.name], again)


def test_sync_killed(lab: Lab) -> None:
    bench = Bench.made(lab)

    def again(_ended: Ended, step: str) -> None:
        result = dmsnap("sync", bench.name, "--audit", "full")
        assert result["tracker"] == "era", (step, result["reason"])
        dmsnap("status", bench.name)

    def without_points() -> World:
        looked = world(lab)
        looked.catalogue.pop("point")
        return looked

    bench.look = without_points  # type: ignore[method-assign]
    killed(bench, ["sync", bench.name], again, prepare=bench.dirty)
    run("umount", bench.mount_point)
    dmsnap("sync", bench.name)
    assert sha256(bench.recovery, SIZE) == sha256(bench.primary)


def trial_state(name: str) -> str:
    ((state,),) = catalogue_rows(
        f"select state from volume where name = '{name}' and removed_ns is null"  # noqa: S608
    )
    return str(state)


def test_swap_killed(lab: Lab) -> None:
    bench = Bench.made(lab)

    def again(_ended: Ended, step: str) -> None:
        if trial_state(bench.name) == "trial":
            dmsnap("swap", "revert", bench.name)
        else:
            dmsnap("swap", bench.name, "--trial")
            bench.require_in_use(step)
            dmsnap("swap", "revert", bench.name)
        dmsnap("status", bench.name)

    killed(bench, ["swap", bench.name, "--trial"], again)
    dmsnap("sync", bench.name, "--audit", "full")


def test_no_front_is_left_suspended(lab: Lab) -> None:
    """Killed all along the exchange of the front's table: a watchdog lets it go on."""
    bench = Bench.made(lab)
    words = ["swap", bench.name, "--trial"]
    steps = dmsnap(*words, "--dry-run")["steps"]
    (load,) = (at for at, step in enumerate(steps) if step.startswith("put it under"))
    for milliseconds in (1, 2, 3, 4, 6, 8, 11, 15, 20, 26):
        after = milliseconds / 1000
        forked(*words, at=(load, "begun"), send=(signal.SIGKILL,), after=after)
        assert wait_resumed() == [], f"killed {after} s after it had begun to load"
        dmsnap("job", "resume", "--all")
        if trial_state(bench.name) == "trial":
            dmsnap("swap", "revert", bench.name)
        bench.require_in_use(f"{after} s")


@pytest.mark.exhaustive
def test_swap_to_an_earlier_point_killed_and_synced(lab: Lab) -> None:
    """The next command need not be a swap."""
    bench = Bench.made(lab)
    bench.dirty()
    dmsnap("sync", bench.name)
    earlier = points_of(bench.name)[0]

    def again(_ended: Ended, step: str) -> None:
        if trial_state(bench.name) == "trial":
            dmsnap("swap", "revert", bench.name)
        (point,) = dmsnap("point", "create", bench.name)
        dmsnap("point", "delete", point["id"])
        dmsnap("status", bench.name)

    killed(bench, ["swap", bench.name, "--to", earlier, "--trial"], again)


@pytest.mark.exhaustive
def test_swap_revert_killed(lab: Lab) -> None:
    bench = Bench.made(lab)
    dmsnap("swap", bench.name, "--trial")

    def again(_ended: Ended, step: str) -> None:
        # It was through but for mounting: any command on the volume does that.
        in_trial = trial_state(bench.name) == "trial"
        dmsnap(*(("swap", "revert") if in_trial else ("sync",)), bench.name)
        bench.require_in_use(step)
        dmsnap("swap", bench.name, "--trial")
        dmsnap("status", bench.name)

    def named_alike() -> World:
        """Each trial has areas of its own: their names and loop devices are new."""
        looked = world(lab)
        for table in ("area", "point", "volume"):
            looked.catalogue.pop(table)
        return replace(looked, loops={}, stores=[str(len(looked.stores))],
                       dm_tables=[row.split()[0] for row in looked.dm_tables])  # fmt: skip

    bench.look = named_alike  # type: ignore[method-assign]
    killed(bench, ["swap", "revert", bench.name], again)


@pytest.mark.exhaustive
def test_point_mount_killed(lab: Lab) -> None:
    bench = Bench.made(lab)
    bench.dirty()
    dmsnap("sync", bench.name)
    earlier = points_of(bench.name)[0]

    def again(ended: Ended, step: str) -> None:
        if any(earlier[:4] in line for line in run("findmnt", "-rn", "-o", "SOURCE").splitlines()):
            dmsnap("point", "umount", earlier)
        else:
            dmsnap("point", "mount", earlier)
            dmsnap("point", "umount", earlier)

    killed(bench, ["point", "mount", earlier], again)


@pytest.mark.exhaustive
def test_unprotect_killed(lab: Lab) -> None:
    bench = Bench.made(lab)

    def again(_ended: Ended, step: str) -> None:
        if catalogue_rows("select * from volume where removed_ns is null"):
            dmsnap("unprotect", bench.name)
        bench.require_in_use(step)
        assert dm_devices() == [], step
        dmsnap(*bench.protect)

    def named_alike() -> World:
        looked = world(lab)
        for table in ("area", "point"):
            looked.catalogue.pop(table)
        return replace(looked, loops={}, dm_tables=[], stores=[str(len(looked.stores))])

    bench.look = named_alike  # type: ignore[method-assign]
    killed(bench, ["unprotect", bench.name], again)


# processes as users start them


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (caught,) = (line.split()[1] for line in lines if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def has_begun(step: str) -> bool:
    """Whether the last job is at a step."""
    return (step, StepState.BEGUN) in catalogue_rows(
        "select name, state from job_step where job_id = (select max(id) from job)"
    )


@pytest.mark.parametrize("step", ["", "write-undo", rarely("apply")])
def test_ctrl_c_on_a_terminal(lab: Lab, step: str) -> None:
    """SIGINT for the whole process group: as soon as it can be, and while a sync copies slowly."""
    bench = Bench.made(lab)
    bench.dirty()
    before, label = bench.look(), bench.label()
    with subprocess.Popen(
        ["dmsnap", "sync", bench.name, "--bandwidth", SLOWLY],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        # Python has no handler of its own for SIGTERM.
        wait_until(
            "it can be interrupted",
            lambda: process.poll() is not None or catches(process.pid, signal.SIGTERM),
        )
        if step:
            wait_until(f"{step} begins", lambda: process.poll() is not None or has_begun(step))
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=HANGS_SECONDS)
    assert process.returncode == 128 + signal.SIGINT, stderr
    assert "Traceback" not in stderr
    assert wait_resumed() == []
    bench.require_in_use(stderr)
    assert differences(before, bench.look()) == []
    assert bench.label() == label
    assert run("ipcs", "-s").count("0x0d4d") == 0


@contextmanager
def hanging_device(lab: Lab) -> Iterator[str]:
    """The UUID of a device whose suspend waits for I/O that is held up below it."""
    key = uuid4().hex[:6]
    below, above = f"below-{key}", f"above-{key}"
    table = f"0 {MIB // 512} linear"
    run("dmsetup", "create", below, "--table", f"{table} {lab.disk(MIB)} 0")
    run("dmsetup", "mknodes")
    run("dmsetup", "create", above, "--uuid", f"DMSNAP-test-{key}", "--table",
        f"{table} /dev/mapper/{below} 0")  # fmt: skip
    run("dmsetup", "mknodes")
    run("dmsetup", "suspend", below)
    words = ["dd", f"if=/dev/mapper/{above}", "of=/dev/null", "count=1", "iflag=direct"]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as reader:
        try:
            wait_until("dd waits for the disk", lambda: requests_under_way(above))
            yield f"DMSNAP-test-{key}"
        finally:
            run("dmsetup", "resume", below)
            reader.wait(HANGS_SECONDS)
            run("dmsetup", "remove", "--retry", above, below)


def kill_when(condition: Callable[[], bool]) -> None:
    """Leave a process behind that kills this one as soon as something is so."""
    target = os.getpid()
    if os.fork() == 0:
        try:
            wait_until("it can be killed", condition)
            os.kill(target, signal.SIGKILL)
        finally:
            os._exit(0)


# Suspend the front and the origin, activate the snapshot, resume the origin and the front.
WINDOW_STEPS = 5


def held_up_behind(place: int, uuid: str, held_up: Callable[[], bool]) -> Callable[..., Any]:
    """A window that hangs behind so many of its steps, where the process is killed."""
    hang, ends = (
        WindowStep(uuid, action) for action in (WindowAction.SUSPEND, WindowAction.RESUME)
    )
    run_window = window.run

    def run_held_up(steps: list[WindowStep], *rest: Any, **options: Any) -> Any:
        if len(steps) == WINDOW_STEPS:
            kill_when(held_up)
            steps = [*steps[:place], hang, *steps[place:], ends]
        return run_window(steps, *rest, **options)

    return run_held_up


def test_window_killed(lab: Lab) -> None:
    """SIGKILL behind each step of a window, which cannot go on from there: a watchdog resumes it.

    The process dies when the front is suspended, as the kernel has it.
    """
    bench = Bench.made(lab)

    def held_up() -> bool:
        return any(bench.name in name for name in suspended())

    with hanging_device(lab) as uuid:
        for place in range(1, WINDOW_STEPS):
            bench.dirty()
            with patch.object(window, "run", held_up_behind(place, uuid, held_up)):
                ended = forked("point", "create", bench.name)
            assert ended.code == -signal.SIGKILL, ended
            wait_until("the watchdog has resumed it", lambda: not held_up())
            bench.require_usable(f"killed behind {place} steps of the window")
    dmsnap("sync", bench.name, "--audit", "full")
    for point in live_points_of(bench.name):
        dmsnap("point", "delete", point)
    assert len(dm_devices()) == 2
