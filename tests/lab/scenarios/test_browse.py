"""Mounting points whose journal is dirty: replayed into the overlay, and nowhere else."""

import fcntl
import os
import signal
import struct
from pathlib import Path

import pytest
from conftest import MIB, Lab, content_of, dmsnap, forked, run, sha256

from dmsnap.errors import ExitCode

SIZES = {"ext4": 64 * MIB, "xfs": 320 * MIB}
# XFS_IOC_GOINGDOWN, EXT4_IOC_SHUTDOWN: with this flag not even the log is flushed.
GOING_DOWN, NO_LOG_FLUSH = 0x8004587D, 2


def dirty_disk(lab: Lab, fs_type: str) -> str:
    """A disk as a crash leaves it, with nothing but fsync: from one moment on it is not written to.

    Copied while it is mounted, so that no log is replayed.
    """
    size = SIZES[fs_type]
    mounted_disk, disk = lab.disk(size), lab.disk(size)
    mount_point = lab.mounted(mounted_disk, fs_type)
    for number in range(20):
        path = mount_point / f"file-{number}"
        path.write_bytes(os.urandom(5000))
        with path.open("rb") as file:
            os.fsync(file.fileno())
    (mount_point / "file").write_text("in the journal")
    with (mount_point / "file").open("rb") as file:
        os.fsync(file.fileno())
        fcntl.ioctl(file, GOING_DOWN, struct.pack("=I", NO_LOG_FLUSH))
    run("dd", f"if={mounted_disk}", f"of={disk}", "bs=1M", "iflag=direct", "oflag=direct")
    run("umount", mount_point)
    return disk


def is_dirty(disk: str, fs_type: str) -> bool:
    if fs_type == "ext4":
        return "needs_recovery" in run("dumpe2fs", "-h", disk)
    return "dirty log" in run("sh", "-c", f"xfs_logprint -t {disk} 2>&1 | head -40; "
                              f"xfs_repair -n {disk} 2>&1; true") or "ALERT" in run(
        "sh", "-c", f"xfs_repair -n {disk} 2>&1; true")  # fmt: skip


@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
def test_points_with_a_dirty_journal(lab: Lab, fs_type: str) -> None:
    """Live, on the replica and in the history: each beside its twins, none of them written to."""
    primary = dirty_disk(lab, fs_type)
    assert is_dirty(primary, fs_type)
    recovery = lab.disk(SIZES[fs_type] + 128 * MIB)
    name = lab.protect(primary, recovery)
    front = f"/dev/mapper/{name}"
    history = dmsnap("inspect", "label", recovery)["point_uuid"]
    # A sector that no file system uses changes: ext4's boot block, or the end of the disk.
    offset = 0 if fs_type == "ext4" else SIZES[fs_type] // 512 - 1
    run("dd", "if=/dev/urandom", f"of={front}", "bs=512", f"seek={offset}", "count=1",
        "oflag=direct")  # fmt: skip
    replica = dmsnap("sync", name)["point"]
    (live,) = dmsnap("point", "create", name)
    before = sha256(primary), content_of(recovery)
    for point in (live["id"], replica, history):
        at = Path(dmsnap("point", "mount", point)["mount_point"])
        assert (at / "file").read_text() == "in the journal"
        assert len(list(at.glob("file-*"))) == 20
        dmsnap("point", "umount", point)
        assert (sha256(primary), content_of(recovery)) == before
    # All at once, beside the volume itself, which is replayed and written to now.
    mount_point = lab.directory / "volume"
    mount_point.mkdir()
    run("mount", front, mount_point)
    lab.mounts.append(mount_point)
    places = [
        Path(dmsnap("point", "mount", point)["mount_point"])
        for point in (live["id"], replica, history)
    ]
    (mount_point / "file").write_text("written since")
    os.sync()
    assert {(at / "file").read_text() for at in places} == {"in the journal"}
    dmsnap("sync", name, expected=ExitCode.BUSY)
    for point in (live["id"], replica, history):
        dmsnap("point", "umount", point)
    run("umount", mount_point)
    dmsnap("sync", name, "--audit", "full")
    assert sha256(recovery, SIZES[fs_type]) == sha256(primary)


def test_a_killed_umount_of_a_point_mounts_no_volume(lab: Lab) -> None:
    """The volume was unmounted by somebody, who may be about to check it."""
    primary, recovery = lab.disk(64 * MIB), lab.disk(160 * MIB)
    mount_point = lab.mounted(primary)
    name = lab.protect(primary, recovery)
    (live,) = dmsnap("point", "create", name)
    at = dmsnap("point", "mount", live["id"])["mount_point"]
    run("umount", mount_point)
    ended = forked("point", "umount", live["id"], at=(0, "done"), send=(signal.SIGKILL,))
    assert ended.code == -signal.SIGKILL
    dmsnap("point", "create", name)
    assert not os.path.ismount(at)
    assert not os.path.ismount(mount_point)
