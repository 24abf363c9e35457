"""Hooks that fail, hang, print without end, or could have been changed by others."""

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    MIB,
    Lab,
    configured,
    dm_devices,
    dmsnap,
    forked,
    run,
    suspended,
    wait_until,
)
from raw_volume import Protected, check_tidy, protected, write_direct
from test_jobs import step_number
from test_resize import enlarge

from dmsnap.catalogue import jobs
from dmsnap.catalogue.model import StepState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import ExitCode
from dmsnap.service.schedules.hooks import PAIRS, Phase

SIZE = 12 * MIB
KEPT_CHARACTERS = 65 * 1024


Trouble = Callable[["Hooked"], AbstractContextManager[None]]


class Hooked:
    """A volume under a policy with hooks, which are scripts."""

    def __init__(self, lab: Lab) -> None:
        # Nobody else may write to any directory on the way: those of a scenario are root's.
        self.directory = lab.directory / "hooks"
        self.directory.mkdir(mode=0o755)
        self.volume: Protected = protected(lab, SIZE)
        self.tables: list[str] = []
        self.names: list[str] = []
        self.keys: list[str] = []

    def hook(self, name: str, phase: str, script: str, *keys: str) -> Path:
        path = self.directory / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        self.names.append(name)
        command = json.dumps([str(path)])
        self.tables += [f"[hook.{name}]", f'phase = "{phase}"', f"command = {command}", *keys]
        return path

    def run(self, *words: object, expected: int = 0) -> Any:
        with configured(*self.lines):
            return dmsnap(*words, expected=expected)

    @property
    def lines(self) -> list[str]:
        policy = ["[policy.p]", f"hooks = {json.dumps(self.names)}", *self.keys]
        subclient = ["[subclient.s]", f'volumes = ["{self.volume.name}"]', 'policy = "p"']
        return [*self.tables, *policy, *subclient]

    @property
    def store(self) -> Path:
        """The directory of the volume's COW stores."""
        return self.directory.parent / "store"

    def point(self, expected: int = 0) -> Any:
        return self.run("point", "create", self.volume.name, expected=expected)

    def points(self) -> int:
        return len(dmsnap("point", "list", self.volume.name))


@pytest.fixture
def hooked(lab: Lab) -> Hooked:
    return Hooked(lab)


def last_job() -> Any:
    """The last job, as ``job show`` has it."""
    return dmsnap("job", "show", dmsnap("job", "list", "--count", 1)[0]["id"])


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has reaped yet does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def ran(job: Any) -> list[tuple[str, str, str]]:
    return [(each["step"], each["hook"], each["outcome"]) for each in job["hooks"]]


def test_one_that_fails_prevents_the_point_and_is_kept(hooked: Hooked) -> None:
    hooked.hook("stop", "presnapshot", "echo stopping; echo cannot stop >&2; exit 3")
    hooked.hook("start", "postsnapshot", 'echo "started, $DMSNAP_OUTCOME"')
    before = hooked.points()
    error = hooked.point(expected=ExitCode.PROGRAM_FAILED)
    assert "the presnapshot hook stop failed with 3: cannot stop" in error["error"]
    assert hooked.points() == before
    job = last_job()
    assert job["state"] == "undone"
    assert ran(job) == [
        ("presnapshot", "stop", "failed with 3"), ("presnapshot", "start", "is done"),
    ]  # fmt: skip
    stop, start = job["hooks"]
    assert stop["output"] == "stopping\ncannot stop\n"
    assert (start["phase"], start["output"]) == ("postsnapshot", "started, undone\n")
    assert stop["failed"]
    assert not start["failed"]
    assert suspended() == []
    shown = run("dmsnap", "job", "show", job["id"])
    assert "the presnapshot hook stop failed with 3 after" in shown
    assert "  cannot stop\n" in shown


