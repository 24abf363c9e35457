"""Jobs that were cut off: listed, finished or taken back by whoever comes next, begun anew."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    MIB,
    Ended,
    Lab,
    catalogue_rows,
    dm_devices,
    dmsnap,
    dmsnap_process,
    forked,
    rarely,
    refused,
    run,
    sha256,
    suspended,
    world,
)
from lost_state import write_label
from patience import until

from dmsnap.errors import ExitCode

SIZE = 32 * MIB
KILLED = -signal.SIGKILL
# What :meth:`Bench.write` changes takes half a minute then, in each of the two steps that copy.
SLOWLY = "64KiB"


class Bench:
    """A mounted volume, protected or about to be."""

    def __init__(self, lab: Lab, *, protected: bool = True) -> None:
        self.name = lab.name()
        self.primary, self.recovery = lab.disk(SIZE), lab.disk(2 * SIZE)
        self.mount_point = lab.mounted(self.primary)
        self.protect = ("protect", self.primary, "--name", self.name,
                        "--recovery", self.recovery, "--store", lab.store())  # fmt: skip
        self.write("first")
        if protected:
            dmsnap(*self.protect)

    def write(self, text: str) -> None:
        (self.mount_point / "note").write_text(text)
        (self.mount_point / "bulk").write_bytes(os.urandom(2 * MIB))
        run("sync", "-f", self.mount_point)

    @property
    def note(self) -> str:
        assert os.path.ismount(self.mount_point)
        return (self.mount_point / "note").read_text()

    @property
    def state(self) -> str | None:
        rows = catalogue_rows(
            f"select state from volume where name = '{self.name}' and removed_ns is null"  # noqa: S608
        )
        return str(rows[0][0]) if rows else None


def killed(*words: object, at: str) -> dict[str, Any]:
    """SIGKILL as soon as a step has begun; returns the job as it is listed then."""
    position = step_number(*words, name=at)
    ended = forked(*words, at=(position, "begun"), send=(signal.SIGKILL,))
    assert ended.code == KILLED, ended
    return last_job()


def step_number(*words: object, name: str) -> int:
    """Steps are printed in words: their names are known from a run that ended before the first."""
    ended = forked(*words, at=(0, "begun"), send=(signal.SIGTERM,))
    assert ended.code == 128 + signal.SIGTERM, ended
    return [step["name"] for step in last_job()["steps"]].index(name)


def last_job() -> dict[str, Any]:
    return dict(dmsnap("job", "list", "--count", 1)[0])


def job(number: int) -> dict[str, Any]:
    return dict(dmsnap("job", "show", number))


def command(*words: object) -> Ended:
    """A command with what it says beside its result."""
    return forked(*words)


def test_jobs_are_listed_with_their_steps(lab: Lab) -> None:
    bench = Bench(lab)
    dmsnap("sync", bench.name)
    shown = last_job()
    assert (shown["operation"], shown["state"], shown["volumes"]) == ("sync", "done", [bench.name])
    assert shown["arguments"]["name"] == bench.name
    assert all(step["state"] == "done" and step["seconds"] >= 0 for step in shown["steps"])
    assert [each["operation"] for each in dmsnap("job", "list")] == ["sync", "protect"]
    dmsnap("job", "show", shown["id"] + 1, expected=4)
    dmsnap("job", "abort", shown["id"], expected=22)
    assert dmsnap("job", "resume", shown["id"])["result"] is None
    assert dmsnap("job", "resume", "--all") == []


@pytest.mark.parametrize(
    "at", ["window", "apply", *map(rarely, ("create-cow", "prepare-point", "write-undo"))]
)
def test_a_sync_is_begun_anew(lab: Lab, at: str) -> None:
    bench = Bench(lab)
    bench.write("second")
    cut_off = killed("sync", bench.name, at=at)
    assert (cut_off["state"], cut_off["at"]) == ("cut off", at)
    resumed = dmsnap("job", "resume", cut_off["id"])
    assert resumed["job"]["state"] == "undone"
    assert resumed["job"]["outcome"] == f"cut off at {at}"
    assert resumed["result"]["volume"] == bench.name
    run("umount", bench.mount_point)
    dmsnap("sync", bench.name)
    assert sha256(bench.recovery, SIZE) == sha256(bench.primary)


def test_volumes_are_settled_beside_each_other(lab: Lab) -> None:
    """As after a boot: each in a process of its own, where several have something left."""
    benches = Bench(lab), Bench(lab)
    for bench in benches:
        bench.write("second")
        killed("sync", bench.name, at="apply")
    resumed = dmsnap("job", "resume", "--all")
    assert [each["job"]["volumes"] for each in resumed] == [[bench.name] for bench in benches]
    assert {(each["job"]["state"], each["job"]["outcome"]) for each in resumed} == {
        ("undone", "cut off at apply")
    }
    for bench in benches:
        run("umount", bench.mount_point)
        dmsnap("sync", bench.name)
        assert sha256(bench.recovery, SIZE) == sha256(bench.primary)


def test_the_next_command_says_what_it_did(lab: Lab) -> None:
    bench = Bench(lab)
    cut_off = killed("sync", bench.name, at="apply")
    after = command("point", "create", bench.name)
    assert after.code == 0, after
    said = f"sync of {bench.name} was cut off at apply: it is undone now (job {cut_off['id']})"
    assert said in after.stderr
    assert command("point", "create", bench.name).stderr == ""


@pytest.mark.parametrize(
    "at", ["create-stack", "copy", *map(rarely, ("record", "unmount", "hide-twins", "mount"))]
)
def test_a_protect_is_taken_back(lab: Lab, at: str) -> None:
    bench = Bench(lab, protected=False)
    assert killed(*bench.protect, at=at)["state"] == "cut off"
    assert bench.state == (None if at == "record" else "building")
    dmsnap("job", "resume", "--all")
    assert bench.state is None
    assert bench.note == "first"
    assert dm_devices() == []
    assert run("wipefs", "-n", bench.recovery) == ""
    dmsnap("inspect", "label", bench.recovery, expected=13)
    dmsnap(*bench.protect)
    assert bench.note == "first"


def test_a_protect_is_begun_anew(lab: Lab) -> None:
    bench = Bench(lab, protected=False)
    cut_off = killed(*bench.protect, at="copy")
    resumed = dmsnap("job", "resume", cut_off["id"])
    assert resumed["result"]["volume"] == bench.name
    assert bench.state == "protected"
    assert bench.note == "first"


@pytest.mark.parametrize("ahead_ns", [0, 30 * 86400 * 10**9])
@pytest.mark.parametrize(("at", "state"), [("apply", "undone"), ("record-protected", "done")])
def test_to_protect_anew_is_taken_back_whatever_the_clock_said(
    lab: Lab, at: str, state: str, ahead_ns: int
) -> None:
    """The recovery volume was there before, and its point was taken with a clock that was ahead."""
    bench = Bench(lab)
    dmsnap("unprotect", bench.name)
    former = write_label(bench.recovery, point_time_ns=time.time_ns() + ahead_ns)
    bench.write("second")
    content = sha256(bench.recovery, SIZE)
    cut_off = killed(*bench.protect, at=at)
    dmsnap("job", "resume", "--all")
    assert job(cut_off["id"])["state"] == state
    now = dmsnap("inspect", "label", bench.recovery)
    assert now["state"] == "consistent"
    assert (now["point_uuid"] == str(former.point_uuid)) is (state == "undone")
    assert (sha256(bench.recovery, SIZE) == content) is (state == "undone")
    assert bench.state == (None if state == "undone" else "protected")
    assert bench.note == "second"


def test_to_protect_anew_goes_on_where_only_its_end_failed(lab: Lab) -> None:
    """Behind its copy nothing is taken back: the next command finishes it."""
    bench = Bench(lab)
    dmsnap("unprotect", bench.name)
    bench.write("second")
    position = step_number(*bench.protect, name="remove-point")

    def hold_the_point() -> None:
        (point,) = Path("/dev/mapper").glob(f"dmsnap-{bench.name}-point-*")
        os.open(point, os.O_RDONLY)

    ended = forked(*bench.protect, at=(position, "begun"), happens=hold_the_point)
    assert ended.code == ExitCode.BUSY, ended
    assert (bench.state, last_job()["state"]) == ("building", "cut off")
    dmsnap("job", "resume", "--all")
    assert (bench.state, last_job()["state"]) == ("protected", "done")
    assert bench.note == "second"
    result = dmsnap("sync", bench.name, "--audit", "full")
    assert result["tracker"] == "era"


def test_to_protect_again_takes_the_first_back(lab: Lab) -> None:
    bench = Bench(lab, protected=False)
    killed(*bench.protect, at="copy")
    dmsnap(*bench.protect)
    assert bench.state == "protected"


@pytest.mark.parametrize(
    ("at", "state"),
    [
        ("mark-merging", "trial"),
        ("merge-overlay", "promoted"),
        *(rarely(at, "promoted") for at in ("merge-1", "mark-primary", "record", "retire")),
    ],
)
def test_a_commit_is_finished_by_any_command(lab: Lab, at: str, state: str) -> None:
    bench = Bench(lab)
    for text in ("second", "third"):
        bench.write(text)
        dmsnap("sync", bench.name)
    earlier = dmsnap("point", "list", bench.name)[1]["id"]
    dmsnap("swap", bench.name, "--to", earlier)
    assert bench.note == "second"
    bench.write("trial")
    steps = ["mark-merging", "merge-1", "merge-overlay", "mark-primary", "record", "retire"]
    ended = forked("swap", "commit", bench.name, at=(steps.index(at), "begun"),
                   send=(signal.SIGKILL,))  # fmt: skip
    assert ended.code == KILLED, ended
    assert bench.note == "trial"
    command("point", "create", bench.name)
    assert suspended() == []
    assert (bench.state, bench.note) == (state, "trial")


def test_a_commit_that_was_cut_off_may_be_run_again(lab: Lab) -> None:
    bench = Bench(lab)
    dmsnap("swap", bench.name)
    bench.write("trial")
    ended = forked("swap", "commit", bench.name, at=(1, "begun"), send=(signal.SIGKILL,))
    assert ended.code == KILLED, ended
    assert dmsnap("swap", "commit", bench.name)["state"] == "promoted"
    assert bench.note == "trial"


@pytest.mark.parametrize(
    ("at", "state"), [("unmount", "trial"), ("record", "protected"), rarely("mount", "protected")]
)
def test_a_revert_is_taken_back_or_finished(lab: Lab, at: str, state: str) -> None:
    bench = Bench(lab)
    dmsnap("swap", bench.name)
    bench.write("trial")
    killed("swap", "revert", bench.name, at=at)
    dmsnap("job", "resume", "--all")
    assert bench.state == state
    assert bench.note == ("trial" if state == "trial" else "first")


@pytest.mark.parametrize(
    ("at", "state"),
    [
        ("load-front", "protected"),
        ("mount", "trial"),
        *(rarely(at, "protected") for at in ("show-point", "unmount")),
    ],
)
def test_a_swap_is_taken_back_or_finished(lab: Lab, at: str, state: str) -> None:
    bench = Bench(lab)
    cut_off = killed("swap", bench.name, at=at)
    dmsnap("job", "resume", "--all")
    assert (bench.state, bench.note) == (state, "first")
    assert job(cut_off["id"])["state"] == ("done" if state == "trial" else "undone")


@pytest.mark.parametrize(
    ("at", "state"),
    [
        ("unmount", "protected"),
        ("show-device", None),
        *(rarely(at, None) for at in ("mount", "release-store")),
    ],
)
def test_an_unprotect_is_taken_back_or_finished(lab: Lab, at: str, state: str | None) -> None:
    bench = Bench(lab)
    killed("unprotect", bench.name, at=at)
    dmsnap("job", "resume", "--all")
    assert (bench.state, bench.note) == (state, "first")
    if state is None:
        assert dm_devices() == []
        assert list(Path(lab.store()).iterdir()) == []
        dmsnap(*bench.protect)
    else:
        dmsnap("sync", bench.name)


def test_a_point_of_two_volumes_is_settled_for_both(lab: Lab) -> None:
    one, two = Bench(lab), Bench(lab)
    cut_off = killed("point", "create", one.name, two.name, at="window")
    assert sorted(cut_off["volumes"]) == sorted([one.name, two.name])
    dmsnap("sync", one.name)
    assert job(cut_off["id"])["state"] == "cut off"
    dmsnap("sync", two.name)
    assert job(cut_off["id"])["state"] == "undone"
    assert len(dm_devices()) == 4


def test_a_point_is_deleted_to_the_end(lab: Lab) -> None:
    bench = Bench(lab)
    (point,) = dmsnap("point", "create", bench.name)
    ended = forked("point", "delete", point["id"], at=(1, "begun"), send=(signal.SIGKILL,))
    assert ended.code == KILLED, ended
    dmsnap("job", "resume", "--all")
    assert point["id"] not in [each["id"] for each in dmsnap("point", "list", bench.name)]


def test_a_dry_run_concludes_no_other_job_of_the_volume(lab: Lab) -> None:
    """To begin a job anew holds the volume, by which what else was cut off there is concluded."""
    bench = Bench(lab)
    undone = killed("sync", bench.name, at="apply")["id"]
    assert dmsnap("job", "abort", undone)["state"] == "undone"
    dmsnap("swap", bench.name)
    ended = forked("swap", "commit", bench.name, at=(1, "begun"), send=(signal.SIGKILL,))
    assert ended.code == KILLED, ended
    cut_off, before = last_job(), world(lab)
    told = dmsnap("job", "resume", undone, "--dry-run")
    assert (last_job(), world(lab)) == (cut_off, before)
    concluded, begun = told["steps"]
    assert concluded.startswith(f"finish job {cut_off['id']}, swap commit of {bench.name}, which")
    assert begun == "begin sync anew"
    # What it tells is what comes to be: of a volume that is promoted then there is nothing to sync.
    assert "has no recovery volume" in refused(ExitCode.WRONG_STATE, "job", "resume", undone)
    assert job(cut_off["id"])["state"] == "done"


def test_what_a_job_left_suspended_that_was_undone_goes_on_with_the_next_command(lab: Lab) -> None:
    """As its watchdog would have had it go on, which is gone, too. What is nobody's job is not."""
    bench = Bench(lab)
    run("dmsetup", "suspend", bench.name)
    try:
        assert "is suspended" in refused(ExitCode.STACK_CHANGED, "point", "create", bench.name)
        assert suspended() == [bench.name]
    finally:
        run("dmsetup", "resume", bench.name)
    left_suspended(bench.name)
    try:
        dmsnap("point", "create", bench.name)
        assert suspended() == []
    finally:
        run("dmsetup", "resume", bench.name)
    assert bench.note == "first"


