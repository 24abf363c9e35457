"""The catalogue is lost: what labels, stacks and stores show is recorded again, and works."""

import os
from pathlib import Path
from typing import Any

import pytest
from conftest import CATALOGUE, MIB, Lab, catalogue_rows, dm_devices, dmsnap, refused, run, sha256
from lost_state import (
    lose_boot_files,
    lose_catalogue,
    lose_disk,
    lose_stack,
    points_on,
    write_label,
)
from raw_volume import Protected, protected, write_direct

from dmsnap.errors import ExitCode

SIZE = 32 * MIB
# What cannot be known again: when a live point was taken, and all but the beginning of its id.
PASSING = ("age_seconds", "bytes_skipped")


def seen(name: str) -> dict[str, Any]:
    """The volume's status, without what passes."""
    (status,) = dmsnap("status", name)
    if status["replica"]:
        for field in PASSING:
            del status["replica"][field]
    if status["overlay"]:
        del status["overlay"]["seconds_left"]
    for point in status["live_points"]:
        point["point"] = point["point"][:13]
        del point["created"]
    return dict(status)


def three_syncs(volume: Protected) -> list[str]:
    """The contents of the volume at each point of its replica, the newest first."""
    contents = [sha256(volume.front)]
    for number in range(2):
        write_direct(volume.front, os.urandom(256 * 1024), (3 + number) * MIB)
        volume.sync()
        contents.insert(0, sha256(volume.front))
    return contents


def check_works(volume: Protected) -> None:
    """A sync compares once, and then tracks; a swap and a revert show what they should."""
    write_direct(volume.front, os.urandom(64 * 1024), 9 * MIB)
    result = volume.sync()
    assert result["tracker"] == "compare"
    assert "tracking began anew" in result["reason"]
    expected = volume.check_equal()
    write_direct(volume.front, os.urandom(64 * 1024), 11 * MIB)
    assert volume.sync()["tracker"] == "era"
    newest = volume.check_equal()
    dmsnap("swap", volume.name, "--to", points_on(volume.name)[1])
    assert sha256(volume.front) == expected
    dmsnap("swap", "revert", volume.name)
    assert sha256(volume.front) == newest


def rebuilt(name: str, state: str) -> dict[str, Any]:
    """What a rebuild recorded of one volume: all there was, without any problem."""
    result = dmsnap("catalogue", "rebuild")
    assert (result["recorded"], result["problems"]) == (True, [])
    (volume,) = result["volumes"]
    assert (volume["volume"], volume["state"]) == (name, state)
    again = dmsnap("catalogue", "rebuild")
    assert again["volumes"] == []
    return dict(volume)


def test_protected_with_live_points(lab: Lab) -> None:
    volume = protected(lab, SIZE)
    contents = three_syncs(volume)
    (live,) = dmsnap("point", "create", volume.name)
    write_direct(volume.front, os.urandom(MIB), 20 * MIB)
    before, points = seen(volume.name), points_on(volume.name)
    lose_catalogue()
    assert dmsnap("status") == []
    planned = dmsnap("catalogue", "rebuild", "--dry-run")
    assert (planned["recorded"], len(planned["volumes"])) == (False, 1)
    assert dmsnap("status") == []
    found = rebuilt(volume.name, "protected")
    assert (found["points"], found["device"], found["recovery"]) == (
        4,
        volume.primary,
        volume.recovery,
    )
    assert seen(volume.name) == before
    kept = points_on(volume.name)
    assert set(points[1:]) <= set(kept)
    (again,) = [point for point in kept if point[:13] == live["id"][:13]]
    dmsnap("point", "delete", again)
    assert not [name for name in dm_devices() if "-point-" in name]
    for position, content in enumerate(contents):
        dmsnap("swap", volume.name, "--to", points[1 + position])
        assert sha256(volume.front) == content
        dmsnap("swap", "revert", volume.name)
    check_works(volume)
    # Nothing of the store was lost on the way.
    assert len(list(Path(lab.store()).iterdir())) == 1


def test_mounted(lab: Lab) -> None:
    """Where it is mounted and how is seen; after a boot the label tells it."""
    primary, recovery = lab.disk(64 * MIB), lab.disk(128 * MIB)
    mount_point = lab.mounted(primary, options="noatime,nodev")
    (mount_point / "file").write_text("one")
    name = lab.protect(primary, recovery)
    dmsnap("sync", name)
    before = seen(name)
    lose_catalogue()
    rebuilt(name, "protected")
    assert seen(name) == before
    lose_stack(lab, mount_point)
    lose_catalogue()
    found = rebuilt(name, "protected")
    assert any("dmsnap assemble" in note for note in found["notes"])
    dmsnap("assemble", name)
    assert seen(name) == before
    assert (mount_point / "file").read_text() == "one"
    options = run("findmnt", "-no", "OPTIONS", mount_point)
    assert "noatime" in options
    assert "nodev" in options
    (mount_point / "file").write_text("two")
    assert dmsnap("sync", name)["tracker"] == "compare"
    (mount_point / "file").write_text("spoiled")
    dmsnap("swap", name)
    assert (mount_point / "file").read_text() == "two"
    dmsnap("swap", "revert", name)
    assert (mount_point / "file").read_text() == "spoiled"