def test_each_phase_has_its_turn(hooked: Hooked) -> None:
    """In a sync all of them; and one where a point goes that is given up, or that no rule keeps.

    One that need not work fails, is kept with the others, and is all that becomes of it.
    """
    log = hooked.directory / "log"
    for phase in Phase:
        hooked.hook(f"on-{phase}", phase, f'echo "$DMSNAP_PHASE $DMSNAP_OUTCOME" >>{log}')
    hooked.hook("try", "presnapshot", f"echo try >>{log}; echo no; exit 1", "required = false")
    hooked.keys.append("primary = { minimum = 1 }")

    def ran_by(*words: object) -> list[str]:
        log.write_text("")
        hooked.run(*words)
        return [line.strip() for line in log.read_text().splitlines()]

    assert ran_by("sync", hooked.volume.name) == [
        "presnapshot", "try", "postsnapshot done", "precopy", "postcopy done", "unsnap done",
    ]  # fmt: skip
    job = last_job()
    phases = ["presnapshot", "presnapshot", "postsnapshot", "precopy", "postcopy", "unsnap"]
    assert [each["step"] for each in job["hooks"]] == phases
    assert [each["outcome"] for each in job["hooks"] if each["failed"]] == ["failed with 1"]
    assert [each["output"] for each in job["hooks"] if each["hook"] == "try"] == ["no\n"]
    taking = ["presnapshot", "try", "postsnapshot done"]
    for _ in range(3):
        assert ran_by("point", "create", hooked.volume.name) == taking
    newest = dmsnap("point", "list", hooked.volume.name)[-1]["id"]
    assert ran_by("point", "delete", newest) == ["unsnap done"]
    assert ran(last_job()) == [("unsnap", "on-unsnap", "is done")]
    assert ran_by("prune", hooked.volume.name) == ["unsnap done"]
    assert ran(last_job()) == [("unsnap", "on-unsnap", "is done")]
    assert last_job()["operation"] == "prune"
    hooked.volume.check_equal()


def test_points_that_go_with_what_they_lie_on_go_without_hooks(lab: Lab, hooked: Hooked) -> None:
    """As the manual has it: whoever wants them run deletes the points before, and is told to."""
    log, volume = hooked.directory / "log", hooked.volume
    log.write_text("")
    hooked.hook("gone", "unsnap", f"echo gone >>{log}")
    name, dropping = volume.name, "--drop-points"
    hydrating = ("hydrate", name, "--onto", lab.disk(SIZE))

    def dropped_by(*words: object) -> None:
        hooked.point()
        if dropping in words:
            less = [word for word in words if word != dropping]
            hint = hooked.run(*less, expected=ExitCode.WRONG_STATE)["hint"]
            assert hint == "delete them, or give --drop-points"
        hooked.run(*words)
        assert ran(last_job()) == []

    dropped_by(*hydrating, dropping)
    enlarge(lab, hydrating[-1], 2 * SIZE)
    enlarge(lab, volume.recovery, 2 * SIZE + 64 * MIB)
    dropped_by("resize", name, dropping)
    hooked.point()
    hooked.run("swap", name)
    hooked.run("swap", "commit", name, expected=ExitCode.WRONG_STATE)
    hooked.run("swap", "commit", name, dropping)
    assert ran(last_job()) == []
    dropped_by("unprotect", name)
    assert log.read_text() == ""


def test_one_that_hangs_is_killed_at_its_deadline(hooked: Hooked) -> None:
    """With what it started; the volume is not held up meanwhile."""
    pid = hooked.directory / "pid"
    script = f"echo waiting\nsleep 600 &\necho $! > {pid}\nwait"
    hooked.hook("wait", "precopy", script, 'deadline = "8s"')
    error = hooked.run("sync", hooked.volume.name, expected=ExitCode.DEADLINE)
    assert "did not end within 8s and was killed: waiting" in error["error"]
    wait_until("what it started is dead", lambda: not is_alive(int(pid.read_text())))
    (run_of_it,) = last_job()["hooks"]
    assert run_of_it["output"] == "waiting\n"
    assert 8 <= run_of_it["seconds"] < 300
    assert suspended() == []
    hooked.names.clear()
    hooked.run("sync", hooked.volume.name)
    hooked.volume.check_equal()


