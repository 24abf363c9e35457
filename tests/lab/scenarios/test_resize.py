"""Resize: volumes and recovery volumes that were made larger are followed, while they are used."""

import hashlib
import os
import re
import signal
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from conftest import (
    MIB,
    Lab,
    administrator,
    catalogue_rows,
    dm_devices,
    dmsnap,
    dying,
    forked,
    locks_held,
    rarely,
    refused,
    run,
    sha256,
    wait_until,
)
from raw_volume import SECTOR, Protected, check_tidy, protected, write_direct
from test_interrupts import (
    EVEN,
    EVERY,
    ODD,
    Bench,
    differences,
    interrupted,
    moments,
    steps_of,
    wait_resumed,
)

from dmsnap._native import label
from dmsnap.catalogue.store import Catalogue

SIZE = 32 * MIB
LARGER = 48 * MIB
COMPARED = "tracking began anew since the replica's point"


def enlarge(lab: Lab, loop: str, size_bytes: int) -> None:
    """Give a loop device another size, as an administrator does: larger or smaller."""
    os.truncate(image_of(loop), size_bytes)
    run("losetup", "-c", loop)
    assert size_of(loop) == size_bytes


def image_of(loop: str) -> str:
    return run("losetup", "-n", "-O", "BACK-FILE", loop).strip()


def size_of(device: str | Path) -> int:
    return int(run("blockdev", "--getsize64", device))


def label_areas(device: str) -> list[int]:
    """Where on a device pages begin as labels do, whatever their content."""
    content = Path(image_of(device)).read_bytes()
    found = (match.start() for match in re.finditer(b"DMSNAPLB", content))
    return [at for at in found if at % 4096 == 0]


def require_one_label(device: str) -> None:
    begin = label.offset(size_of(device))
    assert label_areas(device) == [begin, begin + label.SECTOR_BYTES]


def status_of(name: str) -> Any:
    (found,) = dmsnap("status", name, expected=None)
    return found


@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
def test_a_mounted_volume_follows_its_device(lab: Lab, fs_type: str) -> None:
    small, large = (SIZE, LARGER) if fs_type == "ext4" else (320 * MIB, 352 * MIB)
    primary, recovery = lab.disk(small), lab.disk(large + 48 * MIB)
    place = lab.mounted(primary, fs_type)
    capacity = os.statvfs(place).f_blocks
    (place / "first").write_bytes(os.urandom(2 * MIB))
    name = lab.protect(primary, recovery)
    (place / "first").unlink()
    (place / "second").write_bytes(os.urandom(MIB))
    dmsnap("sync", name)
    front = f"/dev/mapper/{name}"

    enlarge(lab, primary, large)
    assert size_of(front) == small
    (problem,) = status_of(name)["problems"]
    assert "made larger" in problem
    assert f"dmsnap resize {name}" in problem
    assert dmsnap("resize", name, "--dry-run")["steps"]
    with (place / "open").open("wb") as kept_open:
        kept_open.write(b"before ")
        result = dmsnap("resize", name)
        kept_open.write(b"after")
    assert (result["size_bytes_before"], result["size_bytes"]) == (small, large)
    assert (result["label_moved"], result["points_dropped"]) == (False, [])
    assert size_of(front) == large
    assert (place / "open").read_bytes() == b"before after"
    assert status_of(name)["problems"] == []
    assert dmsnap("resize", name)["steps"] == {}

    run(*(("resize2fs", front) if fs_type == "ext4" else ("xfs_growfs", place)))
    assert os.statvfs(place).f_blocks > capacity
    (place / "third").write_bytes(os.urandom(16 * MIB))
    synced = dmsnap("sync", name, "--audit", "full")
    assert (synced["tracker"], COMPARED in synced["reason"]) == ("compare", True)
    (place / "fourth").write_bytes(os.urandom(MIB))
    synced = dmsnap("sync", name, "--audit", "full")
    assert synced["tracker"] == "era"
    assert synced["bytes_dirty"] < small
    run("umount", place)
    dmsnap("sync", name)
    assert sha256(front) == sha256(recovery, large) == sha256(primary)
    check_history(name)
    require_one_label(recovery)
    assert dmsnap("catalogue", "check")["problems"] == []


