"""Trials, reverting, and committing while somebody writes: in every order that users find."""

import json
import mmap
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest
from conftest import (
    MIB,
    Lab,
    catalogue_rows,
    configured,
    content_of,
    dm_devices,
    dmsnap,
    forked,
    rarely,
    refused,
    run,
    sha256,
    suspended,
    world,
)
from faulty_disk import faulty_disk
from patience import until
from test_interrupts import wait_resumed

from dmsnap._native.label import Label, LabelState
from dmsnap.errors import DmsnapError, ExitCode
from dmsnap.host.dm import device as dm
from dmsnap.recovery.replica import Replica
from dmsnap.service.journal import Step
from dmsnap.service.session import Session
from dmsnap.service.swaps import trial
from dmsnap.service.swaps.occupants import Occupants
from dmsnap.snapshot import stack

SIZE = 64 * MIB
RECOVERY_SIZE = 160 * MIB
CHECKERS = {"ext4": ("e2fsck", "-fn"), "xfs": ("xfs_repair", "-n")}


@contextmanager
def writing(directory: Path) -> Iterator[Path]:
    """A process that writes numbered lines with fsync and random data, and never stops."""
    script = (
        "import os, sys\n"
        "log = os.open(sys.argv[1] + '/log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
        "data = os.open(sys.argv[1] + '/data', os.O_RDWR | os.O_CREAT)\n"
        "number = 0\n"
        "while True:\n"
        "    os.pwrite(data, os.urandom(8192), number * 65536 % (2 << 20))\n"
        "    os.write(log, b'%08d\\n' % number)\n"
        "    os.fsync(log)\n"
        "    number += 1\n"
    )
    writer = subprocess.Popen(["python3", "-c", script, str(directory)])
    try:
        log = directory / "log"
        until(lambda: log.exists() and log.stat().st_size, "the writer has begun")
        yield log
        assert writer.poll() is None, "the writer saw an error"
    finally:
        writer.kill()
        writer.wait()


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines()


def require_complete(log: Path) -> None:
    """What was killed while it wrote may have left a part of its last line."""
    whole = log.read_text().rpartition("\n")[0].splitlines()
    assert whole == [f"{number:08d}" for number in range(len(whole))]


def three_points(lab: Lab, fs_type: str = "ext4") -> tuple[str, str, str, Path, list[bytes]]:
    """A volume with four points on its recovery volume, and the content of ``file`` in each."""
    factor = 5 if fs_type == "xfs" else 1
    primary, recovery = lab.disk(SIZE * factor), lab.disk(RECOVERY_SIZE * factor)
    mount_point = lab.mounted(primary, fs_type, "noatime")
    (mount_point / "untouched").write_bytes(os.urandom(3 * MIB))
    contents = [os.urandom(100_000)]
    (mount_point / "file").write_bytes(contents[0])
    name = lab.protect(primary, recovery)
    for _ in range(3):
        contents.append(os.urandom(100_000))
        (mount_point / "file").write_bytes(contents[-1])
        dmsnap("sync", name)
    return name, primary, recovery, mount_point, contents


def newest_first(name: str) -> list[str]:
    return [point["id"] for point in reversed(dmsnap("point", "list", name))]


