"""No command takes more than 150 MiB, however large a volume is, and however scattered its writes.

One volume is cut into many blocks, every other of which is written to: most of them lie on dm-zero,
where that costs nothing. The other is half as large as a file on ext4 can be, with a file system.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from conftest import CATALOGUE, MIB, Lab, configured, dmsnap, label_on, run
from lost_state import lose_catalogue
from peak_memory import LIMIT_BYTES, Peaks, measured
from raw_volume import KIB, SECTOR, Protected
from test_era_large import mapped
from test_failback import scribble
from test_prune import under_policy
from test_resize import enlarge

from dmsnap.catalogue.clock import format_time
from dmsnap.catalogue.store import Catalogue

BLOCK = 4 * KIB
SIZE = 1024 * MIB
SOLID = 64 * MIB  # of it is kept; what is written behind that is lost
SCATTERED = SIZE // BLOCK // 2
HISTORY = 512 * MIB
SYNCS = 12
POINTS = 10_000
HOUR_NS = 3600 * 10**9
TIB = 1 << 40


def test_what_is_measured_is_the_command_alone() -> None:
    """Of a process that has more itself, what starts small stays so; what takes more is seen."""
    held = b"x" * LIMIT_BYTES
    _, small = measured("true")
    _, large = measured("python3", "-c", f"held = b'x' * {LIMIT_BYTES}")
    _, by_a_child = measured("sh", "-c", f"python3 -c \"held = b'x' * {LIMIT_BYTES}\"; true")
    assert small < 16 * MIB < len(held)
    assert min(large, by_a_child) > LIMIT_BYTES
    peaks = Peaks({"small": small, "large": large})
    with pytest.raises(AssertionError, match="large"):
        peaks.require_small()


@contextmanager
def scattered_disk(lab: Lab) -> Iterator[str]:
    """A device of which only the beginning is more than zeroes."""
    run("modprobe", "dm-zero")
    solid, sectors = lab.disk(SOLID), SIZE // SECTOR
    kept = SOLID // SECTOR
    table = f"0 {kept} linear {solid} 0\n{kept} {sectors - kept} zero"
    with mapped("lab-scattered", table) as device:
        try:
            yield device
        finally:
            lab.take_down()


def scatter(front: Path, size_bytes: int) -> None:
    """Write every other block up to there, each one anew."""
    page = os.urandom(BLOCK)
    descriptor = os.open(front, os.O_WRONLY)
    try:
        for offset in range(0, size_bytes, 2 * BLOCK):
            os.pwrite(descriptor, page, offset)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def past_points(volume: Protected) -> str:
    """Have the catalogue hold many points that were deleted; a moment at which all were there."""
    with Catalogue.open(CATALOGUE) as catalogue:
        recorded = catalogue.volume(volume.name)
        newest = catalogue.points(recorded.id)[-1]
        first_ns = newest.created_ns - POINTS * HOUR_NS
        points = [
            replace(newest, id=uuid4(), created_ns=first_ns + number * HOUR_NS, area_id=None)
            for number in range(POINTS)
        ]
        catalogue.add_points(points)
        catalogue.delete_points([point.id for point in points], "no room")
    return format_time(points[-1].created_ns + HOUR_NS // 2)


@pytest.fixture
def peaks() -> Peaks:
    return Peaks()


@pytest.mark.exhaustive
def test_scattered_writes(lab: Lab, peaks: Peaks) -> None:
    """Every command that is about blocks or points: 131,072 of them are written."""
    recovery = lab.disk(SIZE + HISTORY)
    with scattered_disk(lab) as primary:
        name = lab.name()
        peaks.dmsnap("protect", primary, "--name", name, "--recovery", recovery, "--store",
                     lab.store(), "--block-size", BLOCK)  # fmt: skip
        volume = Protected(name, primary, recovery, SIZE, BLOCK)
        commands_on_blocks(peaks, volume, Path(lab.store()))
        commands_on_points(peaks, volume)
        commands_on_devices(peaks, volume, lab)
        peaks.dmsnap("unprotect", name)
    peaks.require_small()


def commands_on_blocks(peaks: Peaks, volume: Protected, store_directory: Path) -> None:
    """What reads marks or exceptions, of as many as there are."""
    name = volume.name
    scatter(volume.front, SIZE)
    marked = peaks.dmsnap("inspect", "era", volume.front, "--since", 1)
    assert len(marked["extents"]) == SCATTERED
    verified = peaks.dmsnap("verify", name, "--full")
    assert verified["bytes_dirty"] == SCATTERED * BLOCK
    synced = peaks.dmsnap("sync", name, "--audit", "full")
    assert (synced["tracker"], synced["bytes_dirty"]) == ("era", SCATTERED * BLOCK)
    assert synced["bytes_written"] == SOLID // 2
    (live,) = peaks.dmsnap("point", "create", name)
    scatter(volume.front, SOLID)
    (store,) = store_directory.glob(f"*{name}-cow-*")
    kept = peaks.dmsnap("inspect", "store", store)
    assert kept["exceptions"] == SOLID // BLOCK // 2
    peaks.dmsnap("snapshot", "changed", live["id"])
    peaks.dmsnap("point", "delete", live["id"])
    peaks.dmsnap("sync", name)


def commands_on_points(peaks: Peaks, volume: Protected) -> None:
    """What has to do with all points, of a long history and ten thousand that are gone."""
    name = volume.name
    oldest = dmsnap("point", "list", name)[0]["id"]
    for number in range(SYNCS):
        scribble(volume, 10, number)
        volume.sync()
    moment = past_points(volume)
    assert len(peaks.dmsnap("point", "list", "--as-of", moment)) == POINTS
    assert len(peaks.dmsnap("point", "list", name)) == SYNCS + 3
    peaks.dmsnap("point", "show", oldest)
    peaks.dmsnap("status")
    peaks.dmsnap("doctor", expected=None)
    peaks.dmsnap("metrics")
    peaks.dmsnap("report", "--html", "/scratch/report.html")
    peaks.dmsnap("inspect", "label", volume.recovery)
    peaks.dmsnap("job", "list")
    peaks.dmsnap("catalogue", "check")
    peaks.dmsnap("catalogue", "backup", name)
    peaks.dmsnap("point", "keep", oldest)
    with under_policy(volume, primary=1, history=3):
        (pruned,) = peaks.dmsnap("prune", name)
    assert "merge" in {point["action"] for point in pruned["points"]}
    assert len(label_on(volume.recovery)["history"]) < 5


def commands_on_devices(peaks: Peaks, volume: Protected, lab: Lab) -> None:
    """What puts another device in the place of one, or makes one larger."""
    name = volume.name
    peaks.dmsnap("swap", name)
    scatter(volume.front, SOLID)
    peaks.dmsnap("swap", "revert", name)
    peaks.dmsnap("swap", name, "--to", dmsnap("point", "list", name)[0]["id"])
    scatter(volume.front, SOLID)
    peaks.dmsnap("swap", "commit", name)
    scatter(volume.front, SOLID)
    peaks.dmsnap("failback", name)
    onto = lab.disk(SIZE)
    peaks.dmsnap("hydrate", name, "--onto", onto)
    enlarge(lab, onto, SIZE + 64 * MIB)
    enlarge(lab, volume.recovery, SIZE + HISTORY + 64 * MIB)
    peaks.dmsnap("resize", name, "--drop-points")
    lose_catalogue()
    peaks.dmsnap("catalogue", "rebuild")


def test_a_large_volume(lab: Lab, peaks: Peaks) -> None:
    """With a file system that uses little of it: era blocks as protect chooses them."""
    size_bytes = 8 * TIB
    primary, recovery = lab.disk(size_bytes), lab.disk(size_bytes + HISTORY)
    mount_point = lab.mounted(primary, "xfs")
    name = lab.name()
    with configured(f"cow_limit_bytes = {64 * MIB}"):
        peaks.dmsnap("protect", primary, "--name", name, "--recovery", recovery, "--store",
                     lab.store())  # fmt: skip
        for words in (
            ("sync", name, "--audit", "full"),
            ("verify", name, "--full"),
            ("point", "create", name),
            ("status", name),
            ("swap", name),
            ("swap", "commit", name, "--drop-points"),
            ("failback", name),
            ("unprotect", name),
        ):
            if words[0] in ("sync", "failback"):
                (mount_point / "written").write_bytes(os.urandom(8 * MIB))
            peaks.dmsnap(*words)
    peaks.require_small()