def check_history(name: str) -> None:
    """The first point, which is of before the resize, has its file, and passes its checker."""
    (first, *_) = dmsnap("point", "list", name)
    mounted = dmsnap("point", "mount", first["id"])
    try:
        assert (Path(mounted["mount_point"]) / "first").stat().st_size == 2 * MIB
    finally:
        dmsnap("point", "umount", first["id"])


def test_points_of_before_are_what_they_were_with_zeroes_behind(lab: Lab) -> None:
    volume = protected(lab, SIZE, history_bytes=64 * MIB)
    for number in range(2):
        write_direct(volume.front, os.urandom(MIB), number * 3 * MIB)
        volume.sync()
    before = {point["id"]: digest_with_zeroes(volume, point["id"]) for point in points(volume)}
    assert len(before) == 3
    enlarge(lab, volume.primary, LARGER)
    fill_end(volume.primary, SIZE, LARGER)
    dmsnap("resize", volume.name)
    volume.size_bytes = LARGER
    assert volume.sync()["tracker"] == "compare"
    volume.check_equal()
    shown = {each: digest_of_point(volume, each, LARGER) for each in before}
    assert shown == before


def fill_end(device: str, start: int, end: int) -> None:
    """What an extended LV has in its new part: anything."""
    for offset in range(start, end, MIB):
        write_direct(device, os.urandom(MIB), offset)


def points(volume: Protected) -> list[Any]:
    return list(dmsnap("point", "list", volume.name))


def digest_with_zeroes(volume: Protected, point: str) -> str:
    """The digest that a point has, with zeroes up to the larger size."""
    return digest_of_point(volume, point, SIZE, LARGER - SIZE)