@pytest.mark.parametrize(
    ("fs_type", "steps_back"), [("ext4", 0), ("ext4", 1), ("ext4", 3), ("xfs", 3)]
)
def test_commit_while_somebody_writes(lab: Lab, fs_type: str, steps_back: int) -> None:
    name, primary, recovery, mount_point, contents = three_points(lab, fs_type)
    untouched = (mount_point / "untouched").read_bytes()
    wanted = newest_first(name)[steps_back]
    dmsnap("swap", name, "--to", wanted, "--trial")
    before = sha256(primary)
    with writing(mount_point) as log:
        result = dmsnap("swap", "commit", name)
        committed = len(lines(log))
        until(lambda: len(lines(log)) > committed, "the writer goes on")
    assert result["state"] == "promoted"
    assert [step for step in result["steps"] if step.startswith("merge-")][-1] == "merge-overlay"
    assert len([step for step in result["steps"] if step.startswith("merge-")]) == steps_back + 1
    require_complete(log)
    assert (mount_point / "file").read_bytes() == contents[3 - steps_back]
    assert (mount_point / "untouched").read_bytes() == untouched

    # The stack is that of any volume, over the former recovery volume, and points can be taken.
    assert sha256(primary) == before
    assert len(dm_devices()) == 2
    (point,) = dmsnap("point", "create", name)
    (mount_point / "file").write_bytes(b"later")
    at = Path(dmsnap("point", "mount", point["id"])["mount_point"])
    assert (at / "file").read_bytes() == contents[3 - steps_back]
    dmsnap("point", "umount", point["id"])
    dmsnap("point", "delete", point["id"])
    refused(ExitCode.WRONG_STATE, "sync", name)
    dmsnap("unprotect", name)
    assert f"{recovery} {mount_point} {fs_type}" in Path("/proc/mounts").read_text()
    assert (mount_point / "file").read_bytes() == b"later"
    run("umount", mount_point)
    run(*CHECKERS[fs_type], recovery)
    assert sha256(primary) == before
    assert list((lab.directory / "store").iterdir()) == []


def commit_steps(name: str, *options: str) -> int:
    return len(dmsnap("swap", "commit", name, "--dry-run", *options)["steps"])


def test_commit_killed_at_every_step_is_finished_by_running_it_again(lab: Lab) -> None:
    """One volume, one commit, killed again and again: data is served all the time."""
    name, primary, recovery, mount_point, contents = three_points(lab)
    dmsnap("swap", name, "--to", newest_first(name)[2], "--trial")
    before = sha256(primary)
    (mount_point / "in-trial").write_bytes(os.urandom(5 * MIB))
    written = (mount_point / "in-trial").read_bytes()
    moments = [
        (number, state) for number in range(commit_steps(name)) for state in ("begun", "done")
    ]
    for at in moments:
        ended = forked("swap", "commit", name, at=at, send=(signal.SIGKILL,))
        if ended.code == 0 or ended.code == ExitCode.WRONG_STATE:
            break
        assert ended.code == -signal.SIGKILL, (at, ended)
        subprocess.run(
            ["sh", "-c", f"echo {at[0]} >{mount_point}/probe; sync -f {mount_point}"],
            check=True, timeout=120,
        )  # fmt: skip
        ((state,),) = catalogue_rows("select state from volume where removed_ns is null")
        if state == "promoted":
            break
        assert state in ("trial", "committing"), at
        if state == "committing":
            # Whatever comes next finishes it first; who only looks is told.
            (status,) = dmsnap("status", name, expected=ExitCode.UNHEALTHY)
            assert any("commit" in problem for problem in status["problems"])
    # Finished, there is no way back.
    refused(ExitCode.WRONG_STATE, "swap", "revert", name)
    assert catalogue_rows("select state from volume where removed_ns is null") == [("promoted",)]
    assert (mount_point / "file").read_bytes() == contents[1]
    assert (mount_point / "in-trial").read_bytes() == written
    assert sha256(primary) == before
    (point,) = dmsnap("point", "create", name)
    dmsnap("point", "delete", point["id"])
    assert len(dm_devices()) == 2
    dmsnap("unprotect", name)
    run("umount", mount_point)
    run("e2fsck", "-fn", recovery)
    assert list((lab.directory / "store").iterdir()) == []