def test_one_that_prints_megabytes_is_kept_in_part(hooked: Hooked) -> None:
    script = "echo the first line; head -c 16777216 /dev/urandom; echo; echo the last line"
    hooked.hook("talk", "postcopy", script)
    hooked.run("sync", hooked.volume.name)
    hooked.volume.check_equal()
    (run_of_it,) = last_job()["hooks"]
    output = run_of_it["output"]
    assert output.startswith("the first line\n")
    assert output.endswith("the last line\n")
    assert "left out" in output
    assert len(output) < KEPT_CHARACTERS
    assert all(each.isprintable() or each in "\n\t" for each in output)


# What a hook does, how it ends, and how a command does that it prevents.
FAULTS = {
    "fails": ("echo no; exit 3", "failed with 3", ExitCode.PROGRAM_FAILED),
    "hangs": ("echo no; sleep 600", "did not end within 1s and was killed", ExitCode.DEADLINE),
    "talks": ("head -c 8388608 /dev/zero | tr '\\0' x; echo no", "is done", ExitCode.OK),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("phase", list(Phase))
def test_in_whichever_phase_it_stops_no_application_for_good(
    hooked: Hooked, lab: Lab, phase: Phase, fault: str
) -> None:
    """Before something it prevents that, and what it had stopped is let go; behind it, nothing."""
    log = hooked.directory / "log"
    log.write_text("")
    script, outcome, code = FAULTS[fault]
    hooked.hook("faulty", phase, script, *(['deadline = "1s"'] if fault == "hangs" else []))
    for each in Phase:
        hooked.hook(f"on-{each}", each, f'echo "$DMSNAP_PHASE $DMSNAP_OUTCOME" >>{log}')
    expected = code if phase in PAIRS else ExitCode.OK
    write_direct(hooked.volume.front, os.urandom(4096), MIB)
    before = hooked.volume.replica_sha256()
    error = hooked.run("sync", hooked.volume.name, expected=expected)
    (faulty,) = [each for each in last_job()["hooks"] if each["hook"] == "faulty"]
    assert (faulty["phase"], faulty["outcome"]) == (phase, outcome)
    assert faulty["output"].endswith("no\n")
    assert len(faulty["output"]) < KEPT_CHARACTERS
    assert suspended() == []
    check_tidy(hooked.volume, lab)
    said = [line.strip() for line in log.read_text().splitlines()]
    taking, copying = ["presnapshot", "postsnapshot done"], ["precopy", "postcopy done"]
    if not expected:
        assert said == [*taking, *copying, "unsnap done"]
        hooked.volume.check_equal()
        return
    assert error["fields"]["output"] == faulty["output"]
    assert last_job()["state"] == "undone"
    assert (
        said
        == {
            Phase.PRESNAPSHOT: ["postsnapshot undone"],
            Phase.PRECOPY: [*taking, "postcopy undone"],
        }[phase]
    )
    assert hooked.volume.replica_sha256() == before
    hooked.names.remove("faulty")
    hooked.run("sync", hooked.volume.name)
    hooked.volume.check_equal()


@pytest.mark.parametrize("doubt", ["owner", "group", "others", "directory", "link"])
def test_what_others_could_have_changed_is_not_run(hooked: Hooked, doubt: str) -> None:
    trace = hooked.directory / "trace"
    path = hooked.hook("quiesce", "presnapshot", f"touch {trace}")
    if doubt == "owner":
        os.chown(path, 65534, 65534)
    elif doubt == "directory":
        hooked.directory.chmod(0o777)
    elif doubt == "link":
        target = hooked.directory / "target"
        path.rename(target)
        os.chown(target, 65534, 65534)
        path.symlink_to(target)
    else:
        path.chmod(0o775 if doubt == "group" else 0o757)
    before = hooked.points()
    error = hooked.point(expected=ExitCode.NOT_PERMITTED)
    assert "is not trusted" in error["error"]
    assert not trace.exists()
    assert hooked.points() == before
    (run_of_it,) = last_job()["hooks"]
    assert run_of_it["outcome"].startswith("was not run: ")
    assert run_of_it["seconds"] is None


def test_one_that_is_interrupted_is_killed_and_the_other_runs(hooked: Hooked) -> None:
    """In the middle of it: it is the hook that has the signal sent."""
    hooked.hook("stop", "presnapshot", "echo begun; kill -TERM $PPID; sleep 600")
    hooked.hook("start", "postsnapshot", "echo started")
    with configured(*hooked.lines):
        ended = forked("point", "create", hooked.volume.name)
    assert ended.code == 128 + signal.SIGTERM
    assert ran(last_job()) == [
        ("presnapshot", "stop", "was interrupted and killed"),
        ("presnapshot", "start", "is done"),
    ]


def test_one_that_outlives_its_command_stops_nothing_after_the_other_ran(hooked: Hooked) -> None:
    state, pid = hooked.directory / "state", hooked.directory / "pid"
    script = f"echo $$ >{pid}; kill -KILL $PPID; sleep 600; echo stopped >{state}"
    hooked.hook("stop", "presnapshot", script)
    hooked.hook("start", "postsnapshot", f"echo started >{state}")
    with configured(*hooked.lines):
        ended = forked("point", "create", hooked.volume.name)
        assert ended.code == -signal.SIGKILL
        assert is_alive(int(pid.read_text()))
        dmsnap("job", "resume", "--all")
    assert state.read_text() == "started\n"
    assert not is_alive(int(pid.read_text()))


def test_what_a_killed_command_left_to_run_is_kept_with_its_job(hooked: Hooked) -> None:
    hooked.hook("stop", "presnapshot", "echo stopped")
    hooked.hook("start", "postsnapshot", 'echo "started, $DMSNAP_OUTCOME"')
    hooked.hook("gone", "unsnap", 'echo "gone, $DMSNAP_OUTCOME"')
    create, sync = ("point", "create", hooked.volume.name), ("sync", hooked.volume.name)
    with configured(*hooked.lines):
        job = killed(*create, at=(step_number(*create, name="presnapshot"), "done"))
        (point,) = dmsnap(*create)
        assert outputs(job) == ["stopped\n", "started, cut off\n"]
        # The snapshot of a sync goes by clearing, that of a point as its deletion is finished.
        job = killed(*sync, at=(step_number(*sync, name="remove-point"), "begun"))
        deletion = killed("point", "delete", point["id"], at=(0, "done"))
        assert outputs(job) == ["stopped\n", "started, done\n", "gone, cut off\n"]
        assert outputs(deletion) == []
        for _ in range(2):
            dmsnap("job", "resume", "--all")
            assert outputs(deletion) == ["gone, cut off\n"]
    assert dmsnap("job", "show", deletion)["state"] == "done"
    assert point["id"] not in str(dmsnap("point", "list", hooked.volume.name))
    assert suspended() == []


@contextlib.contextmanager
def held_open(hooked: Hooked) -> Iterator[None]:
    """Somebody reads the snapshots of the volume."""
    names = [each for each in dm_devices() if f"-{hooked.volume.name}-point-" in each]
    assert names
    with contextlib.ExitStack() as opened:
        for name in names:
            opened.enter_context(Path("/dev/mapper", name).open("rb"))
        yield


@contextlib.contextmanager
def immovable_stores(hooked: Hooked) -> Iterator[None]:
    """The device goes, its COW store does not: as where the store's disk has failed."""
    files = list(hooked.store.iterdir())
    run("chattr", "+i", *files)
    try:
        yield
    finally:
        run("chattr", "-i", *files)


@pytest.mark.parametrize(
    ("trouble", "code"), [(held_open, ExitCode.BUSY), (immovable_stores, ExitCode.NOT_PERMITTED)]
)
def test_a_snapshot_that_could_not_go_is_told_of_once_it_is_gone(
    hooked: Hooked,
    lab: Lab,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Trouble,
    code: ExitCode,
) -> None:
    """By whoever removes it, once, and not before; a sync of then has its own."""
    log = hooked.directory / "log"
    hooked.hook("start", "postcopy", f'echo "start $DMSNAP_OUTCOME" >>{log}')
    hooked.hook("gone", "unsnap", f'echo "gone $DMSNAP_OUTCOME" >>{log}')
    with configured(*hooked.lines):
        step = step_number("sync", hooked.volume.name, name="remove-point")
    with contextlib.ExitStack() as stack:
        with monkeypatch.context() as patch:
            at_step(step, lambda: stack.enter_context(trouble(hooked)), patch)
            error = hooked.run("sync", hooked.volume.name, expected=code)
        job = last_job()["id"]
        assert log.read_text() == "start done\n"
        (resumed,) = hooked.run("job", "resume", "--all", expected=ExitCode.WRONG_STATE)
        assert resumed["job"]["state"] == "cut off"
        assert resumed["job"]["outcome"] == error["error"]
        assert log.read_text() == "start done\n"
        hooked.volume.check_equal()
    hooked.run("job", "resume", "--all")
    assert log.read_text() == "start done\ngone cut off\n"
    check_tidy(hooked.volume, lab)
    concluded = dmsnap("job", "show", job)
    assert (concluded["state"], outputs(job)) == ("done", ["", ""])
    assert concluded["outcome"] == f"cut off at remove-point: {error['error']}"
    hooked.run("sync", hooked.volume.name)
    assert log.read_text().splitlines()[2:] == ["start done", "gone done"]


def test_a_prune_tells_of_those_that_went_where_one_could_not(hooked: Hooked, lab: Lab) -> None:
    """At once: no later command removes those, and so none would run the hooks."""
    log = hooked.directory / "log"
    hooked.hook("gone", "unsnap", f'echo "gone $DMSNAP_OUTCOME" >>{log}')
    hooked.keys += ["primary = { minimum = 1 }", "history = { minimum = 1 }"]
    hooked.run("sync", hooked.volume.name)
    log.unlink()
    first, second, third, newest = (hooked.point()[0]["id"] for _ in range(4))
    (held,) = (each for each in dm_devices() if second.replace("-", "")[:12] in each)
    with Path("/dev/mapper", held).open("rb"):
        (result,) = hooked.run("prune", hooked.volume.name, expected=ExitCode.BUSY)
        assert log.read_text() == "gone done\n"
        assert held in result["error"]
        assert live_points(hooked) == {second, newest}
        shown = {each["point"]: each["action"] for each in result["points"]}
        assert (shown[first], shown[second], shown[third]) == ("drop", "stay", "drop")
        # What the history had to give went beside it.
        assert [each["state"] for each in dmsnap("job", "list", "--count", 2)] == ["done", "failed"]
        assert len(hooked.volume.label()["history"]) == 0
        assert dmsnap("point", "show", first)["deletion"]["deleted_reason"] == "prune"
    hooked.run("prune", hooked.volume.name)
    assert log.read_text() == "gone done\n" * 2
    assert live_points(hooked) == {newest}
    dmsnap("point", "delete", newest)
    hooked.volume.check_equal()
    check_tidy(hooked.volume, lab)


def live_points(hooked: Hooked) -> set[str]:
    points = dmsnap("point", "list", hooked.volume.name)
    return {
        each["id"] for each in points if any(place["kind"] == "live" for place in each["places"])
    }


def at_step(position: int, happens: Callable[[], object], patch: pytest.MonkeyPatch) -> None:
    """Something happens as soon as it is recorded that a step has begun."""
    recorded = jobs.record_step

    def record_step(
        catalogue: Catalogue, job_id: int, at: int, state: StepState, seconds: float | None
    ) -> None:
        recorded(catalogue, job_id, at, state, seconds)
        if (at, state) == (position, StepState.BEGUN):
            happens()

    patch.setattr(jobs, "record_step", record_step)


def killed(*words: object, at: tuple[int, str]) -> int:
    """SIGKILL as soon as a step is so far; returns the number of the job."""
    assert forked(*words, at=at, send=(signal.SIGKILL,)).code == -signal.SIGKILL
    return int(dmsnap("job", "list", "--count", 1)[0]["id"])


def outputs(job: int) -> list[str]:
    """What its hooks wrote, each."""
    return [each["output"] for each in dmsnap("job", "show", job)["hooks"]]
