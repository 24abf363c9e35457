"""Swapping to a live point on the primary: trial, revert, and going back to it for good."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import (
    MIB,
    Lab,
    catalogue_rows,
    configured,
    dm_devices,
    dmsnap,
    forked,
    rarely,
    refused,
    run,
    sha256,
    world,
)
from patience import until
from raw_volume import write_direct

from dmsnap.errors import ExitCode

SIZE = 64 * MIB
RECOVERY_SIZE = 160 * MIB


def written(front: str, *places: int) -> None:
    for place in places:
        write_direct(front, os.urandom(256 * 1024 + 512), place * MIB)


def live_device(name: str, point: str) -> str:
    return f"/dev/mapper/dmsnap-{name}-point-{point.replace('-', '')[:12]}"


def three_live_points(lab: Lab) -> tuple[str, str, list[str], list[str], str]:
    """A raw volume with three live points: its primary, their ids, their contents, what is now."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    run("dd", "if=/dev/urandom", f"of={primary}", "bs=1M", "oflag=direct", "count=64")
    name = lab.protect(primary, recovery)
    front = f"/dev/mapper/{name}"
    points, contents = [], []
    for number in range(3):
        written(front, 3 * number, 20 + number)
        contents.append(sha256(front))
        points.append(dmsnap("point", "create", name)[0]["id"])
    written(front, 1, 3, 20, 40)
    return name, primary, points, contents, sha256(front)


@pytest.mark.parametrize("chosen", [1, rarely(0), rarely(2)])
def test_back_to_a_live_point_for_good(lab: Lab, chosen: int) -> None:
    """By sha256: the trial, the revert, the commit with what the trial wrote, the other points."""
    name, primary, points, contents, now = three_live_points(lab)
    front = f"/dev/mapper/{name}"
    replica = dmsnap("point", "list", name)[0]["id"]
    dmsnap("swap", name, "--to", points[chosen])
    assert sha256(front) == contents[chosen]
    written(front, 50)
    (status,) = dmsnap("status", name)
    assert (status["state"], status["trial_point"]) == ("trial", points[chosen])
    refused(ExitCode.WRONG_STATE, "point", "delete", points[chosen])
    dmsnap("swap", "revert", name)
    assert sha256(front) == now

    dmsnap("swap", name, "--to", points[chosen])
    written(front, 2, 3, 50)
    shown = sha256(front)
    result = dmsnap("swap", "commit", name)
    assert result["state"] == "protected"
    assert sha256(front) == shown
    assert sha256(primary) == shown
    left = [point["id"] for point in dmsnap("point", "list", name)]
    assert left == [replica, *(point for point in points if point != points[chosen])]
    dmsnap("status", name)
    for point, content in zip(points, contents, strict=True):
        if point != points[chosen]:
            assert sha256(live_device(name, point)) == content
    # The stack is that of any volume; what the merge wrote, the next sync finds by comparison.
    written(front, 5)
    for point, content in zip(points, contents, strict=True):
        if point != points[chosen]:
            assert sha256(live_device(name, point)) == content
    synced = dmsnap("sync", name, "--audit", "full")
    assert synced["tracker"] == "compare"
    assert synced["audit"]["bytes_different"] == 0
    written(front, 6)
    assert dmsnap("sync", name, "--audit", "full")["tracker"] == "era"
    assert len(dm_devices()) == 4
    assert catalogue_rows("select count(*) from area where role = 'overlay'") == [(0,)]


def test_the_newest_live_point_of_a_mounted_volume(lab: Lab) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    mount_point = lab.mounted(primary, options="noatime")
    (mount_point / "file").write_text("one")
    name = lab.protect(primary, recovery)
    (mount_point / "file").write_text("two")
    (point,) = dmsnap("point", "create", name)
    (mount_point / "file").write_text("spoiled")
    dmsnap("swap", name, "--to", point["id"])
    assert (mount_point / "file").read_text() == "two"
    (mount_point / "trial").write_text("kept")
    script = f"while :; do date +%N >>{mount_point}/log; sync -f {mount_point}; done"
    with subprocess.Popen(["sh", "-c", script], start_new_session=True) as writer:
        try:
            log = mount_point / "log"
            until(lambda: log.exists() and log.stat().st_size, "the writer has begun")
            dmsnap("swap", "commit", name)
            assert writer.poll() is None
        finally:
            os.killpg(writer.pid, signal.SIGKILL)
    assert (mount_point / "file").read_text() == "two"
    assert (mount_point / "trial").read_text() == "kept"
    dmsnap("sync", name, "--audit", "full")
    dmsnap("unprotect", name)
    run("umount", mount_point)
    run("e2fsck", "-fn", primary)
    assert list((lab.directory / "store").iterdir()) == []


