"""A live point copied to the recovery volume: it holds that point, whatever was written since."""

import os
import random
import signal
from typing import Any

import pytest
from conftest import (
    MIB,
    Ended,
    Lab,
    World,
    configured,
    dmsnap,
    rarely,
    refused,
    run,
    sha256,
    world,
)
from raw_volume import KIB, Protected, check_tidy, protected, write_direct
from test_interrupts import EVERY, ODD, Bench, interrupted, killed, live_points_of
from test_interrupts import SIZE as BENCH_SIZE

from dmsnap.errors import ExitCode

SIZE = 32 * MIB


def scribble(volume: Protected, seed: int, count: int = 12) -> None:
    """Some direct writes all over, of whole sectors."""
    chosen = random.Random(seed)
    for _ in range(count):
        length = chosen.choice((512, 4096, 20 * KIB, 300 * KIB))
        offset = chosen.randrange((volume.size_bytes - length) // 512) * 512
        write_direct(volume.front, os.urandom(length), offset)


def taken(volume: Protected) -> tuple[str, str]:
    """A live point, and what it holds."""
    (point,) = dmsnap("point", "create", volume.name)
    return str(point["id"]), sha256(str(point["places"][0]["device"]))


def copied(volume: Protected, point: str, content: str, *options: object) -> dict[str, Any]:
    """Copy a point; the recovery volume holds it, and the point itself is what it was."""
    result = volume.sync("--from", point, *options)
    assert result["copied"] == point != result["point"]
    assert volume.replica_sha256() == content
    (live,) = [each for each in dmsnap("point", "list", volume.name) if each["id"] == point]
    assert [place["kind"] for place in live["places"]] == ["live"]
    assert sha256(live["places"][0]["device"]) == content
    assert volume.label()["point_time_ns"] == live["created_ns"]
    return dict(result)


@pytest.mark.parametrize("seed", [0, rarely(1), rarely(2)])
def test_points_are_copied_one_after_the_other(lab: Lab, seed: int) -> None:
    """By what dm-era saw, with writes between them and after them; then the volume itself."""
    volume = protected(lab, SIZE)
    points = []
    for number in range(4):
        scribble(volume, 100 * seed + number)
        points.append(taken(volume))
    scribble(volume, 100 * seed + 50)
    for point, content in points:
        result = copied(volume, point, content, "--audit", "full")
        assert (result["tracker"], result["reason"]) == ("era", None)
        scribble(volume, 100 * seed + 60, count=2)
    result = volume.sync("--audit", "full")
    assert (result["tracker"], result["copied"]) == ("era", None)
    volume.check_equal()
    # Each is a point of the history.
    history = [entry["point_time_ns"] for entry in volume.label()["history"]]
    times = [each["created_ns"] for each in dmsnap("point", "list", volume.name)]
    assert set(history[:4]) <= set(times)
    for (_, content), entry in zip(points, volume.label()["history"][3::-1], strict=True):
        dmsnap("swap", volume.name, "--to", entry["point_uuid"])
        assert sha256(volume.front) == content
        dmsnap("swap", "revert", volume.name)
    for point, _ in points:
        dmsnap("point", "delete", point)
    check_tidy(volume, lab)
    assert dmsnap("catalogue", "check")["problems"] == []


def test_those_in_between_may_be_left_out(lab: Lab) -> None:
    volume = protected(lab, SIZE)
    points = []
    for number in range(3):
        scribble(volume, number)
        points.append(taken(volume))
    copied(volume, *points[1])
    sentence = refused(ExitCode.WRONG_STATE, "sync", volume.name, "--from", points[0][0])
    assert "is not newer" in sentence
    assert volume.replica_sha256() == points[1][1]
    copied(volume, *points[2])
    # The copy goes its own way: neither takes the other along.
    dmsnap("point", "delete", points[2][0])
    assert volume.replica_sha256() == points[2][1]
    volume.sync()
    volume.check_equal()


def test_what_is_verified_is_what_was_not_written_since(lab: Lab) -> None:
    volume = protected(lab, SIZE)
    scribble(volume, 1)
    point, content = taken(volume)
    scribble(volume, 2)
    copied(volume, point, content)
    dmsnap("verify", volume.name, "--full")
    dmsnap("swap", volume.name)
    assert sha256(volume.front) == content
    write_direct(volume.front, os.urandom(4096), 8192)
    dmsnap("swap", "commit", volume.name, "--drop-points")
    dmsnap("failback", volume.name)
    volume.sync("--audit", "full")
    volume.check_equal()


def test_a_clock_that_was_set_back_changes_nothing(lab: Lab) -> None:
    """Points are told apart by eras: the newer one has the earlier time."""
    volume = protected(lab, SIZE)
    scribble(volume, 1)
    first = taken(volume)
    run("date", "--set", "-2 hours")
    try:
        scribble(volume, 2)
        second = taken(volume)
        scribble(volume, 3)
        copied(volume, *second)
        refused(ExitCode.WRONG_STATE, "sync", volume.name, "--from", first[0])
    finally:
        run("date", "--set", "+2 hours")
    refused(ExitCode.WRONG_STATE, "sync", volume.name, "--from", first[0])
    assert volume.replica_sha256() == second[1]
    volume.sync("--audit", "full")
    volume.check_equal()


def test_after_an_audit_that_failed_it_is_compared(lab: Lab) -> None:
    volume = protected(lab, SIZE)
    scribble(volume, 1)
    first = taken(volume)
    write_direct(volume.recovery, os.urandom(4096), 16 * MIB)
    dmsnap("verify", volume.name, "--full", expected=ExitCode.AUDIT_FAILED)
    scribble(volume, 2)
    second = taken(volume)
    for point, content in (first, second):
        result = copied(volume, point, content)
        assert result["tracker"] == "compare", result
    volume.sync("--audit", "full")
    volume.check_equal()


def test_what_was_written_past_the_front_is_in_no_point_of_before(lab: Lab) -> None:
    volume = protected(lab, SIZE)
    scribble(volume, 1)
    point, _ = taken(volume)
    before = volume.replica_sha256()
    write_direct(volume.primary, os.urandom(4096), 4 * MIB)
    sentence = refused(ExitCode.POINT_INVALID, "sync", volume.name, "--from", point)
    assert "past" in sentence
    assert volume.replica_sha256() == before
    result = volume.sync()
    assert result["tracker"] == "compare"
    volume.check_equal()


def test_a_point_that_is_lost_is_refused(lab: Lab) -> None:
    """Its store overflowed: nothing of it reaches the replica."""
    volume = protected(lab, 64 * MIB, history_bytes=96 * MIB)
    with configured("cow_limit_bytes = 16777216"):
        point, _ = taken(volume)
    before = volume.replica_sha256()
    for offset in range(0, 40 * MIB, MIB):
        write_direct(volume.front, os.urandom(MIB), offset)
    dmsnap("sync", volume.name, "--from", point, expected=ExitCode.POINT_INVALID)
    assert volume.replica_sha256() == before
    volume.sync()
    volume.check_equal()


def with_point(bench: Bench) -> list[object]:
    """A command that copies the newest of two points; made anew by what prepares a step."""
    words: list[object] = ["sync", bench.name, "--from", ""]
    renew(bench, words)
    return words


def renew(bench: Bench, words: list[object]) -> None:
    bench.dirty()
    for point in live_points_of(bench.name):
        dmsnap("point", "delete", point)
    words[3] = dmsnap("point", "create", bench.name)[0]["id"]
    bench.dirty()


@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_interrupted_at_every_step(lab: Lab, number: int) -> None:
    bench = Bench.made(lab)
    words = with_point(bench)
    interrupted(bench, words, lambda: None, number=number, prepare=lambda: renew(bench, words))
    require_sound(bench)


@pytest.mark.parametrize("which", [ODD, rarely(EVERY)])
def test_killed_at_every_step(lab: Lab, which: slice) -> None:
    """The next sync of the same point puts things right, and is what it would have been."""
    bench = Bench.made(lab)
    words = with_point(bench)

    def again(_ended: Ended, step: str) -> None:
        listed = dmsnap("point", "list", bench.name)
        (live,) = [each for each in listed if each["id"] == words[3]]
        label = bench.label()
        if (label["point_time_ns"], label["state"]) == (live["created_ns"], "consistent"):
            dmsnap("verify", bench.name, "--full")
        else:
            dmsnap(*words)
        content = sha256(live["places"][0]["device"])
        assert sha256(bench.recovery, BENCH_SIZE) == content, step
        dmsnap("status", bench.name)

    def without_points() -> World:
        looked = world(lab)
        looked.catalogue.pop("point")
        return looked

    bench.look = without_points  # type: ignore[method-assign]
    killed(bench, words, again, prepare=lambda: renew(bench, words), which=which)
    require_sound(bench)


def require_sound(bench: Bench) -> None:
    for point in live_points_of(bench.name):
        dmsnap("point", "delete", point)
    dmsnap("sync", bench.name, "--audit", "full")
    run("umount", bench.mount_point)
    dmsnap("sync", bench.name)
    assert sha256(bench.recovery, BENCH_SIZE) == sha256(bench.primary)
    assert dmsnap("catalogue", "check")["problems"] == []