@pytest.mark.parametrize("after", [rarely(0.002), 0.01, rarely(0.1), 0.4])
def test_commit_killed_while_the_kernel_merges(lab: Lab, after: float) -> None:
    """The merge goes on or stands still; the front serves, and the second run ends it."""
    name, _, recovery, mount_point, contents = three_points(lab)
    dmsnap("swap", name, "--to", newest_first(name)[1], "--trial")
    (mount_point / "large").write_bytes(os.urandom(5 * MIB))
    large = (mount_point / "large").read_bytes()
    run("sync")
    with writing(mount_point) as log:
        forked("swap", "commit", name, at=(1, "begun"), send=(signal.SIGKILL,), after=after)
        assert wait_resumed() == []
        if catalogue_rows("select * from volume where state != 'promoted' and removed_ns is null"):
            dmsnap("swap", "commit", name)
    require_complete(log)
    assert (mount_point / "large").read_bytes() == large
    assert (mount_point / "file").read_bytes() == contents[2]
    dmsnap("unprotect", name)
    run("umount", mount_point)
    run("e2fsck", "-fn", recovery)


def test_interrupted_commit_serves_and_is_finished(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM as soon as the kernel merges: nothing is undone, and the next commit ends it."""
    name, primary, recovery, mount_point, contents = three_points(lab)
    dmsnap("swap", name, "--to", newest_first(name)[1], "--trial")
    (mount_point / "large").write_bytes(os.urandom(5 * MIB))
    large, before = (mount_point / "large").read_bytes(), sha256(primary)
    wait_merged = dm.wait_merged

    def interrupted(device: str, deadline_seconds: float) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        wait_merged(device, deadline_seconds)

    with monkeypatch.context() as patched:
        patched.setattr(dm, "wait_merged", interrupted)
        ended = forked("swap", "commit", name)
    assert ended.code == 143, ended
    assert f"swap commit {name} finishes" in ended.stderr
    assert suspended() == []
    assert "snapshot-merge" in run("dmsetup", "table")
    assert catalogue_rows("select state from volume where removed_ns is null") == [("committing",)]
    (status,) = dmsnap("status", name, expected=ExitCode.UNHEALTHY)
    assert any("commit" in problem for problem in status["problems"])
    (mount_point / "probe").write_text("x")
    run("sync", "-f", mount_point)
    dmsnap("swap", "commit", name)
    assert (mount_point / "file").read_bytes() == contents[2]
    assert (mount_point / "large").read_bytes() == large
    assert (mount_point / "probe").read_text() == "x"
    assert len(dm_devices()) == 2
    assert sha256(primary) == before
    dmsnap("unprotect", name)
    assert list((lab.directory / "store").iterdir()) == []
    run("umount", mount_point)
    run("e2fsck", "-fn", recovery)


def test_swap_while_the_mount_is_busy(lab: Lab) -> None:
    """The process is named, and everything is as before: in a trial's begin and at its end."""
    name, primary, recovery, mount_point, _ = three_points(lab)
    path = Path("/etc/dmsnap/dmsnap.toml")
    path.parent.mkdir(exist_ok=True)
    path.write_text("unmount_wait_seconds = 0.5\n")
    try:
        for words in (("swap", name, "--trial"), ("swap", "revert", name), ("unprotect", name)):
            with (mount_point / "open").open("w"):
                before = world(lab)
                replica = sha256(recovery, SIZE)
                sentence = refused(ExitCode.BUSY, *words)
                assert f"pid {os.getpid()}" in sentence
                assert str(mount_point / "open") in sentence
                assert world(lab) == before
                assert sha256(recovery, SIZE) == replica
            dmsnap(*words)
    finally:
        path.unlink()
    assert f"{primary} {mount_point}" in Path("/proc/mounts").read_text()


def test_swap_while_the_front_is_open(lab: Lab) -> None:
    """Not mounted, and still in use: what it shows must not change under its user."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    name = lab.protect(primary, recovery)
    for words in (("swap", name, "--trial"), ("swap", "revert", name), ("unprotect", name)):
        with open(f"/dev/mapper/{name}", "rb"):
            before = world(lab, recovery)
            sentence = refused(ExitCode.BUSY, *words)
            assert f"pid {os.getpid()}" in sentence
            assert world(lab, recovery) == before
        dmsnap(*words)


def test_what_is_used_by_now_is_not_taken_back(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something fails when all is mounted again, and a unit uses it: the front's table is not
    exchanged under a mounted file system, which would go on writing as if nothing had happened.
    """
    name, primary, recovery, mount_point, _ = three_points(lab)
    files: list[IO[str]] = []
    contents: list[tuple[str, str]] = []

    def use() -> None:
        contents.append((sha256(primary), sha256(recovery, SIZE)))
        files.append((mount_point / f"used-{len(files)}").open("w"))
        raise DmsnapError("and then something fails")

    def failed(*words: object) -> None:
        steps = [Step("use", "use it", use)]
        with monkeypatch.context() as patch, configured("unmount_wait_seconds = 0.5"):
            patch.setattr(Occupants, "steps_after", lambda _: steps)
            dmsnap(*words, expected=ExitCode.FAILURE)
        assert suspended() == []
        assert os.path.ismount(mount_point)
        files[-1].write("written")
        files[-1].close()
        run("sync", "-f", mount_point)

    failed("swap", name, "--trial")
    assert sha256(primary) == contents[-1][0]
    assert dmsnap("status", name, expected=None)[0]["state"] == "trial"
    dmsnap("swap", "revert", name)
    assert not (mount_point / "used-0").exists()
    dmsnap("swap", name, "--trial")

    failed("swap", "revert", name)
    assert dmsnap("status", name, expected=None)[0]["state"] == "protected"
    dmsnap("sync", name, "--audit", "full")
    assert (mount_point / "used-1").read_text() == "written"
    run("umount", mount_point)
    run("e2fsck", "-fn", f"/dev/mapper/{name}")
    run("mount", f"/dev/mapper/{name}", mount_point)

    dmsnap("swap", name, "--trial")
    dmsnap("swap", "commit", name)
    failed("failback", name)
    assert sha256(recovery, SIZE) == contents[-1][1]
    assert dmsnap("status", name, expected=None)[0]["state"] == "protected"
    assert (mount_point / "used-2").read_text() == "written"
    dmsnap("sync", name, "--audit", "full")
    dmsnap("unprotect", name)
    assert (mount_point / "used-2").read_text() == "written"
    run("umount", mount_point)
    run("e2fsck", "-fn", primary)


def test_swap_of_an_unmounted_volume(lab: Lab) -> None:
    """Byte for byte, without a file system."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    run("dd", "if=/dev/urandom", f"of={primary}", "bs=1M", "count=8", "oflag=direct")
    name = lab.protect(primary, recovery)
    front = f"/dev/mapper/{name}"
    contents = [sha256(front)]
    for seek in (1, 3):
        run("dd", "if=/dev/urandom", f"of={front}", "bs=1M", "count=4", f"seek={seek}",
            "oflag=direct")  # fmt: skip
        dmsnap("sync", name)
        contents.append(sha256(front))
    run("dd", "if=/dev/zero", f"of={front}", "bs=1M", "count=32", "oflag=direct")
    spoiled = sha256(front)
    replica = sha256(recovery, SIZE)
    for point, content in zip(newest_first(name), reversed(contents), strict=True):
        dmsnap("swap", name, "--to", point, "--trial")
        assert sha256(front) == content
        run("dd", "if=/dev/urandom", f"of={front}", "bs=1M", "count=2", "oflag=direct")
        dmsnap("status", name)
        dmsnap("swap", "revert", name)
        assert sha256(front) == spoiled
        assert sha256(recovery, SIZE) == replica
    # The trial's era metadata is gone with it: the next sync sees what was written before it.
    assert dmsnap("sync", name, "--audit", "full")["audit"]["bytes_different"] == 0
    assert sha256(recovery, SIZE) == spoiled
    assert catalogue_rows("select * from area where role != 'era-metadata'") == []


def test_trial_and_live_points(lab: Lab) -> None:
    """Live points outlive a trial; a commit asks before it loses them."""
    name, _, _, mount_point, contents = three_points(lab)
    (live,) = dmsnap("point", "create", name)
    (mount_point / "file").write_bytes(b"after the point")
    dmsnap("swap", name, "--trial")
    refused(ExitCode.WRONG_STATE, "swap", name, "--trial")
    refused(ExitCode.WRONG_STATE, "sync", name)
    refused(ExitCode.WRONG_STATE, "point", "create", name)
    refused(ExitCode.WRONG_STATE, "unprotect", name)
    refused(ExitCode.WRONG_STATE, "swap", "commit", name)
    at = Path(dmsnap("point", "mount", live["id"])["mount_point"])
    assert (at / "file").read_bytes() == contents[3]
    refused(ExitCode.BUSY, "swap", "commit", name, "--drop-points")
    dmsnap("point", "umount", live["id"])
    dmsnap("status", name)
    dmsnap("swap", "revert", name)
    assert (mount_point / "file").read_bytes() == b"after the point"
    at = Path(dmsnap("point", "mount", live["id"])["mount_point"])
    assert (at / "file").read_bytes() == contents[3]
    dmsnap("point", "umount", live["id"])
    dmsnap("swap", name, "--trial")
    dmsnap("swap", "commit", name, "--drop-points")
    assert (mount_point / "file").read_bytes() == contents[3]
    assert len(dm_devices()) == 2
    assert dmsnap("point", "show", live["id"])["deletion"]


def test_full_overlay(lab: Lab) -> None:
    """A trial that writes more than its overlay takes: the primary is still there."""
    path = Path("/etc/dmsnap/dmsnap.toml")
    path.parent.mkdir(exist_ok=True)
    path.write_text("cow_percent = 1\n")
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    run("dd", "if=/dev/urandom", f"of={primary}", "bs=1M", "count=8", "oflag=direct")
    before = sha256(primary)
    try:
        name = lab.protect(primary, recovery)
        dmsnap("swap", name, "--trial")
    finally:
        path.unlink()
    subprocess.run(
        ["dd", "if=/dev/urandom", f"of=/dev/mapper/{name}", "bs=1M", "count=48", "oflag=direct"],
        capture_output=True, check=False,
    )  # fmt: skip
    (status,) = dmsnap("status", name, expected=ExitCode.UNHEALTHY)
    assert status["problems"]
    refused(ExitCode.POINT_INVALID, "swap", "commit", name)
    dmsnap("swap", "revert", name)
    assert sha256(f"/dev/mapper/{name}") == before
    dmsnap("status", name)


def test_a_window_of_several_volumes_is_one_moment(lab: Lab) -> None:
    """One writer numbers A, then B: no pair of points may have B ahead of A."""
    names, primaries = [], []
    for _ in range(2):
        primary = lab.disk(32 * MIB)
        primaries.append(primary)
        names.append(lab.protect(primary, lab.disk(48 * MIB)))
    script = (
        "import mmap, os, sys\n"
        "flags = os.O_RDWR | os.O_SYNC | os.O_DIRECT\n"
        "disks = [os.open(path, flags) for path in sys.argv[1:]]\n"
        "page = mmap.mmap(-1, 4096)\n"
        "number = 1\n"
        "while True:\n"
        "    page[:8] = number.to_bytes(8, 'little')\n"
        "    for disk in disks:\n"
        "        os.pwrite(disk, page, 4096 * (number % 1024))\n"
        "        os.pwrite(disk, page, 16 << 20)\n"
        "    number += 1\n"
    )
    fronts = [f"/dev/mapper/{name}" for name in names]
    pairs, newest = [], 0
    with subprocess.Popen(["python3", "-c", script, *fronts]) as writer:
        try:
            for round_number in range(6):
                until(lambda: written_to(fronts[1]) > newest, "the writer goes on")  # noqa: B023
                order = names if round_number % 2 else list(reversed(names))
                points = {point["volume"]: point["id"]
                          for point in dmsnap("point", "create", *order)}  # fmt: skip
                pairs.append(tuple(number_in(name, points[name]) for name in names))
                newest = max(pairs[-1])
                for point in points.values():
                    dmsnap("point", "delete", point)
            assert writer.poll() is None
        finally:
            writer.kill()
    assert all(first - second in (0, 1) for first, second in pairs), pairs
    assert len(set(pairs)) == len(pairs), "the writer stood still"


def number_in(name: str, point: str) -> int:
    """The sequence number that a live point of a raw volume holds."""
    return written_to(f"/dev/mapper/dmsnap-{name}-point-{point.replace('-', '')[:12]}")


def written_to(device: str) -> int:
    """The sequence number that a device holds, read past the page cache."""
    descriptor = os.open(device, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, 4096) as page:
            os.preadv(descriptor, [page], 16 * MIB)
            return int.from_bytes(page[:8], "little")
    finally:
        os.close(descriptor)


def test_results(lab: Lab) -> None:
    """The shape of what swap writes."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    name = lab.protect(primary, recovery)
    (point,) = dmsnap("point", "list", name)
    started = dmsnap("swap", name)
    assert (started["volume"], started["state"], started["point"]) == (name, "trial", point["id"])
    assert started["seconds"] == pytest.approx(sum(started["steps"].values()))
    reverted = dmsnap("swap", "revert", name)
    assert (reverted["state"], reverted["point"]) == ("protected", None)
    json.dumps([started, reverted])


def test_a_revert_killed_after_its_load_cannot_be_committed(lab: Lab) -> None:
    """The front is on the primary again and the catalogue still says trial: only revert ends it."""
    primary, recovery = lab.disk(64 * MIB), lab.disk(128 * MIB)
    mount_point = lab.mounted(primary)
    (mount_point / "state").write_text("at the point")
    name = lab.protect(primary, recovery)
    (mount_point / "state").write_text("on the primary")
    run("sync")
    dmsnap("swap", name)
    run("umount", mount_point)
    trial_table = run("dmsetup", "table", name)
    with Session.open() as session:
        volume = session.catalogue.volume(name)
        primary_volume = replace(volume, generation=volume.generation - 1)
        areas = session.catalogue.areas(volume.id)
        trial.load_front(session, primary_volume, stack.era_area(primary_volume, areas))
    assert run("dmsetup", "table", name) != trial_table

    before = content_of(recovery)
    dmsnap("swap", "commit", name, expected=ExitCode.STACK_CHANGED)
    assert content_of(recovery) == before
    dmsnap("swap", "revert", name)
    assert (mount_point / "state").read_text() == "on the primary"
    assert dmsnap("status", name)[0]["problems"] == []


def test_a_commit_cut_off_before_its_last_label_is_finished(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The levels are merged and removed, and the label still says merging."""
    primary, recovery = lab.disk(64 * MIB), lab.disk(128 * MIB)
    mount_point = lab.mounted(primary)
    (mount_point / "state").write_text("at the point")
    name = lab.protect(primary, recovery)
    (mount_point / "state").write_text("later")
    dmsnap("sync", name)
    oldest = dmsnap("point", "list", name)[0]["id"]
    dmsnap("swap", name, "--to", oldest)
    (mount_point / "trial").write_text("written on trial")

    write_label = Replica.write_label

    def cut_off(replica: Replica, label: Label) -> None:
        if label.state is LabelState.PRIMARY:
            raise DmsnapError("the plug is pulled")
        write_label(replica, label)

    with monkeypatch.context() as patch:
        patch.setattr(Replica, "write_label", cut_off)
        dmsnap("swap", "commit", name, expected=ExitCode.FAILURE)
    assert dmsnap("status", name, expected=ExitCode.UNHEALTHY)[0]["state"] == "committing"
    dmsnap("swap", "commit", name)
    assert (mount_point / "state").read_text() == "at the point"
    assert (mount_point / "trial").read_text() == "written on trial"
    run("umount", mount_point)
    run("e2fsck", "-fn", f"/dev/mapper/{name}")


def test_commit_killed_when_all_but_tidying_was_done(lab: Lab) -> None:
    """The next command, whatever it is, gives the former primary back."""
    name, primary, _, mount_point, contents = three_points(lab)
    dmsnap("swap", name)
    dmsnap("swap", "revert", name)
    (live,) = dmsnap("point", "create", name)
    dmsnap("swap", name)
    last = commit_steps(name, "--drop-points") - 1
    words = ("swap", "commit", name, "--drop-points")
    ended = forked(*words, at=(last, "begun"), send=(signal.SIGKILL,))
    assert ended.code == -signal.SIGKILL
    (point,) = dmsnap("point", "create", name)
    assert [known["id"] for known in dmsnap("point", "list", name)] == [point["id"]]
    assert point["id"] != live["id"]
    dmsnap("point", "delete", point["id"])
    assert len(dm_devices()) == 2
    # The former primary's era metadata is kept for failback.
    assert catalogue_rows("select role, generation from area order by generation") == [
        ("era-metadata", 1), ("era-metadata", 2),
    ]  # fmt: skip
    assert len(list((lab.directory / "store").iterdir())) == 2
    assert (mount_point / "file").read_bytes() == contents[3]
    # Free for anybody.
    run("wipefs", "-qa", primary)


def test_what_hangs_of_a_commit_goes_on_with_the_next_command(lab: Lab) -> None:
    """Somebody killed the watchdog, too."""
    name, _, _, mount_point, contents = three_points(lab)
    dmsnap("swap", name)
    ended = forked("swap", "commit", name, at=(1, "begun"), send=(signal.SIGKILL,))
    assert ended.code == -signal.SIGKILL
    (origin,) = (device for device in dm_devices() if f"{name}-origin-2" in device)
    run("dmsetup", "suspend", "--nolockfs", origin)
    # Finished by the next command, which then finds no recovery volume; and the users go on.
    refused(ExitCode.WRONG_STATE, "sync", name)
    assert suspended() == []
    run("timeout", 120, "sh", "-c", f"echo x >{mount_point}/probe; sync -f {mount_point}")
    assert catalogue_rows("select state from volume where removed_ns is null") == [("promoted",)]
    assert (mount_point / "file").read_bytes() == contents[3]


def test_swap_when_the_primary_is_dead(lab: Lab) -> None:
    """Every request to it fails, under a mounted file system: nothing of it is needed."""
    with faulty_disk(lab, SIZE) as disk:
        mount_point = lab.mounted(disk.path)
        (mount_point / "file").write_text("one")
        name = lab.protect(disk.path, lab.disk(RECOVERY_SIZE))
        dmsnap("sync", name)
        (mount_point / "file").write_text("two")
        disk.load(((0, SIZE), "error"))
        dmsnap("swap", name)
        assert (mount_point / "file").read_text() == "one"
        # There is nothing to go back to: still in trial.
        refused(ExitCode.PROGRAM_FAILED, "swap", "revert", name)
        assert (mount_point / "file").read_text() == "one"
        (mount_point / "file").write_text("three")
        dmsnap("swap", "commit", name)
        assert (mount_point / "file").read_text() == "three"
        dmsnap("unprotect", name)
        assert dm_devices() == []
        run("umount", mount_point)


def test_back_from_a_recovery_volume_that_died(lab: Lab) -> None:
    """In a trial, over an earlier point: the volume itself is there, and needs nothing of it."""
    with faulty_disk(lab, RECOVERY_SIZE) as disk:
        primary = lab.disk(SIZE)
        mount_point = lab.mounted(primary)
        (mount_point / "file").write_text("one")
        name = lab.protect(primary, disk.path)
        (mount_point / "file").write_text("two")
        dmsnap("sync", name)
        dmsnap("swap", name, "--to", newest_first(name)[1])
        assert (mount_point / "file").read_text() == "one"
        (mount_point / "trial").write_text("written on trial")
        disk.load(((0, RECOVERY_SIZE), "error"))
        dmsnap("swap", "revert", name)
        assert (mount_point / "file").read_text() == "two"
        assert not (mount_point / "trial").exists()
        disk.load()
        dmsnap("sync", name, "--audit", "full")
        dmsnap("unprotect", name, "--forget")
        run("umount", mount_point)