def test_killed_at_every_step(lab: Lab) -> None:
    """Whatever was done, running it again ends it, and any other command says so."""
    name, primary, points, contents, _ = three_live_points(lab)
    front = f"/dev/mapper/{name}"
    dmsnap("swap", name, "--to", points[1])
    written(front, 2, 3)
    shown = sha256(front)
    steps = len(dmsnap("swap", "commit", name, "--dry-run")["steps"])
    for at in [(number, state) for number in range(steps) for state in ("begun", "done")]:
        ended = forked("swap", "commit", name, at=at, send=(signal.SIGKILL,))
        if ended.code == ExitCode.OK:
            break  # finished before it came to that step
        assert ended.code == -signal.SIGKILL, (at, ended)
        assert sha256(front) == shown, at
    ((state,),) = catalogue_rows("select state from volume where removed_ns is null")
    if state != "protected":
        dmsnap("swap", "commit", name)
    dmsnap("status", name)
    dmsnap("sync", name, "--audit", "full")
    assert sha256(primary) == sha256(front) == shown
    assert sha256(live_device(name, points[0])) == contents[0]
    assert sha256(live_device(name, points[2])) == contents[2]
    assert len(dm_devices()) == 4
    assert len(list((lab.directory / "store").iterdir())) == 3


def test_what_is_held_of_a_commit_keeps_no_command_waiting(lab: Lab) -> None:
    """Somebody reads the point that became the volume: it goes when he is done."""
    name, _, points, _, _ = three_live_points(lab)
    dmsnap("swap", name, "--to", points[1])
    last = len(dmsnap("swap", "commit", name, "--dry-run")["steps"]) - 1
    ended = forked("swap", "commit", name, at=(last, "begun"), send=(signal.SIGKILL,))
    assert ended.code == -signal.SIGKILL
    query = "select count(*) from area where role = 'overlay'"
    with open(live_device(name, points[1]), "rb"):
        dmsnap("point", "keep", points[0])
        assert catalogue_rows(query) == [(1,)]
    dmsnap("point", "keep", points[0], "--off")
    assert catalogue_rows(query) == [(0,)]
    assert not Path(live_device(name, points[1])).exists()
    dmsnap("status", name)


def test_power_lost_after_it_was_recorded(lab: Lab) -> None:
    """The point is the volume now: no device says so any more, and it is no point that broke."""
    name, primary, points, _, _ = three_live_points(lab)
    dmsnap("swap", name, "--to", points[1])
    written(f"/dev/mapper/{name}", 2, 3)
    shown = sha256(f"/dev/mapper/{name}")
    steps = dmsnap("swap", "commit", name, "--dry-run")["steps"]
    at = (len(steps) - 2, "done")
    ended = forked("swap", "commit", name, at=at, send=(signal.SIGKILL,))
    assert ended.code == -signal.SIGKILL, ended
    for row in sorted(dm_devices(), key=lambda row: ("point" not in row, row != name)):
        run("dmsetup", "remove", row)
    dmsnap("assemble", name)
    assert sha256(primary) == shown
    assert points[1] not in [point["id"] for point in dmsnap("point", "list", name)]
    reasons = catalogue_rows("select deleted_reason from point where deleted_ns is not null")
    assert ("swap commit went back to it",) in reasons
    dmsnap("sync", name, "--audit", "full")
    assert len(dm_devices()) == 2


def test_other_points_that_would_overflow(lab: Lab) -> None:
    """Refused; with --drop-points they go, and only they."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    name = lab.protect(primary, recovery)
    front = f"/dev/mapper/{name}"
    with configured("cow_limit_bytes = 16777216"):
        (first,) = dmsnap("point", "create", name)
        run("dd", "if=/dev/urandom", f"of={front}", "bs=1M", "count=10", "oflag=direct")
        content = sha256(front)
        (second,) = dmsnap("point", "create", name)
        run("dd", "if=/dev/urandom", f"of={front}", "bs=1M", "count=10", "seek=12", "oflag=direct")
        (usage,) = [
            point
            for point in dmsnap("status", name, expected=None)[0]["live_points"]
            if point["point"] == first["id"]
        ]
    if usage["state"] == "OK":
        dmsnap("swap", name, "--to", second["id"])
        sentence = refused(ExitCode.WRONG_STATE, "swap", "commit", name)
        assert "have no room" in sentence
        dmsnap("swap", "commit", name, "--drop-points")
    else:  # it has overflowed already: nothing is in the way
        dmsnap("swap", name, "--to", second["id"])
        dmsnap("swap", "commit", name)
    assert sha256(front) == content


def test_live_points_that_cannot_be_shown(lab: Lab) -> None:
    """Overflowed, of another volume, unknown: refused before anything is changed."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    name = lab.protect(primary, recovery)
    other = lab.protect(lab.disk(SIZE), lab.disk(RECOVERY_SIZE))
    (foreign,) = dmsnap("point", "create", other)
    (point,) = dmsnap("point", "create", name, "--cow-percent", "1")
    run("dd", "if=/dev/urandom", f"of=/dev/mapper/{name}", "bs=1M", "count=48", "oflag=direct")
    before = world(lab, primary, recovery)
    for code, wanted in (
        (ExitCode.POINT_INVALID, point["id"]),
        (ExitCode.NOT_FOUND, foreign["id"]),
        (ExitCode.NOT_FOUND, "00000000"),
    ):
        refused(code, "swap", name, "--to", wanted)
        assert world(lab, primary, recovery) == before
