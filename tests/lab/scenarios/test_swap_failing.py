"""A swap from a primary that fails, and is neither dead nor hanging: mounted, and in use."""

import ctypes
import errno
import itertools
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import loop_disk
import pytest
from conftest import MIB, Lab, configured, dmsnap, rarely, refused, run, suspended, world
from faulty_disk import FaultyDisk, faulty_disk
from patience import until
from test_stage_faults import closing, place_of
from test_swap import CHECKERS
from test_swap_users import holding, mounts_below

from dmsnap.errors import ExitCode
from dmsnap.host.mountinfo import mount_at

# asm/unistd.h, linux/mount.h
FSPICK, FSCONFIG = 433, 431
FSCONFIG_SET_FLAG, FSCONFIG_CMD_RECONFIGURE = 0, 7
SIZES = {"ext4": 64 * MIB, "xfs": 320 * MIB}


def lose_a_file(disk: FaultyDisk, mount_point: Path) -> None:
    """Where it lies nothing can be read any more; all else can."""
    file = mount_point / "file"
    disk.load((place_of(file), "error"))
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert error_of(opened.read) == errno.EIO


def lose_the_journal(disk: FaultyDisk, mount_point: Path) -> None:
    """No write arrives any more: ext4 aborts its journal, XFS shuts down."""
    disk.load(((0, disk.size_bytes), "error_writes"))
    require_stopped(mount_point)


def make_read_only(_disk: FaultyDisk, mount_point: Path) -> None:
    """As ext4 of many kernels, and btrfs, leave a file system after an error: it is read-only, and
    its mounts are not. fspick(2), with which mount(8) before 2.39 does not do that.
    """
    picked = loop_disk.LIBC.syscall(FSPICK, -100, os.fsencode(mount_point), 0)
    assert picked >= 0, os.strerror(ctypes.get_errno())
    try:
        for command, key in ((FSCONFIG_SET_FLAG, b"ro"), (FSCONFIG_CMD_RECONFIGURE, None)):
            code = loop_disk.LIBC.syscall(FSCONFIG, picked, command, key, None, 0)
            assert code == 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(picked)
    seen = mount_at(mount_point)
    assert seen is not None
    assert ("ro" in seen.super_options, "ro" in seen.options) == (True, False)


def require_stopped(mount_point: Path) -> None:
    """What cannot be written out has the kernel give the file system up."""
    seen = mount_at(mount_point)
    assert seen is not None
    numbers = itertools.count()

    def is_stopped() -> bool:
        error_of(partial(write_out, mount_point / f"late-{next(numbers)}"))
        run("sync", "-f", mount_point, expected=None)
        if seen.fs_type == "xfs":
            return error_of(partial(os.listdir, mount_point)) == errno.EIO
        return error_of(partial(write_out, mount_point / f"late-{next(numbers)}")) == errno.EROFS

    until(is_stopped, f"{seen.fs_type} is given up")


def write_out(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        file.write(os.urandom(MIB))
        os.fsync(file.fileno())


def error_of(do: Callable[[], object]) -> int:
    """The number of the error that it ends with; 0: none."""
    try:
        do()
    except OSError as error:
        return error.errno or 0
    return 0


@pytest.mark.parametrize(
    ("fs_type", "fail"),
    [
        ("ext4", lose_the_journal),
        ("xfs", lose_the_journal),
        ("ext4", make_read_only),
        rarely("ext4", lose_a_file),
        rarely("xfs", lose_a_file),
    ],
)
def test_a_mounted_primary_that_fails(
    lab: Lab, fs_type: str, fail: Callable[[FaultyDisk, Path], None]
) -> None:
    """The point is mounted as the volume was when it was well: to be written, with its options.

    Who uses it is named, and nothing is changed. Once the primary is well, failback returns to it.
    """
    size = SIZES[fs_type]
    with faulty_disk(lab, size) as disk, closing(lab):
        mount_point = lab.mounted(disk.path, fs_type, "noatime,nodev")
        for name in ("file", "log"):
            (mount_point / name).write_text("one")
        name = lab.protect(disk.path, lab.disk(2 * size))
        mounted = mounts_below(lab)
        (mount_point / "file").write_text("two")
        run("sync", "-f", mount_point)
        with (
            configured("unmount_wait_seconds = 0.3", "kill_wait_seconds = 4"),
            holding(mount_point / "log") as holder,
        ):
            fail(disk, mount_point)
            before = world(lab)
            assert f"pid {holder.pid}" in refused(ExitCode.BUSY, "swap", name)
            assert suspended() == []
            assert world(lab) == before
            dmsnap("swap", name, "--kill")
            assert holder.wait(60) == -signal.SIGTERM
        assert suspended() == []
        assert mounts_below(lab) == mounted
        assert (mount_point / "file").read_text() == "one"
        (mount_point / "trial").write_text("kept")
        run("sync", "-f", mount_point)
        (status,) = dmsnap("status", name, expected=None)
        assert status["state"] == "trial"
        dmsnap("swap", "commit", name)
        disk.load()
        dmsnap("failback", name)
        assert mounts_below(lab) == mounted
        assert (mount_point / "file").read_text() == "one"
        assert (mount_point / "trial").read_text() == "kept"
        dmsnap("sync", name, "--audit", "full")
        run("umount", mount_point)
        run(*CHECKERS[fs_type], disk.loop)
        run("mount", f"/dev/mapper/{name}", mount_point)