@pytest.mark.parametrize("booted", [False, True])
@pytest.mark.parametrize("steps_back", [0, 2])
def test_in_trial(lab: Lab, booted: bool, steps_back: int) -> None:
    """A trial stays what it was, with all that it wrote."""
    volume = protected(lab, SIZE)
    three_syncs(volume)
    primary = sha256(volume.primary)
    wanted = points_on(volume.name)[steps_back]
    dmsnap("swap", volume.name, "--to", wanted)
    write_direct(volume.front, os.urandom(256 * 1024), 5 * MIB)
    shown, before = sha256(volume.front), seen(volume.name)
    if booted:
        lose_stack(lab)
    lose_catalogue()
    assert rebuilt(volume.name, "trial")["trial_point"] == wanted
    if booted:
        dmsnap("assemble", volume.name)
    assert seen(volume.name) == before
    assert sha256(volume.front) == shown
    dmsnap("swap", "revert", volume.name)
    assert sha256(volume.front) == primary
    check_works(volume)
    assert len(list(Path(lab.store()).iterdir())) == 1


@pytest.mark.parametrize("booted", [False, True])
def test_commit_and_failback(lab: Lab, booted: bool) -> None:
    """A trial that is committed after it was recorded anew; then that is lost, too."""
    volume = protected(lab, SIZE)
    three_syncs(volume)
    wanted = points_on(volume.name)[1]
    dmsnap("swap", volume.name, "--to", wanted)
    write_direct(volume.front, os.urandom(256 * 1024), 5 * MIB)
    lose_catalogue()
    rebuilt(volume.name, "trial")
    dmsnap("swap", "commit", volume.name)
    shown, before = sha256(volume.front), seen_promoted(volume.name)
    if booted:
        lose_stack(lab)
    lose_catalogue()
    found = rebuilt(volume.name, "promoted")
    assert found["device"] == volume.recovery
    if booted:
        dmsnap("assemble", volume.name)
    assert seen_promoted(volume.name) == before
    assert sha256(volume.front) == shown
    result = dmsnap("failback", volume.name)
    assert (result["tracker"], result["device"]) == ("compare", volume.primary)
    assert sha256(volume.front) == shown
    assert volume.sync()["bytes_written"] == 0
    volume.check_equal()
    assert len(list(Path(lab.store()).iterdir())) == 1


def seen_promoted(name: str) -> dict[str, Any]:
    """A promoted volume has no recovery volume, which is a problem and so the exit code."""
    (status,) = dmsnap("status", name, expected=ExitCode.UNHEALTHY)
    return dict(status)


def test_store_in_a_volume_group(lab: Lab) -> None:
    group = lab.group(lab.disk(256 * MIB))
    primary, recovery = lab.disk(SIZE), lab.disk(2 * SIZE)
    name = lab.name()
    dmsnap("protect", primary, "--name", name, "--recovery", recovery, "--store", group)
    volume = Protected(name, primary, recovery, SIZE)
    three_syncs(volume)
    dmsnap("point", "create", name)
    before = seen(name)
    lose_catalogue()
    rebuilt(name, "protected")
    assert seen(name) == before
    assert {row[0] for row in catalogue_rows("select role from area")} == {"era-metadata", "cow"}
    check_works(volume)


def test_damaged_catalogue_is_set_aside(lab: Lab) -> None:
    volume = protected(lab, SIZE)
    before = seen(volume.name)
    for part in CATALOGUE.parent.glob("catalogue.db-*"):
        part.unlink()
    damaged = bytearray(CATALOGUE.read_bytes())
    damaged[:200] = os.urandom(200)
    CATALOGUE.write_bytes(damaged)
    assert "damaged" in refused(ExitCode.CORRUPT, "status")
    planned = dmsnap("catalogue", "rebuild", "--dry-run", expected=ExitCode.UNHEALTHY)
    assert planned["set_aside"] is None
    assert CATALOGUE.read_bytes() == damaged
    result = dmsnap("catalogue", "rebuild")
    assert Path(result["set_aside"]).read_bytes() == damaged
    assert seen(volume.name) == before
    check_works(volume)


def test_what_is_not_recorded(lab: Lab) -> None:
    """A recovery volume alone is not a protected volume; two of one are a question."""
    volume = protected(lab, SIZE)
    volume.sync()
    dmsnap("unprotect", volume.name)
    lose_catalogue()
    result = dmsnap("catalogue", "rebuild", expected=ExitCode.UNHEALTHY)
    assert result["volumes"] == []
    (problem,) = result["problems"]
    assert volume.recovery in problem
    assert "not protected on this host" in problem

    other = protected(lab, SIZE)
    twin = lab.disk(SIZE + 34 * MIB)
    assert run("blockdev", "--getsize64", twin) == run("blockdev", "--getsize64", other.recovery)
    run("dd", f"if={other.recovery}", f"of={twin}", "bs=1M", "oflag=direct", "status=none")
    lose_catalogue()
    result = dmsnap("catalogue", "rebuild", expected=ExitCode.UNHEALTHY)
    assert result["volumes"] == []
    assert any(twin in each and other.recovery in each for each in result["problems"])
    lose_disk(lab, twin)
    result = dmsnap("catalogue", "rebuild", expected=ExitCode.UNHEALTHY)
    assert [each["volume"] for each in result["volumes"]] == [other.name]
    check_works(other)


def test_hostile_labels(lab: Lab) -> None:
    """Names and paths that a label only claims lead nowhere."""
    volume = protected(lab, SIZE)
    dmsnap("unprotect", volume.name)
    lose_boot_files(volume.name)
    for name in ("../../../etc/passwd", "a b", "dmsnap-x", "-", "commit"):
        write_label(volume.recovery, name=name, device="/dev/mem", store="/etc")
        lose_catalogue()
        result = dmsnap("catalogue", "rebuild", expected=ExitCode.UNHEALTHY)
        assert result["volumes"] == []
        (problem,) = result["problems"]
        assert "\n" not in problem
