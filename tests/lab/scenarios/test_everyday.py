"""The everyday path on a real kernel: protect, sync, recover, go back, commit."""

import os
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from conftest import MIB, Lab, dm_devices, dmsnap, run, sha256

from dmsnap.units import format_size

SIZES = {"ext4": 64 * MIB, "xfs": 320 * MIB}  # nearly the smallest; every sync reads all of it
HISTORY_BYTES = 96 * MIB


def write_files(root: Path, count: int, seed: int) -> None:
    for number in range(count):
        (root / f"file-{seed}-{number}").write_bytes(os.urandom(20_000 + 37 * number))
    os.sync()


def checksums(root: Path) -> str:
    return run("sh", "-c", f"cd {root} && find . -type f | sort | xargs sha256sum")


@pytest.mark.selection
@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
def test_protect_sync_swap_and_revert(lab: Lab, fs_type: str) -> None:
    size_bytes = SIZES[fs_type]
    primary, recovery = lab.disk(size_bytes), lab.disk(size_bytes + HISTORY_BYTES)
    mount_point = lab.mounted(primary, fs_type, "noatime")
    write_files(mount_point, 50, 0)

    name = lab.protect(primary, recovery)
    assert f"/dev/mapper/{name} {mount_point} {fs_type}" in Path("/proc/mounts").read_text()
    assert "noatime" in run("findmnt", "-no", "OPTIONS", mount_point)

    moments, syncs = [], []
    for seed in range(1, 4):
        write_files(mount_point, 20, seed)
        moments.append(checksums(mount_point))
        result = dmsnap("sync", name, "--audit", "full")
        assert result["tracker"] == "era"
        assert result["bytes_dirty"] < size_bytes // 2
        assert result["audit"]["bytes_different"] == 0
        syncs.append(result["point"])

    points = dmsnap("point", "list", name)
    assert len(points) == 4

    # The primary is spoiled under a mounted file system.
    run("sh", "-c", f"rm -rf {mount_point}/*; sync")
    begun = time.monotonic()
    swapped = dmsnap("swap", name, "--trial")
    lasted = time.monotonic() - begun
    assert swapped["state"] == "trial"
    assert checksums(mount_point) == moments[-1]
    (mount_point / "written-in-trial").write_text("x")
    dmsnap("swap", "revert", name)
    assert list(mount_point.glob("file-*")) == []
    (status,) = dmsnap("status", name)
    assert 0 < status["recovery_seconds"] <= lasted
    check_report(lab.directory / "report.html", points, syncs, recovery)

    # An earlier point, and back again.
    earlier = [point["id"] for point in points][2]
    dmsnap("swap", name, "--to", earlier, "--trial")
    assert checksums(mount_point) == moments[1]
    dmsnap("swap", "revert", name)

    dmsnap("swap", name, "--to", earlier, "--trial")
    (mount_point / "kept").write_text("written in the trial")
    dmsnap("swap", "commit", name)
    assert checksums(mount_point).replace(checksums_of(mount_point / "kept"), "") == moments[1]
    run("umount", mount_point)
    check = ["e2fsck", "-fn"] if fs_type == "ext4" else ["xfs_repair", "-n"]
    run(*check, f"/dev/mapper/{name}")
    run("mount", f"/dev/mapper/{name}", mount_point)
    dmsnap("unprotect", name)
    assert dm_devices() == []
    assert recovery in Path("/proc/mounts").read_text()


def check_report(path: Path, points: Any, syncs: list[str], recovery: str) -> None:
    """It has every point with its places, and what each sync overwrote, as the label has it."""
    result = dmsnap("report", "--html", path)
    assert (result["volumes"], result["size_bytes"]) == (1, path.stat().st_size)
    assert path.stat().st_mode & 0o7777 == 0o600
    page = ET.parse(path)
    rows = [[text(cell) for cell in row.iter("td")] for row in page.iter("tr")]
    listed = [
        [each["id"][:8], each["created"], ", ".join(at["kind"] for at in each["places"]), "-"]
        for each in reversed(points)
    ]
    assert [row for row in rows if len(row) == 4] == listed
    history = dmsnap("inspect", "label", recovery)["history"]
    stores = [each["store_length_bytes"] for each in history]
    assert min(stores) > 0
    taken = {each["id"]: each["created"] for each in points}
    overwritten = [
        [taken[point], format_size(size)]
        for point, size in zip(reversed(syncs), stores, strict=True)
    ]
    assert [row for row in rows if len(row) == 2] == overwritten
    # The drawing of what was overwritten says the same, the oldest first.
    titles = [text(rect) for rect in page.iter("rect")]
    bars = [title for title in titles if ": " in title]
    assert bars == [": ".join(row) for row in reversed(overwritten)]


def text(element: ET.Element) -> str:
    return "".join(element.itertext())


def checksums_of(file: Path) -> str:
    return run("sh", "-c", f"cd {file.parent} && sha256sum ./{file.name}")


def test_unprotect_gives_the_device_back(lab: Lab) -> None:
    """As it is after writes, a sync, a point and a trial that was written to and reverted."""
    primary, recovery = lab.disk(64 * MIB), lab.disk(96 * MIB)
    run("dd", "if=/dev/urandom", f"of={primary}", "bs=1M", "count=64", "oflag=direct")
    first = sha256(primary)
    name = lab.protect(primary, recovery)
    assert sha256(recovery, 64 * MIB) == first

    def write(offset_bytes: int) -> str:
        run("dd", "if=/dev/urandom", f"of=/dev/mapper/{name}", "bs=512", "count=200",
            f"seek={offset_bytes // 512}", "oflag=direct")  # fmt: skip
        return sha256(f"/dev/mapper/{name}")

    write(3 * MIB - 512)
    dmsnap("sync", name)
    synced = sha256(recovery, 64 * MIB)
    dmsnap("point", "create", name)
    written = write(50 * MIB)
    dmsnap("swap", name, "--trial")
    assert write(20 * MIB) not in (synced, written)
    dmsnap("swap", "revert", name)
    assert len({first, synced, written}) == 3
    dmsnap("unprotect", name)
    assert (sha256(primary), sha256(recovery, 64 * MIB)) == (written, synced)
    assert dm_devices() == []
    assert dmsnap("inspect", "label", recovery)["state"] == "consistent"


def test_mounting_points(lab: Lab) -> None:
    primary, recovery = lab.disk(128 * MIB), lab.disk(256 * MIB)
    mount_point = lab.mounted(primary)
    (mount_point / "state").write_text("one")
    name = lab.protect(primary, recovery)
    (mount_point / "state").write_text("two")
    (live,) = dmsnap("point", "create", name)
    (mount_point / "state").write_text("three")
    dmsnap("sync", name)
    (mount_point / "state").write_text("four")
    seen = {}
    for point in dmsnap("point", "list", name):
        mounted = dmsnap("point", "mount", point["id"])
        seen[point["id"]] = (Path(mounted["mount_point"]) / "state").read_text()
        options = run("findmnt", "-no", "OPTIONS", mounted["mount_point"])
        assert {"ro", "nodev", "nosuid", "noexec"} <= set(options.strip().split(","))
        dmsnap("point", "umount", point["id"])
    assert seen[live["id"]] == "two"
    assert sorted(seen.values()) == ["one", "three", "two"]
    dmsnap("point", "delete", live["id"])
    dmsnap("status", name)