def left_suspended(name: str) -> None:
    """A job that is undone leaves the front suspended, and no watchdog is there to resume it."""

    def leave() -> None:
        run("dmsetup", "suspend", name)
        os.kill(os.getpid(), signal.SIGTERM)

    ended = forked("sync", name, at=(0, "begun"), happens=leave)
    assert ended.code == 128 + signal.SIGTERM, ended
    undone = last_job()
    assert undone["state"] == "undone"
    assert "left suspended: DMSNAP-" in undone["outcome"]
    assert suspended() == [name]


def test_what_an_administrator_suspended_after_a_job_that_failed_stays_so(lab: Lab) -> None:
    bench = Bench(lab)
    ended = forked("sync", bench.name, at=(0, "begun"), send=(signal.SIGTERM,))
    assert (ended.code, last_job()["state"]) == (128 + signal.SIGTERM, "undone")
    run("dmsetup", "suspend", bench.name)
    try:
        for _ in range(2):
            assert "is suspended" in refused(ExitCode.STACK_CHANGED, "point", "create", bench.name)
            dmsnap("job", "resume", "--volume", bench.name)
            assert suspended() == [bench.name]
    finally:
        run("dmsetup", "resume", bench.name)
    dmsnap("point", "create", bench.name)
    assert bench.note == "first"


