"""Sessions lost in the middle of a sync: the primary goes on, the replica stays a point."""

import itertools
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import initiator as other_side
import lun_target
import pytest
from conftest import (
    MIB,
    SCRATCH,
    Lab,
    dmsnap,
    forked,
    rarely,
    refused,
    run,
    sha256,
    suspended,
)
from far_target import far_away, second_way
from lun_target import LunTarget
from lun_volume import SIZE, OnLun, serving
from patience import PATIENCE_SECONDS, until
from raw_volume import fill, write_direct
from test_jobs import killed
from test_silence import answered

from dmsnap.errors import ExitCode
from dmsnap.recovery import apply

# How long a session that is lost holds up who uses it; nobody else.
SESSION_SECONDS = 10


@pytest.fixture(scope="module", autouse=True)
def initiator() -> None:
    lun_target.load_modules()
    lun_target.start_iscsid()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions are given up soon."""
    settings = SCRATCH / "dmsnap.toml"
    settings.write_text(f"session_wait_seconds = {SESSION_SECONDS}\n")
    monkeypatch.setenv("DMSNAP_CONFIG", str(settings))


@pytest.fixture
def target() -> Iterator[LunTarget]:
    with serving(LunTarget("127.0.0.1:3260")) as made:
        yield made


@pytest.fixture
def far_target() -> Iterator[LunTarget]:
    with far_away() as made:
        yield made


def before(monkeypatch: pytest.MonkeyPatch, function: str, action: Callable[[], object]) -> None:
    """Run ``action`` right before a step of ``recovery.apply`` begins, once."""
    original = getattr(apply, function)

    def hooked(*arguments: Any, **keywords: Any) -> Any:
        monkeypatch.setattr(apply, function, original)
        action()
        return original(*arguments, **keywords)

    monkeypatch.setattr(apply, function, hooked)


def failing(*argv: object) -> Any:
    """Run a command that has to fail, however; its error object."""
    ended = forked(*argv)
    assert ended.code > 0, ended
    return json.loads(ended.stderr[ended.stderr.index("{") :])


@contextmanager
def written_all_the_time(front: Path, target: LunTarget) -> Iterator[list[tuple[str, str]]]:
    """Write to the front without pause; gives the session's state before and after each write."""
    states: list[tuple[str, str]] = []
    begun, ended = threading.Event(), threading.Event()

    def state() -> str:
        return lun_target.sessions().get(target.iqn, "none")

    def write() -> None:
        for number in itertools.count():
            if ended.wait(0.02):
                return
            before = state()
            write_direct(front, os.urandom(4096), 8 << 20 | (number % 256) << 12)
            states.append((before, state()))
            begun.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert begun.wait(PATIENCE_SECONDS)
        yield states
    finally:
        ended.set()
        writer.join()


