"""Counters that somebody switched off are not believed, then or later: the sync compares."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import MIB, Lab, checkered, configured, dmsnap, rarely, refused, run, sha256
from faulty_disk import faulty_disk
from raw_volume import KIB, Protected, check_tidy, protected, write_direct

from dmsnap.errors import ExitCode
from dmsnap.host import counting, kernel

SIZE = 12 * MIB
PLACE = 7 * MIB
# Before Linux 6.5 dm devices count whatever the switch says.
DM_HEEDS_IT = kernel.version() >= counting.DM_HEEDS_IT
LAYERS = ("front", "origin", "device") if DM_HEEDS_IT else ("device",)
TOGETHER = ("origin+device", "front+origin+device") if DM_HEEDS_IT else ()
PAST = ("origin", "device")


def all_switches() -> list[Path]:
    found = sorted(Path("/sys/block").glob("*/queue/iostats"))
    return [each for each in found if DM_HEEDS_IT or not each.parts[3].startswith("dm-")]


@pytest.fixture(autouse=True)
def counted() -> Iterator[None]:
    """A loop device keeps its switch when it is detached."""
    yield
    set_all(all_switches(), "1")


@pytest.fixture
def volume(lab: Lab) -> Protected:
    """Protected and synced, so that the era would be used."""
    made = protected(lab, SIZE)
    write_direct(made.front, os.urandom(4 * KIB), MIB)
    assert made.sync()["tracker"] == "era"
    return made


def origin_of(volume: Protected, generation: int = 1) -> str:
    return f"/dev/mapper/dmsnap-{volume.name}-origin-{generation}"


def switch(device: str | Path) -> Path:
    """Where counting is switched on and off, as an administrator finds it."""
    number = Path(device).stat().st_rdev
    directory = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    return Path("/sys/block", directory.name, "queue/iostats")


def switches(volume: Protected, layers: str) -> list[Path]:
    """Those of the layers that are named."""
    places: dict[str, str | Path] = {
        "front": volume.front,
        "origin": origin_of(volume),
        "device": volume.primary,
    }
    return [switch(places[each]) for each in layers.split("+")]


def set_all(found: list[Path], value: str) -> None:
    """As a shell does it, which opens a file anew to write to it."""
    for each in found:
        each.write_text(value)


def check_trusted(volume: Protected) -> None:
    """The era is used again, and has marked all that was written."""
    write_direct(volume.front, os.urandom(4 * KIB), 2 * MIB)
    result = volume.sync("--audit", "full")
    assert (result["tracker"], result["reason"]) == ("era", None)
    assert dmsnap("status", volume.name)[0]["problems"] == []
    volume.check_equal()


@pytest.mark.selection
@pytest.mark.parametrize(("layers", "past"), checkered((*LAYERS, *TOGETHER[1:]), PAST))
def test_a_counter_that_stands_still(lab: Lab, volume: Protected, layers: str, past: str) -> None:
    """What is written meanwhile is found, status says why nobody knows of it, and all is well once
    it is on again.
    """
    found = switches(volume, layers)
    set_all(found, "0")
    write_direct(volume.front, os.urandom(64 * KIB), 3 * MIB)
    write_direct(volume.primary if past == "device" else origin_of(volume), b"w" * 8 * KIB, PLACE)
    (told,) = dmsnap("status", volume.name, expected=ExitCode.UNHEALTHY)
    (sentence,) = told["problems"]
    assert "(queue/iostats is 0)" in sentence
    assert all(f"echo 1 > {each}" in sentence for each in found)
    for _ in range(2):
        result = volume.sync()
        assert result["tracker"] == "compare"
        assert "it is not known whether anything was written" in result["reason"]
        assert "(queue/iostats is 0)" in result["reason"]
        volume.check_equal()
        write_direct(volume.front, os.urandom(4 * KIB), 3 * MIB)
    set_all(found, "1")
    write_direct(volume.primary, os.urandom(4 * KIB), PLACE)
    assert volume.sync()["tracker"] == "compare"
    volume.check_equal()
    check_trusted(volume)
    check_tidy(volume, lab)


@pytest.mark.parametrize(
    ("layers", "past", "busy"), checkered((*LAYERS, *TOGETHER), PAST, (True, False))
)
def test_a_counter_that_stood_still_for_a_time(
    volume: Protected, layers: str, past: str, busy: bool
) -> None:
    """Between two syncs, while nobody looked: what it says then is plausible."""
    found = switches(volume, layers)
    set_all(found, "0")
    if busy:
        write_direct(volume.front, os.urandom(64 * KIB), 3 * MIB)
    write_direct(volume.primary if past == "device" else origin_of(volume), b"w" * 8 * KIB, PLACE)
    if busy:
        write_direct(volume.front, os.urandom(64 * KIB), 4 * MIB)
    set_all(found, "1")
    result = volume.sync()
    volume.check_equal()
    assert result["tracker"] == "compare"
    if (renewed := volume.sync())["tracker"] == "compare":  # dm-era's marks were made anew
        assert "origin" in layers
        assert "began anew" in renewed["reason"] or "dm-era" in renewed["reason"]
    check_trusted(volume)


def test_a_switch_that_leaves_no_trace(volume: Protected) -> None:
    """Set without opening it anew, as udev does: more went through the stack than was counted."""
    found = switch(volume.primary)
    script = f"import os; fd = os.open('{found}', os.O_WRONLY); os.write(fd, b'%s')"
    run(sys.executable, "-c", script % "0")
    assert found.read_text() == "0\n"
    write_direct(volume.front, os.urandom(64 * KIB), 3 * MIB)
    write_direct(volume.primary, os.urandom(8 * KIB), PLACE)
    run(sys.executable, "-c", script % "1")
    result = volume.sync()
    volume.check_equal()
    assert result["tracker"] == "compare"
    assert "has missed what was written through the stack" in result["reason"]
    check_trusted(volume)


def test_a_verification_and_a_copy_want_to_know(volume: Protected) -> None:
    (point,) = dmsnap("point", "create", volume.name)
    switch(volume.primary).write_text("0")
    assert "queue/iostats is 0" in refused(ExitCode.WRONG_STATE, "verify", volume.name)
    copying = ("sync", volume.name, "--from", point["id"])
    assert "queue/iostats is 0" in refused(ExitCode.POINT_INVALID, *copying)
    (check,) = (
        each
        for each in dmsnap("doctor", expected=None)["checks"]
        if each["name"].startswith("write counts")
    )
    assert check["action"].startswith("echo 1 > /sys/block/loop")
    switch(volume.primary).write_text("1")
    assert volume.sync()["tracker"] == "compare"
    dmsnap("point", "delete", point["id"])
    check_trusted(volume)


@pytest.mark.parametrize("when", ["before the swap", "since the commit"])
def test_a_former_primary_that_is_not_counted(volume: Protected, when: str) -> None:
    """The failback compares, and is none of the reasons to trust what comes after."""
    found = switch(volume.primary)
    if when == "before the swap":
        found.write_text("0")
    write_direct(volume.primary, os.urandom(8 * KIB), PLACE)
    dmsnap("swap", volume.name, "--trial")
    dmsnap("swap", "commit", volume.name)
    found.write_text("0")
    write_direct(volume.primary, os.urandom(8 * KIB), PLACE + MIB)
    content = sha256(volume.front)
    result = dmsnap("failback", volume.name)
    assert result["tracker"] == "compare"
    assert (sha256(volume.front), sha256(volume.primary)) == (content, content)
    assert volume.replica_sha256() == content
    assert "queue/iostats is 0" in volume.sync()["reason"]
    found.write_text("1")
    assert volume.sync()["tracker"] == "compare"
    check_trusted(volume)


def test_nothing_is_switched_on_by_dmsnap(volume: Protected) -> None:
    """Nor is what it does know lost by looking, or by a restart of the kernel's inodes."""
    Path("/proc/sys/vm/drop_caches").write_text("2")
    check_trusted(volume)
    found = switches(volume, "+".join(LAYERS))
    set_all(found, "0")
    dmsnap("status", volume.name, expected=ExitCode.UNHEALTHY)
    volume.sync()
    dmsnap("assemble", volume.name)
    assert {each.read_text() for each in found} == {"0\n"}
    assert not counting.is_counted(Path(volume.primary).stat().st_rdev)


@pytest.mark.parametrize("layers", [rarely("none"), rarely("front"), "all"])
def test_a_primary_that_nobody_sees_get_on_is_not_given_up(lab: Lab, layers: str) -> None:
    """It takes longer to write out what is dirty than what hangs is waited for: that would be
    failed, and lost.
    """
    size = 64 * MIB
    with faulty_disk(lab, size) as disk:
        mount_point = lab.mounted(disk.path)
        name = lab.protect(disk.path, lab.disk(2 * size))
        fronts = [switch(f"/dev/mapper/{name}")]
        found = {"none": [], "front": fronts, "all": all_switches()}[layers]
        set_all(found, "0")
        with configured("primary_wait_seconds = 3"):
            disk.delay_writes(2000)
            (mount_point / "file").write_text("one")
            dmsnap("swap", name)
            disk.load()
        dmsnap("swap", "revert", name)
        assert (mount_point / "file").read_text() == "one"
        set_all(found, "1")
        dmsnap("unprotect", name)
        run("umount", mount_point)
