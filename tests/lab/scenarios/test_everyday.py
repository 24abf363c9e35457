"""The everyday path on a real kernel: protect, sync, recover, go back, commit."""

import os
from pathlib import Path

import pytest
from conftest import MIB, Lab, dm_devices, dmsnap, run, sha256

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

    moments = []
    for seed in range(1, 4):
        write_files(mount_point, 20, seed)
        moments.append(checksums(mount_point))
        result = dmsnap("sync", name, "--audit", "full")
        assert result["tracker"] == "era"
        assert result["bytes_dirty"] < size_bytes // 2
        assert result["audit"]["bytes_different"] == 0

    points = dmsnap("point", "list", name)
    assert len(points) == 4

    # The primary is spoiled under a mounted file system.
    run("sh", "-c", f"rm -rf {mount_point}/*; sync")
    swapped = dmsnap("swap", name, "--trial")
    assert swapped["state"] == "trial"
    assert checksums(mount_point) == moments[-1]
    (mount_point / "written-in-trial").write_text("x")
    dmsnap("swap", "revert", name)
    assert list(mount_point.glob("file-*")) == []

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


def checksums_of(file: Path) -> str:
    return run("sh", "-c", f"cd {file.parent} && sha256sum ./{file.name}")


def test_unprotect_gives_the_device_back(lab: Lab) -> None:
    primary, recovery = lab.disk(64 * MIB), lab.disk(96 * MIB)
    run("dd", "if=/dev/urandom", f"of={primary}", "bs=1M", "count=64", "oflag=direct")
    before = sha256(primary)
    name = lab.protect(primary, recovery)
    assert sha256(recovery, 64 * MIB) == before
    dmsnap("unprotect", name)
    assert sha256(primary) == before
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
