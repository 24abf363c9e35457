"""Points that go: every one that stays is, byte for byte, what it was.

What a point holds is read through the kernel, by tables of the test's own: undo stores over the
replica, as the label names them.
"""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from clock_discipline import synchronised
from conftest import (
    MIB,
    Ended,
    Lab,
    World,
    configured,
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
from raw_volume import SECTOR, Protected, protected, write_direct

from dmsnap.catalogue import jobs
from dmsnap.catalogue.model import StepState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import ExitCode

SIZE = 12 * MIB + 3 * SECTOR
KILLED = -signal.SIGKILL

Contents = dict[str, str]


def synced(lab: Lab, count: int = 5, history_bytes: int = 32 * MIB) -> Protected:
    """A volume with ``count`` points in its history, which overlap in part of what they changed."""
    volume = protected(lab, SIZE, history_bytes=history_bytes)
    for number in range(count):
        write_some(volume, number)
        volume.sync()
    return volume


def write_some(volume: Protected, number: int) -> None:
    """What every point changes, what two in a row change, what one alone does, and the end."""
    for offset, length in (
        (0, SECTOR),
        (MIB + number * 96 * 1024, 192 * 1024),
        ((4 + number) * MIB + SECTOR, 300 * 1024),
        (SIZE - SECTOR, SECTOR),
    ):
        write_direct(volume.front, os.urandom(length), offset)


def contents(volume: Protected) -> Contents:
    """The SHA-256 of every point on the recovery volume, as the kernel shows it, newest first."""
    label = volume.label()
    assert label["state"] == "consistent"
    found = {label["point_uuid"]: sha256(volume.recovery, SIZE)}
    with chain(volume, label["history"]) as levels:
        for entry, level in zip(label["history"], levels, strict=True):
            found[entry["point_uuid"]] = sha256(level)
    return found


@contextmanager
def chain(volume: Protected, history: list[dict[str, Any]]) -> Iterator[list[Path]]:
    """The levels of a history: each undo store over the one before."""
    made: list[Path] = []
    below, levels = Path(volume.recovery), []
    try:
        for number, entry in enumerate(history):
            offset = entry["store_offset_bytes"] // SECTOR
            length = entry["store_length_bytes"] // SECTOR
            store = table(f"store-{number}", f"0 {length} linear {volume.recovery} {offset}", made)
            words = f"0 {SIZE // SECTOR} snapshot {below} {store} P {entry['chunk_size']}"
            below = table(f"level-{number}", words, made)
            levels.append(below)
        yield levels
    finally:
        for path in reversed(made):
            run("dmsetup", "remove", "--retry", path.name)


def table(name: str, words: str, made: list[Path]) -> Path:
    run("dmsetup", "create", f"prune-{name}", "--readonly", "--table", words)
    run("dmsetup", "mknodes")
    made.append(Path("/dev/mapper") / f"prune-{name}")
    return made[-1]


def history_of(volume: Protected) -> list[str]:
    """The ids of the earlier points, newest first."""
    return [entry["point_uuid"] for entry in volume.label()["history"]]


def listed(volume: Protected) -> list[str]:
    """The ids of all points, newest first, as the command line shows them."""
    return [point["id"] for point in dmsnap("point", "list", volume.name)][::-1]


def without(found: Contents, *points: str) -> Contents:
    return {point: digest for point, digest in found.items() if point not in points}


# deleting a point of the middle


def test_each_point_in_turn(lab: Lab) -> None:
    """In an order that merges stores that were merged, the newest and the last but one."""
    volume = synced(lab, 6)
    expected = contents(volume)
    assert len(set(expected.values())) == 7
    for position in (2, 2, 0, 1, 1):
        point = history_of(volume)[position]
        dmsnap("point", "delete", point)
        expected = without(expected, point)
        assert contents(volume) == expected
        assert listed(volume) == list(expected)
    (last,) = history_of(volume)
    assert last == list(expected)[-1]
    volume.sync("--audit", "full")
    volume.check_equal()
    assert without(contents(volume), listed(volume)[0]) == expected


def test_a_merged_store_is_one_of_the_kernels(lab: Lab) -> None:
    """One level shows what two did; the merged store has each chunk once."""
    volume = synced(lab, 3)
    before = volume.label()["history"]
    with chain(volume, before) as levels:
        two_levels = sha256(levels[1])
    dmsnap("point", "delete", before[0]["point_uuid"])
    after = volume.label()["history"]
    assert after[1] == before[2]
    assert after[0]["point_uuid"] == before[1]["point_uuid"]
    with chain(volume, after) as levels:
        assert sha256(levels[0]) == two_levels
    both = before[0]["store_length_bytes"] + before[1]["store_length_bytes"]
    assert after[0]["store_length_bytes"] < both


def test_back_to_a_point_across_a_merged_store(lab: Lab) -> None:
    """A trial shows it, and a commit merges it into the volume."""
    volume = synced(lab, 4)
    points = history_of(volume)
    expected = contents(volume)
    dmsnap("point", "delete", points[1])
    dmsnap("swap", volume.name, "--to", points[2])
    assert sha256(volume.front) == expected[points[2]]
    refused(ExitCode.BUSY, "point", "delete", points[0])
    dmsnap("swap", "commit", volume.name)
    assert sha256(volume.front) == expected[points[2]]


def test_files_of_every_point_that_stays(lab: Lab) -> None:
    """As users look at them, with a file system in between."""
    primary, recovery = lab.disk(32 * MIB), lab.disk(80 * MIB)
    mount_point = lab.mounted(primary)
    name = lab.protect(primary, recovery)
    notes = {}
    for number in range(4):
        (mount_point / "note").write_text(f"note {number}")
        (mount_point / "bulk").write_bytes(os.urandom(MIB))
        run("sync", "-f", mount_point)
        notes[dmsnap("sync", name)["point"]] = f"note {number}"
    for point in list(notes)[1:3]:
        dmsnap("point", "delete", point)
        del notes[point]
        for left, note in notes.items():
            at = Path(dmsnap("point", "mount", left)["mount_point"])
            assert (at / "note").read_text() == note
            dmsnap("point", "umount", left)
    run("umount", mount_point)
    run("e2fsck", "-fn", f"/dev/mapper/{name}")


def test_what_is_in_use_stays(lab: Lab) -> None:
    """An older point that is mounted is read through the stores of all that are newer."""
    primary, recovery = lab.disk(32 * MIB), lab.disk(80 * MIB)
    mount_point = lab.mounted(primary)
    name = lab.protect(primary, recovery)
    for number in range(3):
        (mount_point / "note").write_text(f"note {number}")
        run("sync", "-f", mount_point)
        dmsnap("sync", name)
    points = [entry["point_uuid"] for entry in dmsnap("inspect", "label", recovery)["history"]]
    dmsnap("point", "mount", points[1])
    before = world(lab, recovery)
    assert "is in use" in refused(ExitCode.BUSY, "point", "delete", points[0])
    assert "is mounted" in refused(ExitCode.BUSY, "point", "delete", points[1])
    assert "is in use" in refused(ExitCode.BUSY, "point", "delete", points[2])
    assert world(lab, recovery) == before
    dmsnap("point", "umount", points[1])
    dmsnap("point", "delete", points[0])
    # A live point lies on the other side.
    (live,) = dmsnap("point", "create", name)
    dmsnap("point", "mount", live["id"])
    refused(ExitCode.BUSY, "point", "delete", live["id"])
    dmsnap("point", "delete", points[1])
    dmsnap("point", "umount", live["id"])
    dmsnap("point", "delete", live["id"])
    assert len(dm_devices()) == 2


def test_without_room_nothing_is_changed(lab: Lab) -> None:
    """The merged store is written beside the others: the oldest point can still go."""
    volume = synced(lab, 2, history_bytes=4 * MIB)
    room = volume.label()["history_length_bytes"]
    write_direct(volume.front, os.urandom(3 * MIB // 2), 2 * MIB)
    volume.sync()
    write_direct(volume.front, os.urandom(7 * MIB // 4), 5 * MIB)
    volume.sync()
    points, before = history_of(volume), world(lab, volume.recovery)
    used = sum(entry["store_length_bytes"] for entry in volume.label()["history"])
    assert used < room
    sentence = refused(ExitCode.NO_SPACE, "point", "delete", points[0])
    assert "nothing was changed" in sentence
    assert world(lab, volume.recovery) == before
    expected = contents(volume)
    dmsnap("point", "delete", points[-1])
    assert contents(volume) == without(expected, points[-1])


# cut off


def step_count(*words: object) -> int:
    return len(dmsnap(*words, "--dry-run")["steps"])


def look(lab: Lab, volume: Protected) -> World:
    return world(lab, volume.primary)


@pytest.mark.exhaustive
def test_a_signal_at_every_step(lab: Lab) -> None:
    """Until the label names the merged store the point is there, and afterwards it is gone."""
    volume = synced(lab, 3)
    expected = contents(volume)
    steps = step_count("point", "delete", history_of(volume)[1])
    outcomes = []
    for position in range(steps):
        for state in ("begun", "done"):
            before = look(lab, volume)
            point = history_of(volume)[1]
            ended = forked("point", "delete", point, at=(position, state), send=(signal.SIGTERM,))
            gone = point not in history_of(volume)
            outcomes.append(gone)
            if gone:
                expected = without(expected, point)
                write_some(volume, 7)
                expected = {volume.sync()["point"]: volume.check_equal(), **expected}
            else:
                assert ended.code == 128 + signal.SIGTERM, ended
                assert look(lab, volume) == before
            assert contents(volume) == expected
            assert listed(volume) == list(expected)
    # The merge's own step, begun and done, is taken back.
    assert outcomes == [False, False] + [True] * (2 * steps - 2)


@pytest.mark.parametrize("later", [0, rarely(0.01)])
def test_a_kill_at_every_step(lab: Lab, later: float) -> None:
    volume = synced(lab, 3)
    expected = contents(volume)
    steps = step_count("point", "delete", history_of(volume)[1])
    outcomes = []
    for at in [*((position, "begun") for position in range(steps)), (steps - 1, "done")]:
        point = history_of(volume)[1]
        ended = forked("point", "delete", point, at=at, send=(signal.SIGKILL,), after=later)
        assert ended.code in (0, KILLED), ended
        assert suspended() == []
        # Before anybody puts anything right every point is whole, that one too while it is there.
        now = contents(volume)
        assert now == (expected if point in now else without(expected, point))
        dmsnap("job", "resume", "--all")
        outcomes.append(point not in history_of(volume))
        if outcomes[-1]:
            expected = without(expected, point)
            write_some(volume, 7)
            expected = {volume.sync()["point"]: volume.check_equal(), **expected}
        assert contents(volume) == expected
        assert listed(volume) == list(expected)
        assert dmsnap("job", "resume", "--all") == []
    assert outcomes[-1]
    if not later:
        assert not outcomes[0]
    volume.sync("--audit", "full")
    volume.check_equal()


# pruning


POLICY = """
[policy.few]
make = "both"
{tables}
[subclient.one]
volumes = ["{name}"]
policy = "few"
"""
FEW = "primary = {{ minimum = {primary} }}\nhistory = {{ minimum = {history} }}\n"


@contextmanager
def under_policy(volume: Protected, primary: int, history: int) -> Iterator[None]:
    tables = FEW.format(primary=primary, history=history)
    with configured(POLICY.format(tables=tables, name=volume.name)):
        yield


def going(result: dict[str, Any], side: str) -> dict[str, str]:
    """What becomes of the points of one side that go."""
    return {
        point["point"]: point["action"]
        for point in result["points"]
        if point["side"] == side and point["action"] != "stay"
    }


def live_points(volume: Protected, count: int) -> list[str]:
    """Live points, the oldest first."""
    found = []
    for number in range(count):
        write_direct(volume.front, os.urandom(4096), (number + 1) * MIB)
        found.append(dmsnap("point", "create", volume.name)[0]["id"])
    return found


def test_pruning(lab: Lab) -> None:
    """What was said goes and nothing else; marks keep a point in the middle, then no more."""
    volume = synced(lab, 6)
    expected = contents(volume)
    points = history_of(volume)
    live = live_points(volume, 3)
    live_content = sha256(live_device(volume, live[2]))
    assert dmsnap("point", "keep", points[3])["keep"]
    said = ("--expires", "2200-01-01", "--comment", "a test")
    assert dmsnap("point", "set", live[0], *said)["comment"] == "a test"
    assert volume.label()["history"][3]["flags"] == ["keep"]
    with under_policy(volume, primary=1, history=2):
        before = world(lab, volume.recovery)
        (foreseen,) = dmsnap("prune", "--dry-run")
        assert world(lab, volume.recovery) == before
        assert going(foreseen, "primary") == {live[1]: "drop"}
        assert going(foreseen, "history") == {
            points[1]: "merge", points[2]: "merge", points[4]: "drop", points[5]: "drop",
        }  # fmt: skip
        (pruned,) = dmsnap("prune", volume.name)
        assert pruned["points"] == foreseen["points"]
        assert history_of(volume) == [points[0], points[3]]
        assert contents(volume) == without(expected, *(points[at] for at in (1, 2, 4, 5)))
        assert [each for each in listed(volume) if each in live] == [live[2], live[0]]
        assert sha256(live_device(volume, live[2])) == live_content
        assert going(dmsnap("prune")[0], "history") == {}
        dmsnap("point", "keep", points[3], "--off")
        assert dmsnap("point", "show", points[3])["keep"] is False
        assert going(dmsnap("prune")[0], "history") == {points[3]: "drop"}
    left = (next(iter(expected)), points[0])
    assert contents(volume) == {point: expected[point] for point in left}
    for point in (live[0], live[2]):
        dmsnap("point", "delete", point)
    volume.sync("--audit", "full")
    volume.check_equal()


def live_device(volume: Protected, point: str) -> str:
    (place,) = dmsnap("point", "show", point)["places"]
    assert place["kind"] == "live"
    return str(place["device"])


def test_a_full_history_gives_way_by_the_policy(lab: Lab) -> None:
    """In the middle, in syncs: the oldest is marked, and the newest are kept by the policy."""
    volume = synced(lab, 1, history_bytes=6 * MIB)
    (oldest,) = history_of(volume)
    dmsnap("point", "keep", oldest)
    expected, newest = contents(volume), list(contents(volume))
    with under_policy(volume, primary=1, history=3):
        for number in range(9):
            write_direct(volume.front, os.urandom(MIB), 2 * MIB)
            write_direct(volume.front, os.urandom(64 * 1024), (4 + number // 2) * MIB)
            synced_now = volume.sync()
            newest = [synced_now["point"], *newest]
            expected[newest[0]] = volume.check_equal()
            assert synced_now["given_up"] == []
            left = list(contents(volume))
            assert left[:3] == newest[:3]
            assert left[-1] == oldest
            assert listed(volume) == left
            assert contents(volume) == {point: expected[point] for point in left}
        gone = [point for point in newest if point not in left]
        assert gone
        for point in gone:
            reason = dmsnap("point", "show", point)["deletion"]["deleted_reason"]
            assert reason == "no rule keeps it, and the history had no room for it"
        # What the policy keeps gives way last: said, and found wrong until a sync needed none.
        dmsnap("point", "keep", oldest, "--off")
        before = history_of(volume)
        write_direct(volume.front, os.urandom(9 * MIB // 2), 2 * MIB)
        given_up = volume.sync()["given_up"]
        assert given_up
        assert set(given_up) <= set(before[:2])
        (found,) = dmsnap("status", volume.name, expected=ExitCode.UNHEALTHY)
        (problem,) = (each for each in found["problems"] if "too little room" in each)
        assert "few" in problem
        volume.check_equal()
        write_direct(volume.front, os.urandom(4096), 0)
        volume.sync("--audit", "full")
        (found,) = dmsnap("status", volume.name)
        assert found["problems"] == []


def test_what_holds_a_pruning(lab: Lab) -> None:
    """No policy, a policy that does not say how long, a point in use, a trial, a clock in doubt."""
    volume = synced(lab, 3)
    points = history_of(volume)
    before = world(lab, volume.recovery)
    (left,) = dmsnap("prune")
    assert left["notes"] == [f"{volume.name} is under no policy: it is left alone"]
    with configured(POLICY.format(tables="", name=volume.name)):
        notes = dmsnap("prune")[0]["notes"]
        assert len(notes) == 2
        assert all("does not say how long" in note for note in notes)
    refused(ExitCode.NOT_FOUND, "prune", "nobody")
    with configured("[policy.few]", "made = 1"):
        refused(ExitCode.CONFIGURATION, "prune")
    assert world(lab, volume.recovery) == before
    with under_policy(volume, primary=1, history=1):
        dmsnap("swap", volume.name, "--to", points[1])
        before = world(lab, volume.recovery)
        assert "is in state trial" in dmsnap("prune")[0]["notes"][0]
        assert world(lab, volume.recovery) == before
        dmsnap("swap", "revert", volume.name)
        record = Path("/var/lib/dmsnap/clock.json")
        steady = record.read_text()
        readings = json.loads(steady)
        # Of a boot before: of this one's first minutes it would be taken back.
        readings[-1]["boot_id"] = "another"
        readings[-1]["wall_ns"] += 3 * 86400 * 10**9
        record.write_text(json.dumps(readings))
        before = world(lab, volume.recovery)
        for _ in range(2):
            (doubted,) = dmsnap("prune")
            assert "the clock was set" in doubted["notes"][-1]
            assert going(doubted, "history") == {}
        # Days that the host was off, or by which the clock was ahead when it went down.
        readings[-1]["wall_ns"] -= 6 * 86400 * 10**9
        record.write_text(json.dumps(readings))
        assert "the clock was set" in dmsnap("prune", "--dry-run")[0]["notes"][-1]
        with synchronised():
            assert set(going(dmsnap("prune", "--dry-run")[0], "history")) == set(points)
        assert world(lab, volume.recovery) == before
        record.write_text(steady)
        assert set(going(dmsnap("prune")[0], "history")) == set(points)
    assert history_of(volume) == []


def test_a_point_in_use_holds_the_history(lab: Lab) -> None:
    primary, recovery = lab.disk(32 * MIB), lab.disk(80 * MIB)
    mount_point = lab.mounted(primary)
    volume = Protected(lab.protect(primary, recovery), primary, recovery, 32 * MIB)
    for number in range(3):
        (mount_point / "note").write_text(f"note {number}")
        run("sync", "-f", mount_point)
        volume.sync()
    points = history_of(volume)
    dmsnap("point", "mount", points[1])
    with under_policy(volume, primary=1, history=1):
        before = world(lab, recovery)
        (held,) = dmsnap("prune")
        assert going(held, "history") == {}
        reasons = {each["point"]: each["reason"] for each in held["points"]}
        assert reasons[points[1]] == "it is in use"
        assert reasons[points[2]] == "another point of the recovery volume is in use"
        assert world(lab, recovery) == before
        # A mark can be set all the same; cut off, that is finished.
        assert (
            killed_at("record", "point", "set", points[2], "--keep", "--comment", "x").code
            == KILLED
        )
        dmsnap("job", "resume", "--all")
        shown = dmsnap("point", "show", points[2])
        assert (shown["keep"], shown["comment"]) == (True, "x")
        assert volume.label()["history"][2]["flags"] == ["keep"]
        dmsnap("point", "umount", points[1])
        assert going(dmsnap("prune")[0], "history") == {points[0]: "merge", points[1]: "merge"}
    assert history_of(volume) == [points[2]]


def test_a_pruning_that_is_killed(lab: Lab) -> None:
    """At every step of the job that drops and of the one that merges; run again it is done."""
    volume = synced(lab, 3)
    for number, at in enumerate(("remove-live", "drop-history", "forget", "merge-history")):
        expected = contents(volume)
        points = history_of(volume)
        kept = points[2] if number % 2 else None
        live = live_points(volume, 2)
        if kept is not None:
            dmsnap("point", "keep", kept)
        with under_policy(volume, primary=1, history=1):
            ended = killed_at(at, "prune", volume.name)
            assert ended.code == KILLED, ended
            assert suspended() == []
            now = contents(volume)
            assert now == {point: expected[point] for point in now}
            dmsnap("job", "resume", "--all")
            now = contents(volume)
            assert now == {point: expected[point] for point in now}
            dmsnap("prune", volume.name)
        left = [next(iter(expected)), *([kept] if kept else [])]
        assert contents(volume) == {point: expected[point] for point in left}
        assert set(listed(volume)) == {*left, live[1]}
        dmsnap("point", "delete", live[1])
        if kept is not None:
            dmsnap("point", "delete", kept)
        for _ in range(3):
            write_some(volume, number)
            volume.sync()
        volume.check_equal()


def killed_at(step: str, *words: object) -> Ended:
    """SIGKILL as soon as a step of that name has begun, of whichever job."""
    recorded = jobs.record_step

    def record_step(
        catalogue: Catalogue, job_id: int, position: int, state: StepState, seconds: float | None
    ) -> None:
        recorded(catalogue, job_id, position, state, seconds)
        name = jobs.job(catalogue, job_id).steps[position].name
        if (name, state) == (step, StepState.BEGUN):
            os.kill(os.getpid(), signal.SIGKILL)

    jobs.record_step = record_step
    try:
        return forked(*words)
    finally:
        jobs.record_step = recorded