def test_a_job_that_is_cut_off_is_aborted(lab: Lab) -> None:
    bench = Bench(lab)
    cut_off = killed("sync", bench.name, at="apply")
    assert dmsnap("job", "abort", cut_off["id"])["state"] == "undone"
    dmsnap("swap", bench.name)
    ended = forked("swap", "commit", bench.name, at=(1, "begun"), send=(signal.SIGKILL,))
    assert ended.code == KILLED, ended
    error = dmsnap("job", "abort", last_job()["id"], expected=22)
    assert "past its way back: it is done" in error["error"]
    assert bench.state == "promoted"


def test_a_job_under_way_is_aborted(lab: Lab) -> None:
    """Its process is asked to end, and undoes what it began."""
    bench = Bench(lab)
    bench.write("second")
    label, replica = dmsnap("inspect", "label", bench.recovery), sha256(bench.recovery, SIZE)
    with dmsnap_process("sync", bench.name, "--bandwidth", SLOWLY) as process:
        wait_until_at("write-undo")
        running = last_job()
        assert running["state"] == "running"
        dmsnap("job", "resume", running["id"], expected=22)
        assert dmsnap("job", "resume", "--all") == []
        assert dmsnap("job", "abort", running["id"])["state"] == "undone"
        process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert dmsnap("inspect", "label", bench.recovery)["point_uuid"] == label["point_uuid"]
    assert sha256(bench.recovery, SIZE) == replica


def wait_until_at(*steps: str) -> None:
    """Until a sync has come to one of the steps, which must take their time."""

    def is_there() -> bool:
        shown = last_job()
        return shown["operation"] == "sync" and shown["at"] in steps

    until(is_there, f"a sync at {' or '.join(steps)}")