def digest_of_point(volume: Protected, point: str, size: int, zeroes: int = 0) -> str:
    """By a trial that shows it: raw volumes cannot be mounted."""
    dmsnap("swap", volume.name, "--to", point, "--trial")
    try:
        digest = hashlib.sha256()
        with volume.front.open("rb") as front:
            for _ in range(size // MIB):
                digest.update(front.read(MIB))
        digest.update(bytes(zeroes))
        return digest.hexdigest()
    finally:
        dmsnap("swap", "revert", volume.name)


def test_a_label_is_found_and_moved_when_the_recovery_volume_was_made_larger(lab: Lab) -> None:
    volume = protected(lab, SIZE)
    write_direct(volume.front, os.urandom(MIB), 0)
    volume.sync()
    recovery_size = size_of(volume.recovery)
    held = [point["id"] for point in points(volume)]
    enlarge(lab, volume.recovery, recovery_size + 24 * MIB + 512)
    assert "dmsnap resize" in str(status_of(volume.name)["problems"])
    refused(13, "sync", volume.name)
    result = dmsnap("resize", volume.name)
    assert result["label_moved"]
    assert list(result["steps"]) == ["move-label"]
    require_one_label(volume.recovery)
    assert [point["id"] for point in points(volume)] == held
    assert status_of(volume.name)["problems"] == []
    # Nothing of the volume was touched: tracking goes on.
    write_direct(volume.front, os.urandom(MIB), MIB)
    assert volume.sync("--audit", "full")["tracker"] == "era"
    label_now = volume.label()
    assert label_now["history_length_bytes"] > 24 * MIB
    # Smaller again, no label is there that could be believed.
    image = Path(image_of(volume.recovery))
    content = image.read_bytes()
    enlarge(lab, volume.recovery, recovery_size)
    refused(13, "resize", volume.name)
    refused(13, "swap", volume.name)
    enlarge(lab, volume.recovery, len(content))
    image.write_bytes(content)
    run("blockdev", "--flushbufs", volume.recovery)
    volume.sync("--audit", "full")


@pytest.mark.parametrize("grown_bytes", [4096, 8192, 12288])
def test_the_new_end_may_lie_over_the_old_label(lab: Lab, grown_bytes: int) -> None:
    volume = protected(lab, SIZE)
    enlarge(lab, volume.recovery, size_of(volume.recovery) + grown_bytes)
    dmsnap("resize", volume.name)
    require_one_label(volume.recovery)
    write_direct(volume.front, os.urandom(MIB), 0)
    volume.sync("--audit", "full")
    volume.check_equal()


def test_without_its_primary_the_label_is_found(lab: Lab) -> None:
    """The recovery volume was made larger, and then the primary died."""
    volume = protected(lab, SIZE)
    content = sha256(volume.front)
    enlarge(lab, volume.recovery, size_of(volume.recovery) + 8 * MIB)
    run("dmsetup", "remove", *dm_devices())
    image = image_of(volume.primary)
    run("losetup", "-d", volume.primary)
    lab.loops.remove(volume.primary)
    Path(image).unlink()
    # Its node stays, as that of a LUN may that was unmapped: a device of no size.
    assert dmsnap("resize", volume.name)["label_moved"]
    require_one_label(volume.recovery)
    assert sha256(volume.recovery, SIZE) == content


def test_stores_in_the_way_move_and_points_stay(lab: Lab) -> None:
    volume = protected(lab, SIZE, history_bytes=20 * MIB)
    contents = {}
    for number in range(3):
        contents[points(volume)[-1]["id"]] = sha256(volume.front)
        write_direct(volume.front, os.urandom(2 * MIB), number * 4 * MIB)
        volume.sync()
    enlarge(lab, volume.primary, LARGER)
    assert "made larger" in str(status_of(volume.name)["problems"])
    enlarge(lab, volume.recovery, LARGER + 32 * MIB)
    result = dmsnap("resize", volume.name)
    assert result["label_moved"]
    assert result["stores_moved"] > 0
    assert result["points_dropped"] == []
    require_one_label(volume.recovery)
    volume.size_bytes = LARGER
    volume.sync("--audit", "full")
    volume.check_equal()
    for point in contents:
        assert digest_of_point(volume, point, SIZE) == contents[point]
    check_tidy(volume, lab)


def test_points_without_room_go_only_when_that_was_agreed(lab: Lab) -> None:
    volume = protected(lab, SIZE, history_bytes=40 * MIB)
    for number in range(4):
        write_direct(volume.front, os.urandom(6 * MIB), number * 7 * MIB)
        volume.sync()
    held = [point["id"] for point in points(volume)]
    before = volume.label()
    enlarge(lab, volume.primary, LARGER + 12 * MIB)
    assert "oldest points" in refused(22, "resize", volume.name)
    assert volume.label() == before
    kept = dmsnap("point", "keep", held[0])
    assert kept
    assert "to be kept" in refused(16, "resize", volume.name, "--drop-points")
    dmsnap("point", "keep", held[0], "--off")
    result = dmsnap("resize", volume.name, "--drop-points")
    dropped = result["points_dropped"]
    assert dropped == list(reversed(held))[-len(dropped) :]
    assert [point["id"] for point in points(volume)] == held[len(dropped) :]
    volume.size_bytes = LARGER + 12 * MIB
    volume.sync("--audit", "full")
    volume.check_equal()


def test_a_recovery_volume_that_is_too_small_is_refused(lab: Lab) -> None:
    volume = protected(lab, SIZE, history_bytes=8 * MIB)
    before = volume.label()
    enlarge(lab, volume.primary, LARGER)
    assert "bytes are missing" in refused(5, "resize", volume.name)
    assert volume.label() == before
    write_direct(volume.front, os.urandom(MIB), 0)
    assert volume.sync("--audit", "full")["tracker"] == "era"


def test_a_volume_that_was_made_smaller_is_refused_and_reported(lab: Lab) -> None:
    volume = protected(lab, SIZE)
    enlarge(lab, volume.primary, SIZE - 4 * MIB)
    assert "made smaller" in str(status_of(volume.name)["problems"])
    assert "made smaller" in refused(22, "resize", volume.name)
    enlarge(lab, volume.primary, SIZE)
    assert status_of(volume.name)["problems"] == []


def test_live_points_stand_in_the_way_until_they_may_be_dropped(lab: Lab) -> None:
    volume = protected(lab, SIZE, history_bytes=64 * MIB)
    dmsnap("point", "create", volume.name)
    (live,) = [each["id"] for each in points(volume) if each["places"][0]["kind"] == "live"]
    enlarge(lab, volume.primary, LARGER)
    assert "live points" in refused(22, "resize", volume.name)
    result = dmsnap("resize", volume.name, "--drop-points")
    assert result["points_dropped"] == [live]
    volume.size_bytes = LARGER
    fill_end(str(volume.front), SIZE, LARGER)
    dmsnap("point", "create", volume.name)
    volume.sync("--audit", "full")
    volume.check_equal()


def test_a_logical_volume_that_was_mounted_when_it_was_protected(lab: Lab) -> None:
    """LVM puts its own table back; the layers come back with the new size, under the mount."""
    group = lab.group(lab.disk(128 * MIB))
    administrator("lvcreate", "-qq", "-y", "-L", "32m", "-n", "data", group)
    device = f"/dev/{group}/data"
    place = lab.mounted(device)
    (place / "first").write_bytes(os.urandom(MIB))
    recovery = lab.disk(112 * MIB)
    name = lab.protect(device, recovery, "--live")
    administrator("lvextend", "-qq", "-L", "48m", device)
    result = dmsnap("resize", name)
    assert result["size_bytes"] == LARGER
    assert status_of(name)["problems"] == []
    run("resize2fs", device)
    (place / "second").write_bytes(os.urandom(24 * MIB))
    assert dmsnap("sync", name, "--audit", "full")["tracker"] == "compare"
    (place / "third").write_bytes(os.urandom(MIB))
    assert dmsnap("sync", name, "--audit", "full")["tracker"] == "era"
    run("umount", place)
    dmsnap("sync", name)
    assert sha256(device) == sha256(recovery, LARGER)


def test_a_larger_device_that_it_was_moved_to_was_not_made_larger(lab: Lab) -> None:
    volume, target = protected(lab, SIZE, history_bytes=64 * MIB), lab.disk(LARGER)
    dmsnap("hydrate", volume.name, "--onto", target)
    assert dmsnap("status", volume.name)[0]["problems"] == []
    assert "made larger" not in str(dmsnap("discover", expected=None)["findings"])
    # There and back again it is known.
    dmsnap("swap", volume.name, "--trial")
    dmsnap("swap", "commit", volume.name)
    dmsnap("failback", volume.name)
    assert dmsnap("status", volume.name)[0]["problems"] == []
    enlarge(lab, target, LARGER + 8 * MIB)
    (problem,) = status_of(volume.name)["problems"]
    assert f"from 48 MiB to 56 MiB: dmsnap resize {volume.name} follows it" in problem
    assert dmsnap("resize", volume.name)["size_bytes"] == LARGER + 8 * MIB
    assert dmsnap("status", volume.name)[0]["problems"] == []
    volume.size_bytes = LARGER + 8 * MIB
    fill_end(str(volume.front), SIZE, volume.size_bytes)
    volume.sync("--audit", "full")
    volume.check_equal()
    check_tidy(volume, lab)


def test_a_larger_device_that_it_was_moved_to_is_followed_when_that_is_asked_for(lab: Lab) -> None:
    volume, target = protected(lab, SIZE, history_bytes=64 * MIB), lab.disk(LARGER)
    dmsnap("hydrate", volume.name, "--onto", target)
    assert dmsnap("resize", volume.name)["size_bytes"] == LARGER
    volume.size_bytes = LARGER
    fill_end(str(volume.front), SIZE, LARGER)
    volume.sync("--audit", "full")
    volume.check_equal()
    assert dmsnap("status", volume.name)[0]["problems"] == []


# after swap commit: the recovery volume is the primary


def promoted(lab: Lab, history_bytes: int = 64 * MIB) -> Protected:
    """A raw volume that serves from its recovery volume, and can go back."""
    volume = protected(lab, SIZE, history_bytes=history_bytes)
    volume.sync()
    dmsnap("swap", volume.name, "--trial")
    write_direct(volume.front, os.urandom(MIB), 3 * MIB)
    dmsnap("swap", "commit", volume.name)
    write_direct(volume.front, os.urandom(MIB), 5 * MIB)
    return volume


def told(volume: Protected) -> list[str]:
    """What status says is wrong, but for what is so of every promoted volume."""
    problems = [str(each) for each in status_of(volume.name)["problems"]]
    return [each for each in problems if "has no recovery volume" not in each]


def check_failback(volume: Protected, lab: Lab) -> None:
    """Both devices are what the front showed, in its new size, and tracking goes on from there."""
    content = sha256(volume.front)
    result = dmsnap("failback", volume.name)
    assert result["tracker"] == "compare"
    assert result["bytes_volume"] == volume.size_bytes == size_of(volume.front)
    for device in (volume.front, volume.primary, volume.recovery):
        assert sha256(device, volume.size_bytes) == content
    require_one_label(volume.recovery)
    assert dmsnap("status", volume.name)[0]["problems"] == []
    write_direct(volume.front, os.urandom(MIB), volume.size_bytes - MIB)
    assert volume.sync("--audit", "full")["tracker"] == "era"
    volume.check_equal()
    check_tidy(volume, lab)


def test_a_promoted_volume_becomes_as_large_as_its_former_primary(lab: Lab) -> None:
    volume = promoted(lab)
    content = sha256(volume.front)
    assert dmsnap("resize", volume.name)["steps"] == {}
    enlarge(lab, volume.primary, LARGER)
    assert "was resized" in refused(8, "failback", volume.name)
    result = dmsnap("resize", volume.name)
    assert (result["size_bytes_before"], result["size_bytes"]) == (SIZE, LARGER)
    assert (result["label_moved"], result["recovery"]) == (False, None)
    assert size_of(volume.front) == LARGER
    assert sha256(volume.front, SIZE) == content
    assert volume.label()["size_bytes"] == LARGER
    assert volume.label()["device"] == volume.primary
    assert told(volume) == []
    assert dmsnap("resize", volume.name)["steps"] == {}
    volume.size_bytes = LARGER
    fill_end(str(volume.front), SIZE, LARGER)
    fill_end(volume.primary, SIZE, LARGER)
    check_failback(volume, lab)


def test_a_promoted_volume_follows_when_both_devices_were_made_larger(lab: Lab) -> None:
    """Where the label was, the volume is then: and what is written there stays."""
    volume = promoted(lab, history_bytes=8 * MIB)
    content, before = sha256(volume.front), size_of(volume.recovery)
    enlarge(lab, volume.primary, LARGER + 16 * MIB)
    assert "bytes are missing" in refused(5, "resize", volume.name)
    enlarge(lab, volume.recovery, LARGER + 32 * MIB)
    (problem,) = told(volume)
    assert f"made larger, from {before // MIB} MiB" in problem
    result = dmsnap("resize", volume.name)
    assert (result["size_bytes"], result["label_moved"]) == (LARGER + 16 * MIB, True)
    assert before < size_of(volume.front) == LARGER + 16 * MIB
    require_one_label(volume.recovery)
    assert told(volume) == []
    assert sha256(volume.front, SIZE) == content
    volume.size_bytes = LARGER + 16 * MIB
    fill_end(str(volume.front), SIZE, volume.size_bytes)
    shown = sha256(volume.front)
    run("blockdev", "--flushbufs", volume.recovery)
    assert sha256(volume.recovery, volume.size_bytes) == shown
    check_failback(volume, lab)


@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
def test_a_mounted_promoted_volume_follows(lab: Lab, fs_type: str) -> None:
    small, large = (SIZE, LARGER) if fs_type == "ext4" else (320 * MIB, 352 * MIB)
    primary, recovery = lab.disk(small), lab.disk(small + 48 * MIB)
    place = lab.mounted(primary, fs_type)
    name = lab.protect(primary, recovery)
    (place / "first").write_bytes(os.urandom(2 * MIB))
    dmsnap("sync", name)
    dmsnap("swap", name, "--trial")
    dmsnap("swap", "commit", name)
    capacity, front = os.statvfs(place).f_blocks, f"/dev/mapper/{name}"
    enlarge(lab, primary, large)
    enlarge(lab, recovery, large + 48 * MIB)
    with (place / "open").open("wb") as kept_open:
        kept_open.write(b"before ")
        result = dmsnap("resize", name)
        kept_open.write(b"after")
    assert (place / "open").read_bytes() == b"before after"
    run(*result["grow_file_system"].split())
    assert os.statvfs(place).f_blocks > capacity
    (place / "second").write_bytes(os.urandom(20 * MIB))
    dmsnap("failback", name)
    assert (place / "second").stat().st_size == 20 * MIB
    assert dmsnap("sync", name, "--audit", "full")["tracker"] == "era"
    run("umount", place)
    dmsnap("sync", name)
    run(*(["e2fsck", "-fn"] if fs_type == "ext4" else ["xfs_repair", "-n"]), front)
    assert sha256(front) == sha256(recovery, large) == sha256(primary)


def test_a_promoted_volume_keeps_its_size_while_its_former_primary_does(lab: Lab) -> None:
    volume = promoted(lab)
    # A stack that was built anew counts what is written past its front.
    for name in [volume.name, *(name for name in dm_devices() if name != volume.name)]:
        run("dmsetup", "remove", name)
    dmsnap("assemble", volume.name)
    enlarge(lab, volume.recovery, size_of(volume.recovery) + 24 * MIB)
    sentence = refused(22, "resize", volume.name)
    assert f"{volume.primary}, to which failback leads, has 32 MiB" in sentence
    assert "made larger" in str(told(volume))
    assert "carries no label" in refused(8, "failback", volume.name)
    result = dmsnap("resize", volume.name, "--keep-size")
    assert (result["label_moved"], result["size_bytes"]) == (True, SIZE)
    assert list(result["steps"]) == ["move-label", "record"]
    require_one_label(volume.recovery)
    # The label was written past the front, and by nobody else.
    assert told(volume) == []
    assert dmsnap("resize", volume.name)["steps"] == {}
    write_direct(volume.recovery, os.urandom(4096), 7 * MIB)
    assert "4 KiB were written" in str(told(volume))
    content = sha256(volume.front)
    dmsnap("failback", volume.name)
    assert sha256(volume.front) == sha256(volume.primary) == content
    assert volume.sync("--audit", "full")["tracker"] == "era"
    assert volume.label()["history_length_bytes"] > 80 * MIB


def test_without_its_former_primary_a_promoted_volume_has_its_whole_device(lab: Lab) -> None:
    volume, other = promoted(lab), lab.disk(160 * MIB)
    content = sha256(volume.front)
    image = image_of(volume.primary)
    run("losetup", "-d", volume.primary)
    lab.loops.remove(volume.primary)
    Path(image).unlink()
    enlarge(lab, volume.recovery, 128 * MIB)
    assert "is not there" in refused(22, "resize", volume.name)
    result = dmsnap("resize", volume.name, "--give-up-former")
    assert (result["size_bytes"], result["given_up"]) == (123 * MIB, volume.primary)
    assert size_of(volume.front) == 123 * MIB
    assert sha256(volume.front, SIZE) == content
    require_one_label(volume.recovery)
    assert volume.label()["device"] == ""
    assert told(volume) == []
    assert len(list(Path(lab.store()).iterdir())) == 1
    refused(22, "failback", volume.name)
    refused(22, "resize", volume.name, "--give-up-former")
    fill_end(str(volume.front), SIZE, 123 * MIB)
    content = sha256(volume.front)
    # Given another recovery volume, it is what it was.
    dmsnap("unprotect", volume.name)
    assert sha256(volume.recovery, 123 * MIB) == content
    again = lab.protect(volume.recovery, other)
    dmsnap("sync", again, "--audit", "full")
    assert sha256(f"/dev/mapper/{again}", 123 * MIB) == content


def test_moved_to_another_device_a_promoted_volume_follows_and_goes_back(lab: Lab) -> None:
    """To a smaller one than it was on: its label says where the history of that ends."""
    volume, target = promoted(lab, history_bytes=96 * MIB), lab.disk(LARGER + 8 * MIB)
    dmsnap("hydrate", volume.name, "--onto", target)
    require_one_label(target)
    assert told(volume) == []
    assert dmsnap("resize", volume.name)["steps"] == {}
    enlarge(lab, volume.primary, LARGER)
    assert dmsnap("resize", volume.name)["size_bytes"] == LARGER
    volume.recovery, volume.size_bytes = target, LARGER
    fill_end(str(volume.front), SIZE, LARGER)
    check_failback(volume, lab)


# what interrupts it


def grown_bench(lab: Lab) -> Bench:
    bench = Bench.made(lab, protected=False)
    enlarge(lab, bench.recovery, 128 * MIB)
    dmsnap(*bench.protect)
    return bench


class Growing:
    """A device that becomes larger from try to try: a resize that was through is not taken back."""

    def __init__(self, lab: Lab, device: str, step_bytes: int = MIB) -> None:
        self.lab = lab
        self.device = device
        self.step_bytes = step_bytes

    def __call__(self) -> None:
        enlarge(self.lab, self.device, size_of(self.device) + self.step_bytes)


@pytest.mark.parametrize("number", [signal.SIGTERM, rarely(signal.SIGINT)])
def test_a_signal_takes_it_back(lab: Lab, number: int) -> None:
    bench = grown_bench(lab)
    grow = Growing(lab, bench.primary)
    grow()
    interrupted(bench, ["resize", bench.name], lambda: None, number=number, prepare=grow)
    dmsnap("resize", bench.name)
    bench.dirty()
    dmsnap("sync", bench.name, "--audit", "full")
    assert size_of(f"/dev/mapper/{bench.name}") == size_of(bench.primary)


@pytest.mark.parametrize(
    ("recovery_too", "which"),
    [rarely(False, EVERY), rarely(True, EVERY), (True, EVEN)],
)
def test_killed_anywhere_it_is_finished_or_taken_back(
    lab: Lab, recovery_too: bool, which: slice
) -> None:
    bench = grown_bench(lab)
    grow, grow_recovery = Growing(lab, bench.primary), Growing(lab, bench.recovery, 2 * MIB)
    before = bench.look()
    grow()
    if recovery_too:
        grow_recovery()
    count = steps_of("resize", bench.name)
    for at in moments(count, which):
        after = 0.004 * (at[0] % 3) if at[1] == "begun" else 0
        ended = forked("resize", bench.name, at=at, send=(signal.SIGKILL,), after=after)
        step = f"killed after step {at}: {ended}"
        assert ended.code in (0, -signal.SIGKILL), step
        assert wait_resumed() == [], step
        let_go()
        dmsnap("job", "resume", "--all")
        assert catalogue_rows("select id from job where state = 'running'") == [], step
        require_one_label(bench.recovery)
        recorded = catalogue_rows("select size_bytes from volume where removed_ns is null")
        assert recorded == [(size_of(f"/dev/mapper/{bench.name}"),)], step
        assert bench.label()["size_bytes"] == recorded[0][0], step
        dmsnap("resize", bench.name)
        bench.require_in_use(step)
        assert size_of(f"/dev/mapper/{bench.name}") == size_of(bench.primary), step
        bench.dirty()
        dmsnap("sync", bench.name, "--audit", "full")
        assert not leftovers(bench, before), step
        grow()
        if recovery_too:
            grow_recovery()


def test_killed_while_it_gives_the_former_metadata_back_no_command_is_kept_out(lab: Lab) -> None:
    volume = protected(lab, SIZE)
    enlarge(lab, volume.primary, LARGER)
    with patch.object(Catalogue, "remove_area", dying(Catalogue.remove_area, before=True)):
        assert forked("resize", volume.name).code == -signal.SIGKILL
    retired = "select path from area where role = 'era-retired'"
    ((path,),) = catalogue_rows(retired)
    assert not Path(path).exists()
    dmsnap("job", "resume", "--all")
    assert catalogue_rows(retired) == []
    assert len(list((lab.directory / "store").iterdir())) == 1
    assert size_of(volume.front) == LARGER
    dmsnap("unprotect", volume.name)


@pytest.mark.parametrize(
    ("words", "which"),
    [
        ((), ODD),
        rarely((), EVERY),
        rarely(("--give-up-former",), EVERY),
    ],
)
def test_killed_anywhere_a_promoted_volume_is_resized_or_not(
    lab: Lab, words: tuple[str, ...], which: slice
) -> None:
    bench = grown_bench(lab)
    grow, grow_recovery = Growing(lab, bench.primary), Growing(lab, bench.recovery, 2 * MIB)
    count, number = 1, 0
    while number < len(moments(count, which)):
        dmsnap("swap", bench.name, "--trial")
        dmsnap("swap", "commit", bench.name)
        if not words:
            grow()
        grow_recovery()
        count = steps_of("resize", bench.name, *words)
        at = moments(count, which)[number]
        ended = forked("resize", bench.name, *words, at=at, send=(signal.SIGKILL,), after=0.004)
        step = f"killed after step {at}: {ended}"
        assert ended.code in (0, -signal.SIGKILL), step
        assert wait_resumed() == [], step
        let_go()
        dmsnap("job", "resume", "--all")
        assert catalogue_rows("select id from job where state = 'running'") == [], step
        require_one_label(bench.recovery)
        recorded = catalogue_rows("select size_bytes from volume where removed_ns is null")
        assert recorded == [(size_of(f"/dev/mapper/{bench.name}"),)], step
        assert bench.label()["size_bytes"] == recorded[0][0], step
        bench.require_in_use(step)
        bench.dirty()
        if words:
            again_protected(bench)
        else:
            dmsnap("resize", bench.name)
            assert size_of(f"/dev/mapper/{bench.name}") == size_of(bench.primary), step
            dmsnap("failback", bench.name)
            bench.require_in_use(step)
        dmsnap("sync", bench.name, "--audit", "full")
        number += 1


def let_go() -> None:
    """Wait for a program that a killed command was about to run: until it does it has the lock."""
    wait_until("nobody works on a volume", lambda: not locks_held())


def again_protected(bench: Bench) -> None:
    """As it was at first, on the other device: whether its former one was given up or not."""
    store = Path(bench.lab.store())
    dmsnap("unprotect", bench.name)
    assert list(store.iterdir()) == []
    run("umount", bench.mount_point)
    run("dd", f"if={bench.recovery}", f"of={bench.primary}", "bs=1M", f"count={SIZE // MIB}")
    run("mount", "-o", "noatime,nodev", bench.primary, bench.mount_point)
    dmsnap(*bench.protect, "--overwrite")


def leftovers(bench: Bench, before: Any) -> list[str]:
    """What is there besides: the tables have another size, and the metadata another name."""
    after = bench.look()
    assert len(before.dm_tables) == len(after.dm_tables)
    assert len(before.stores) == len(after.stores), after.stores
    assert len(before.loops) == len(after.loops)
    ignored = ("dm_tables", "stores", "loops", "catalogue")
    return [each for each in differences(before, after) if each.split(":")[0] not in ignored]


# what it relies on


def test_the_kernel_keeps_a_snapshot_of_an_origin_that_grows(lab: Lab) -> None:
    """Nothing beyond the snapshot's end is kept, all before it is (dm-snap.c, __origin_write)."""
    disk, cow = lab.disk(LARGER), lab.disk(16 * MIB)
    sectors, larger = SIZE // SECTOR, LARGER // SECTOR
    try:
        run("dmsetup", "create", "fact-origin", "--uuid", "DMSNAP-fact-origin", "--table",
            f"0 {sectors} snapshot-origin {disk}")  # fmt: skip
        run("dmsetup", "create", "fact-point", "--uuid", "DMSNAP-fact-point", "--table",
            f"0 {sectors} snapshot {disk} {cow} P 8")  # fmt: skip
        run("dmsetup", "suspend", "fact-origin")
        run("dmsetup", "load", "fact-origin", "--table", f"0 {larger} snapshot-origin {disk}")
        run("dmsetup", "resume", "fact-origin")
        before = sha256("/dev/mapper/fact-point")
        write_direct("/dev/mapper/fact-origin", os.urandom(2 * MIB), SIZE - MIB)
        write_direct("/dev/mapper/fact-origin", os.urandom(MIB), LARGER - MIB)
        assert sha256("/dev/mapper/fact-point") == before
        assert "Invalid" not in run("dmsetup", "status", "fact-point")
    finally:
        run("dmsetup", "remove", "fact-point", expected=None)
        run("dmsetup", "remove", "fact-origin", expected=None)


def test_dm_era_keeps_its_marks_when_metadata_that_nobody_has_open_get_a_larger_device(
    lab: Lab,
) -> None:
    """So it could be done with the front unmounted; with one in use it would take two targets."""
    disk, metadata = lab.disk(LARGER), lab.disk(8 * MIB)
    block = 128
    front = "/dev/mapper/fact-era"
    try:
        for size in (SIZE, LARGER):
            run("dmsetup", "create", "fact-era", "--uuid", "DMSNAP-fact-era", "--table",
                f"0 {size // SECTOR} era {metadata} {disk} {block}")  # fmt: skip
            write_direct(front, os.urandom(4096), size - MIB)
            run("dmsetup", "suspend", "fact-era")
            run("dmsetup", "resume", "fact-era")
            run("dmsetup", "remove", "fact-era")
        found = dmsnap("inspect", "era", metadata, "--since", "1")
        offsets = [offset for offset, _ in found["extents"]]
        assert offsets == [SIZE - MIB, LARGER - MIB]
    finally:
        run("dmsetup", "remove", "fact-era", expected=None)
