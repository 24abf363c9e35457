"""First copies leave out what the file system does not use, and never a byte that it does."""

import os
from pathlib import Path
from typing import Any

import pytest
from conftest import MIB, Lab, configured, dmsnap, rarely, run, sha256
from file_workload import check_files, checksums, fill_and_age, mounted_replica, windows, workload

SIZE = 330 * MIB + 4096 * 3  # the file system ends before the device does
HISTORY = 56 * MIB

MKFS = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-b", "4096"),
    "ext4-4k-no-journal": ("mkfs.ext4", "-q", "-F", "-b", "4096", "-O", "^has_journal"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "xfs-rmapbt": ("mkfs.xfs", "-q", "-f", "-m", "rmapbt=1,reflink=1"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
    "btrfs-mixed": ("mkfs.btrfs", "-q", "-f", "--mixed"),
}


def fs_type_of(kind: str) -> str:
    return kind.split("-")[0]


def garbage(device: str) -> None:
    """No zeroes on the recovery device: what was not copied is seen to differ."""
    run("dd", "if=/dev/urandom", f"of={device}", "bs=4M", "oflag=direct", "status=none", expected=1)


def formatted(lab: Lab, kind: str, size_bytes: int = SIZE) -> tuple[str, str, Path]:
    primary, recovery = lab.disk(size_bytes), lab.disk(size_bytes + HISTORY)
    garbage(recovery)
    run(*MKFS[kind], primary)
    root = lab.directory / "volume"
    root.mkdir()
    lab.mounts.append(root)
    run("mount", "-t", fs_type_of(kind), primary, root)
    return primary, recovery, root


@pytest.mark.parametrize(
    "kind",
    [
        "ext4",
        rarely("ext4-4k-no-journal"),
        "xfs",
        rarely("xfs-rmapbt"),
        "btrfs",
        rarely("btrfs-mixed"),
    ],
)
def test_a_first_copy_of_an_aged_file_system_under_load(lab: Lab, kind: str) -> None:
    primary, recovery, root = formatted(lab, kind)
    fs_type = fs_type_of(kind)
    kept = fill_and_age(root, 190)
    name = lab.name()
    # Enough for whatever is written until the last of it is copied.
    settings = ("cow_percent = 110", "window_deadline_ms = 60000")
    with workload(lab, root, name) as log, windows(log) as moments, configured(*settings):
        result = dmsnap(
            "protect", primary, "--name", name, "--recovery", recovery, "--store", lab.store(),
        )  # fmt: skip
    assert result["full_reason"] is None
    assert result["bytes_written"] + result["bytes_zero"] + result["bytes_skipped"] == SIZE
    assert result["bytes_skipped"] > SIZE // 3, result

    # What was not written since is equal, apart from what was left out.
    verified = dmsnap("verify", name, "--full")
    assert 0 < verified["audit"]["bytes_skipped"] <= result["bytes_skipped"]

    run("umount", root)
    with mounted_replica(lab, recovery, SIZE, fs_type) as seen:
        assert checksums(seen) == kept
        assert check_files(seen, log, *moments[0]) > 0

    # Syncs by the era copy what comes to be used: the free space is filled.
    run("mount", "-t", fs_type, f"/dev/mapper/{name}", root)
    for number in range(30):
        (root / f"old-new-{number}").write_bytes(os.urandom(2 * MIB))
        if number == 15:
            synced = dmsnap("sync", name, "--audit", "full")
            assert synced["tracker"] == "era"
    full = checksums(root)
    run("umount", root)
    synced = dmsnap("sync", name, "--audit", "full")
    assert synced["tracker"] == "era"
    assert synced["audit"]["bytes_skipped"] < verified["audit"]["bytes_skipped"]
    with mounted_replica(lab, recovery, SIZE, fs_type) as seen:
        assert checksums(seen) == full

    # A comparison in full copies what was left out, without room in the history for it.
    dmsnap("unprotect", name)
    again = dmsnap(
        "protect", primary, "--name", name, "--recovery", recovery, "--store", lab.store(),
    )  # fmt: skip
    assert synced["audit"]["bytes_skipped"] > HISTORY
    assert again["bytes_skipped"] == 0
    assert again["bytes_written"] >= synced["audit"]["bytes_skipped"]
    assert sha256(recovery, SIZE) == sha256(primary)
    assert dmsnap("verify", name, "--full")["audit"]["bytes_skipped"] == 0
    (earlier,) = [
        point for point in dmsnap("point", "list", name) if point["id"] == synced["point"]
    ]
    assert [place["kind"] for place in earlier["places"]] == ["history"]


def test_everything_is_copied_when_asked_for(lab: Lab) -> None:
    primary, recovery, root = formatted(lab, "ext4", 128 * MIB)
    fill_and_age(root, 60)
    result_of_protect = protected(lab, primary, recovery, "--full")
    assert result_of_protect["bytes_skipped"] == 0
    assert "asked for" in result_of_protect["full_reason"]
    run("umount", root)
    dmsnap("sync", result_of_protect["volume"])
    assert sha256(recovery, 128 * MIB) == sha256(primary)


def protected(lab: Lab, primary: str, recovery: str, *options: str) -> dict[str, Any]:
    result: dict[str, Any] = dmsnap(
        "protect", primary, "--name", lab.name(), "--recovery", recovery, "--store", lab.store(),
        *options,
    )  # fmt: skip
    return result


@pytest.mark.parametrize(
    ("mkfs", "options", "reason"),
    [
        (("mkfs.ext4", "-q", "-F", "-b", "1024"), "", "smaller than 4 KiB"),
        (("mkfs.ext4", "-q", "-F", "-b", "4096", "-O", "bigalloc"), "", "bigalloc"),
        (("mkfs.ext4", "-q", "-F", "-b", "4096"), "ro", "read-only"),
        (None, "", "not mounted"),
    ],
)
def test_what_is_not_known_is_copied_in_full(
    lab: Lab, mkfs: tuple[str, ...] | None, options: str, reason: str
) -> None:
    size_bytes = 64 * MIB
    primary, recovery = lab.disk(size_bytes), lab.disk(size_bytes + HISTORY)
    garbage(recovery)
    if mkfs is not None:
        run(*mkfs, primary)
        root = lab.directory / "volume"
        root.mkdir()
        lab.mounts.append(root)
        run("mount", *(["-o", options] if options else []), primary, root)
    result = protected(lab, primary, recovery)
    assert reason in str(result["full_reason"])
    assert result["bytes_skipped"] == 0
    if mkfs is not None:
        run("umount", lab.directory / "volume")
        dmsnap("sync", result["volume"])
    assert sha256(recovery, size_bytes) == sha256(primary)


def test_a_btrfs_of_two_devices_is_copied_in_full(lab: Lab) -> None:
    primary, second = lab.disk(256 * MIB), lab.disk(256 * MIB)
    recovery = lab.disk(256 * MIB + HISTORY)
    run("mkfs.btrfs", "-q", "-f", "-d", "single", "-m", "raid1", primary, second)
    root = lab.directory / "volume"
    root.mkdir()
    lab.mounts.append(root)
    run("mount", "-t", "btrfs", primary, root)
    result = protected(lab, primary, recovery)
    assert "several devices" in str(result["full_reason"])
    assert result["bytes_skipped"] == 0


def test_what_was_left_out_is_known_after_a_commit_and_a_failback(lab: Lab) -> None:
    """Both volumes keep other remains of deleted files where neither was written to."""
    primary, recovery, root = formatted(lab, "ext4")
    kept = fill_and_age(root, 190)
    name = protected(lab, primary, recovery)["volume"]
    (root / "old-second").write_bytes(os.urandom(MIB))
    run("sync")
    first, second = kept, checksums(root)
    (root / "old-third").write_bytes(os.urandom(20 * MIB))
    dmsnap("sync", name)
    points = dmsnap("point", "list", name)
    dmsnap("swap", name, "--to", points[0]["id"])
    assert checksums(root) == first
    (root / "old-fourth").write_bytes(os.urandom(3 * MIB))
    dmsnap("swap", "commit", name)
    (root / "old-fifth").write_bytes(os.urandom(5 * MIB))
    now = checksums(root)
    assert now != second
    back = dmsnap("failback", name)
    assert back["tracker"] == "era"
    assert checksums(root) == now
    assert back["bytes_compared"] < SIZE // 2
    verified = dmsnap("verify", name, "--full")
    assert verified["audit"]["bytes_skipped"] > SIZE // 4
    (root / "old-sixth").write_bytes(os.urandom(5 * MIB))
    now = checksums(root)
    synced = dmsnap("sync", name, "--audit", "full")
    assert synced["tracker"] == "era"
    assert synced["audit"]["bytes_skipped"] > SIZE // 4
    run("umount", root)
    run("e2fsck", "-fn", f"/dev/mapper/{name}")
    with mounted_replica(lab, recovery, SIZE, "ext4") as seen:
        assert checksums(seen) == now