@pytest.mark.parametrize(
    "step",
    [
        "write_new",
        *map(rarely, ("write_undo", "mark_applying", "mark_consistent")),
    ],
)
def test_a_target_that_stops_in_the_middle_of_a_sync(
    target: LunTarget, lab: Lab, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    volume = OnLun(lab, target)
    volume.dirty()
    point, content = volume.point(), sha256(volume.image, SIZE)
    with monkeypatch.context() as patch, written_all_the_time(volume.front, target) as states:
        before(patch, step, lambda: target.enable(False))
        failed = failing("sync", volume.name)
        assert suspended() == []
    assert failed["exit_code"] in (ExitCode.OS, ExitCode.FAILURE, ExitCode.UNREACHABLE)
    assert any(f"the session to {target.iqn}" in note for note in failed["notes"])
    # Whoever waited for the session would have waited until it was given up, which is FREE.
    assert states.count(("FAILED", "FAILED")) > 3, states
    # It does not hang on what is lost, and says so.
    (status,) = dmsnap("status", volume.name, expected=ExitCode.UNHEALTHY)
    assert "lost" in status["problems"][0]
    failed = failing("sync", volume.name)
    assert failed["exit_code"] in (ExitCode.UNREACHABLE, ExitCode.NOT_FOUND)
    assert volume.target.iqn in failed["error"] or volume.target.portal in failed["error"]
    target.enable(True)
    volume.sync("--audit", "full")
    volume.check_equal()
    dmsnap("swap", volume.name, "--to", point, "--trial")
    assert sha256(volume.front) == content
    dmsnap("swap", "revert", volume.name)
    volume.unprotect()


def test_a_session_that_comes_back_in_time(
    target: LunTarget, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sync waits for it and goes on."""
    (SCRATCH / "dmsnap.toml").write_text("session_wait_seconds = 60\n")
    volume = OnLun(lab, target)
    volume.dirty()
    back = threading.Timer(2, lambda: target.enable(True))

    def stop() -> None:
        target.enable(False)
        back.start()

    before(monkeypatch, "write_new", stop)
    assert volume.sync("--audit", "full")["seconds"] > 2
    back.join()
    volume.check_equal()
    volume.unprotect()


def test_who_only_looks_at_a_lost_lun_is_waited_for(target: LunTarget, lab: Lab) -> None:
    """As dmsnapd does, when a session is lost: that refuses no command."""
    volume = OnLun(lab, target)
    volume.dirty()
    disk = os.open(lun_target.disk_of(target.iqn), os.O_RDONLY)
    closing = threading.Timer(1, lambda: os.close(disk))
    target.enable(False)
    until(lambda: lun_target.sessions()[target.iqn] == "FAILED", "the session is lost")
    target.enable(True)
    closing.start()
    volume.sync("--audit", "full")
    closing.join()
    volume.check_equal()
    volume.unprotect()


def test_who_only_looks_at_a_lun_does_not_keep_its_session(target: LunTarget, lab: Lab) -> None:
    """It would be the administrator's for good, by what dmsnapd looked at as it was given up."""
    volume = OnLun(lab, target)
    disk = os.open(lun_target.disk_of(target.iqn), os.O_RDONLY)
    closing = threading.Timer(2, lambda: os.close(disk))
    closing.start()
    volume.unprotect()
    closing.join()


def test_a_link_that_goes_down_is_named(
    far_target: LunTarget, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = OnLun(lab, far_target)
    volume.dirty()
    before(monkeypatch, "write_new", lambda: run("ip", "link", "set", "near0", "down"))
    failed = dmsnap("sync", volume.name, expected=ExitCode.FAILURE)
    assert f"the link near0 to {far_target.portal} went down meanwhile" in failed["notes"]
    again = dmsnap("sync", volume.name, expected=ExitCode.UNREACHABLE)
    assert "no route" in again["error"] or "near0" in again["error"]
    # What does not need the replica goes on.
    (point,) = dmsnap("point", "create", volume.name)
    dmsnap("point", "delete", point["id"])
    run("ip", "link", "set", "near0", "up")
    volume.sync()
    volume.check_equal()
    volume.unprotect()


def test_a_first_copy_that_loses_its_session_gives_the_device_back(
    target: LunTarget, lab: Lab
) -> None:
    primary = lab.disk(SIZE)
    fill(Path(primary), SIZE)
    content = sha256(primary)

    def stop_while_it_is_copied() -> None:
        try:
            until(lambda: bytes_written_to_luns() > 2 * MIB, "it is copied")
        finally:
            target.enable(False)

    stopping = threading.Thread(target=stop_while_it_is_copied)
    stopping.start()
    failed = failing(
        "protect", primary, "--name", "nobody", "--recovery", target.url(1), "--full",
        "--store", lab.store(), "--bandwidth", "1MiB",
    )  # fmt: skip
    stopping.join()
    assert failed["exit_code"] in (ExitCode.OS, ExitCode.FAILURE, ExitCode.UNREACHABLE)
    assert lun_target.sessions() == {}
    assert lun_target.records() == []
    assert sha256(primary) == content


def bytes_written_to_luns() -> int:
    """By all SCSI disks that are there."""
    written = 0
    for stat in Path("/sys/block").glob("sd*/stat"):
        with suppress(OSError):
            written += int(stat.read_text().split()[6]) * 512
    return written


def test_a_primary_whose_target_is_dead_is_recovered(target: LunTarget, lab: Lab) -> None:
    """The volume came to lie on a LUN by a commit: nobody waits for that one to be kept, either."""
    volume = OnLun(lab, target)
    dmsnap("swap", volume.name)
    dmsnap("swap", "commit", volume.name)
    dmsnap("attach", volume.name, "--recovery", lab.disk(2 * SIZE))
    wwid = Path("/sys/block", lun_target.disk_of(target.iqn).name, "device/wwid").read_text()
    known = dmsnap("catalogue", "show", volume.name)["identifiers"]
    assert [each["value"] for each in known if each["kind"] == "wwid"] == [wwid.strip()]
    volume.dirty()
    volume.sync()
    content = sha256(volume.front)
    (point,) = dmsnap("point", "create", volume.name)
    volume.dirty()
    target.enable(False)
    dmsnap("swap", volume.name)
    assert sha256(volume.front) == content
    write_direct(volume.front, os.urandom(65536), 7 * MIB)
    content = sha256(volume.front)
    refused(ExitCode.UNREACHABLE, "swap", "revert", volume.name)
    assert sha256(volume.front) == content
    committed = dmsnap("swap", "commit", volume.name, "--drop-points")
    assert committed["state"] == "promoted"
    assert sha256(volume.front) == content
    assert point["id"] not in [each["id"] for each in dmsnap("point", "list", volume.name)]
    assert suspended() == []


def test_live_points_are_pruned_while_the_recovery_volume_is_away(
    far_target: LunTarget, lab: Lab
) -> None:
    """And what the history holds stays recorded, until it can be looked at."""
    volume = OnLun(lab, far_target)
    volume.dirty()
    volume.sync()
    held = [point["id"] for point in dmsnap("point", "list", volume.name)]
    live = [dmsnap("point", "create", volume.name)[0]["id"] for _ in range(3)]
    with Path(os.environ["DMSNAP_CONFIG"]).open("a") as settings:
        settings.write(
            '[policy.few]\nmake = "both"\nprimary = { minimum = 1 }\nhistory = { minimum = 1 }\n'
            f'[subclient.one]\nvolumes = ["{volume.name}"]\npolicy = "few"\n'
        )
    run("ip", "link", "set", "near0", "down")
    (looked,) = dmsnap("prune", "--dry-run", expected=ExitCode.UNREACHABLE)
    (pruned,) = dmsnap("prune", expected=ExitCode.UNREACHABLE)
    for result in (looked, pruned):
        assert result["exit_code"] == "unreachable"
        assert far_target.iqn in result["error"] or "near0" in result["error"], result
        gone = {each["point"] for each in result["points"] if each["action"] == "drop"}
        assert gone == set(live[:2]), result
    run("ip", "link", "set", "near0", "up")
    dmsnap("sync", volume.name)
    points = [point["id"] for point in dmsnap("point", "list", volume.name)]
    assert set(points) >= {*held, live[2]}
    assert not set(points) & set(live[:2])
    (pruned,) = dmsnap("prune")
    assert pruned["error"] is None
    volume.check_equal()
    volume.unprotect()


def is_in_state(target: LunTarget, state: str) -> bool:
    return lun_target.sessions()[target.iqn] == state


def test_what_is_looked_at_while_a_session_is_lost_is_told(far_target: LunTarget, lab: Lab) -> None:
    """However long the session is waited for; the kernel notices only after some seconds."""
    settings = Path(os.environ["DMSNAP_CONFIG"])
    settings.write_text("session_wait_seconds = 600\n")
    volume, other = OnLun(lab, far_target), lab.protect(lab.disk(SIZE), lab.disk(2 * SIZE))
    run("ip", "link", "set", "near0", "down")
    for state in ("LOGGED_IN", "FAILED"):
        until(partial(is_in_state, far_target, state), state)
        found = answered("status")
        assert [each["volume"] for each in found if each["problems"]] == [volume.name]
        (problem,) = [each for status in found for each in status["problems"]]
        assert far_target.iqn in problem
        assert "does not answer" in problem or "is lost" in problem
    run("ip", "link", "set", "near0", "up")
    until(lambda: lun_target.sessions()[far_target.iqn] == "LOGGED_IN", "it is logged in again")
    volume.sync("--audit", "full")
    volume.check_equal()
    dmsnap("unprotect", other, "--forget")
    volume.unprotect()


def on_a_lun(lab: Lab, target: LunTarget) -> OnLun:
    """A volume that came to lie on the LUN by a commit, with a recovery volume that does not."""
    volume = OnLun(lab, target)
    dmsnap("swap", volume.name)
    dmsnap("swap", "commit", volume.name)
    dmsnap("attach", volume.name, "--recovery", lab.disk(2 * SIZE))
    return volume


def cut(target: LunTarget) -> None:
    """The link goes down, and the kernel has noticed: what is asked of the LUN waits for it."""
    run("ip", "link", "set", "near0", "down")
    until(lambda: lun_target.sessions()[target.iqn] != "LOGGED_IN", "the session is lost")


def only_in_history(name: str) -> list[str]:
    return [
        point["id"]
        for point in dmsnap("point", "list", name)
        if {place["kind"] for place in point["places"]} == {"history"}
    ]


def test_a_dead_primary_keeps_nothing_that_can_be_had(far_target: LunTarget, lab: Lab) -> None:
    """What was cut off is taken back, of another volume as well; points go; it is given up."""
    volume, other = on_a_lun(lab, far_target), lab.protect(lab.disk(SIZE), lab.disk(2 * SIZE))
    for _ in range(3):
        volume.dirty()
        volume.sync()
    live = [dmsnap("point", "create", volume.name)[0]["id"] for _ in range(3)]
    with Path(os.environ["DMSNAP_CONFIG"]).open("a") as settings:
        settings.write(
            '[policy.few]\nmake = "both"\nprimary = { minimum = 1 }\nhistory = { minimum = 1 }\n'
            f'[subclient.one]\nvolumes = ["{volume.name}"]\npolicy = "few"\n'
        )
    cut_off = killed("point", "create", volume.name, other, at="window")
    cut(far_target)
    (resumed,) = dmsnap("job", "resume", "--all")
    assert (resumed["job"]["id"], resumed["job"]["state"]) == (cut_off["id"], "undone")
    assert suspended() == []
    earlier = only_in_history(volume.name)
    dmsnap("point", "delete", earlier[0])
    assert only_in_history(volume.name) == earlier[1:]
    (pruned,) = dmsnap("prune", volume.name)
    gone = {each["point"] for each in pruned["points"] if each["action"] in ("drop", "merge")}
    assert set(live[:2]) < gone
    left = [point["id"] for point in dmsnap("point", "list", volume.name)]
    assert live[2] in left
    assert not gone & set(left)
    dmsnap("unprotect", volume.name, "--forget")
    assert dmsnap("sync", other)["volume"] == other
    run("ip", "link", "set", "near0", "up")
    until(lambda: lun_target.sessions()[far_target.iqn] == "LOGGED_IN", "it is logged in again")
    dmsnap("unprotect", other, "--forget")


def test_what_can_be_concluded_is_and_what_cannot_is_named(far_target: LunTarget, lab: Lab) -> None:
    volume, other = OnLun(lab, far_target), lab.protect(lab.disk(SIZE), lab.disk(2 * SIZE))
    volume.dirty()
    write_direct(Path("/dev/mapper", other), os.urandom(65536), 0)
    jobs = [killed("sync", name, at="apply")["id"] for name in (volume.name, other)]
    cut(far_target)
    left, concluded = dmsnap("job", "resume", "--all", expected=ExitCode.UNREACHABLE)
    assert [left["job"]["id"], concluded["job"]["id"]] == jobs
    assert far_target.iqn in left["error"]
    assert (concluded["job"]["state"], concluded["error"]) == ("undone", None)
    run("ip", "link", "set", "near0", "up")
    until(lambda: lun_target.sessions()[far_target.iqn] == "LOGGED_IN", "it is logged in again")
    dmsnap("job", "resume", "--volume", volume.name)
    for name in (volume.name, other):
        dmsnap("sync", name, "--audit", "full")
    volume.check_equal()
    dmsnap("unprotect", other, "--forget")
    volume.unprotect()


@pytest.fixture
def second_portal(far_target: LunTarget) -> Iterator[str]:
    with second_way(far_target) as portal:
        yield portal


@contextmanager
def multipath(*paths: str) -> Iterator[None]:
    """What multipathd makes of several paths to one LUN."""
    run("modprobe", "-a", "dm-multipath", "dm-round-robin")
    numbers = [Path(f"/sys/block/{path}/dev").read_text().strip() for path in paths]
    wwid = Path(f"/sys/block/{paths[0]}/device/wwid").read_text().strip().replace("naa.", "3")
    sectors = Path(f"/sys/block/{paths[0]}/size").read_text().strip()
    words = " ".join(f"{number} 1" for number in numbers)
    table = f"0 {sectors} multipath 0 0 1 1 round-robin 0 {len(numbers)} 1 {words}"
    run("dmsetup", "create", "mpatha", "--uuid", f"mpath-{wwid}", "--table", table)
    try:
        yield
    finally:
        run("dmsetup", "remove", "--retry", "mpatha")


@pytest.fixture
def volume(far_target: LunTarget, second_portal: str, lab: Lab) -> Iterator[OnLun]:
    """One whose LUN is reached by two portals; it is recorded by the first."""
    made = OnLun(lab, far_target)
    node = ("-m", "node", "-T", far_target.iqn, "-p", second_portal)
    for action in (("-o", "new"), ("--login",)):
        run("iscsiadm", *node, *action)
    yield made
    dmsnap("unprotect", made.name, "--forget")


def test_a_path_of_a_multipath_device_is_refused(volume: OnLun, lab: Lab) -> None:
    """Also one that it has not claimed."""
    paths = other_side.disks(2)
    words = ("protect", lab.disk(SIZE), "--name", "nobody", "--store", lab.store())
    for claimed in (paths, paths[:1], paths[1:]):
        with multipath(*claimed):
            for path in paths:
                sentence = refused(ExitCode.BUSY, *words, "--recovery", f"/dev/{path}")
                assert (
                    f"/dev/{path} is a path of the multipath device /dev/mapper/mpatha" in sentence
                )


def test_a_lost_path_fails_no_sync(volume: OnLun, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the one by whose portal the LUN is recorded; the next sync finds it lost."""
    with multipath(*other_side.disks(2)):
        volume.dirty()
        with monkeypatch.context() as patch:
            before(patch, "write_new", lambda: run("ip", "link", "set", "near0", "down"))
            volume.sync("--audit", "full")
        volume.check_equal()
        until(lambda: set(states()) != {"LOGGED_IN"}, "the session by the first link is lost")
        volume.dirty()
        volume.sync()
        volume.check_equal()
        (status,) = dmsnap("status", volume.name)
        assert status["problems"] == []
    run("ip", "link", "set", "near0", "up")
    until(lambda: set(states()) == {"LOGGED_IN"}, "it is logged in again")


def states() -> list[str]:
    found = Path("/sys/class/iscsi_session").glob("session*/state")
    return [path.read_text().strip() for path in found]
