"""Mounts on a real kernel: options that survive, users that are named, twins."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from conftest import wait_until

from dmsnap.errors import BusyError, DmsnapError, ProgramError
from dmsnap.host import blockdev, filesystem, loop, mount, signature
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.fsfreeze import flushed
from dmsnap.host.mountinfo import Mount, mount_at, mounts_of, swaps
from dmsnap.units import MIB

FILE_SYSTEMS = ("ext4", "xfs")


def attached(size_bytes: int = 400 * MIB) -> tuple[Path, BlockDevice]:
    file = Path("/scratch", str(uuid4()))
    loop.create_backing_file(file, size_bytes)
    return file, loop.attach(file)


@pytest.fixture
def disk() -> Iterator[BlockDevice]:
    file, device = attached()
    yield device
    loop.detach(device.path)
    file.unlink()


@pytest.fixture
def target(tmp_path: Path, disk: BlockDevice) -> Iterator[Path]:
    """A directory for a mount of ``disk``: unmounted before the disk goes."""
    directory = tmp_path / "a mount point"
    directory.mkdir()
    yield directory
    for below in [*mount.submounts(directory), *mounts_of(disk.devno)]:
        if mount_at(below.mount_point):
            mount.unmount(below.mount_point)


def make(device: BlockDevice, fs_type: str) -> None:
    options = {"ext4": ["-q"], "xfs": ["-q", "-f"]}[fs_type]
    subprocess.run([f"mkfs.{fs_type}", *options, device.path], check=True)


def seen(target: Path) -> Mount:
    found = mount_at(target)
    assert found is not None
    return found


@pytest.mark.parametrize("fs_type", FILE_SYSTEMS)
def test_mount_and_unmount(disk: BlockDevice, target: Path, fs_type: str) -> None:
    make(disk, fs_type)
    mount.mount(disk.path, target, fs_type)
    found = seen(target)
    assert found.devno == disk.devno
    assert found.fs_type == fs_type
    assert found.mount_point == target
    assert mounts_of(disk.devno) == [found]
    assert blockdev.describe_users(disk) == f"mounted on {target}"
    exclusive = blockdev.open_exclusive(disk.path, write=True)
    with pytest.raises(BusyError, match="in use: mounted on"), exclusive:
        pytest.fail("opened a device that is mounted")
    with flushed(target) as descriptor:
        assert os.fstat(descriptor).st_dev == disk.devno
    mount.unmount(target)
    assert mount_at(target) is None
    with blockdev.open_exclusive(disk.path, write=True):
        pass
    assert filesystem.check(disk.path, fs_type).clean


OPTIONS = [
    ("ext4", "rw"),
    ("ext4", "ro,nosuid,nodev,noexec,noatime"),
    ("ext4", "nodiratime,errors=remount-ro,data=journal"),
    ("ext4", "strictatime,discard,nobarrier,commit=30,stripe=16"),
    ("ext4", "lazytime,usrquota,grpquota,noauto_da_alloc,resuid=7"),
    ("xfs", "rw"),
    ("xfs", "ro,norecovery,nouuid"),
    ("xfs", "noatime,nouuid,inode32,logbufs=4,logbsize=64k"),
    ("xfs", "usrquota,prjquota,swalloc,allocsize=1m,discard"),
]


@pytest.mark.parametrize(("fs_type", "options"), OPTIONS)
def test_options_mount_the_same_again(
    disk: BlockDevice, target: Path, fs_type: str, options: str
) -> None:
    make(disk, fs_type)
    subprocess.run(["mount", "-t", fs_type, "-o", options, disk.path, target], check=True)
    before = seen(target)
    mount.unmount(target)
    mount.mount(disk.path, target, fs_type, mount.mount_options(before))
    after = seen(target)
    assert after.options == before.options
    assert after.super_options == before.super_options


def test_a_mount_that_fails_quotes_mount(disk: BlockDevice, target: Path) -> None:
    with pytest.raises(ProgramError, match=r"mount -t ext4 .*wrong fs type"):
        mount.mount(disk.path, target, "ext4")


def test_what_is_not_mounted(target: Path) -> None:
    with pytest.raises(DmsnapError, match="it is no mount point"):
        mount.unmount(target)


def test_busy_names_the_processes(disk: BlockDevice, target: Path) -> None:
    make(disk, "ext4")
    mount.mount(disk.path, target, "ext4")
    user = sleeping(f"cd '{target}'; exec 3>held")
    started = time.monotonic()
    try:
        with pytest.raises(BusyError, match=rf"sleep \(pid {user.pid}, working directory"):
            mount.unmount(target, 0.5)
        assert 0.4 < time.monotonic() - started < 60
        assert seen(target).devno == disk.devno
        (use,) = mount.users_of(target)
        assert use.pid == user.pid
    finally:
        user.kill()
        user.wait()


def test_an_open_file_is_named(disk: BlockDevice, target: Path) -> None:
    make(disk, "ext4")
    mount.mount(disk.path, target, "ext4")
    user = sleeping(f"exec 3>'{target}/held'")
    try:
        with pytest.raises(BusyError, match=r"sleep \(pid \d+, open file .*held"):
            mount.unmount(target, 0.2)
    finally:
        user.kill()
        user.wait()


def sleeping(script: str) -> subprocess.Popen[bytes]:
    """A process that has run a script and is a sleep(1) now, by its name, too."""
    user = subprocess.Popen(["sh", "-c", f"{script}; exec sleep 600"])
    name = Path(f"/proc/{user.pid}/comm")
    wait_until("the process sleeps", lambda: name.read_text() == "sleep\n")
    return user


def test_unmount_waits_for_a_process_to_end(disk: BlockDevice, target: Path) -> None:
    make(disk, "xfs")
    mount.mount(disk.path, target, "xfs")
    user = subprocess.Popen(["sleep", "1"], cwd=target)
    mount.unmount(target, 60)
    assert mount_at(target) is None
    user.wait()


def test_binds_and_submounts(disk: BlockDevice, target: Path, tmp_path: Path) -> None:
    make(disk, "ext4")
    mount.mount(disk.path, target, "ext4")
    (target / "sub").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run(["mount", "--bind", target / "sub", elsewhere], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", target / "sub"], check=True)
    assert [found.mount_point for found in mount.submounts(target)] == [target / "sub"]
    assert {found.mount_point for found in mounts_of(disk.devno)} == {target, elsewhere}
    with pytest.raises(BusyError, match=r"the mount .*sub"):
        mount.unmount(target, 0.2)
    mount.unmount(target / "sub")
    with (elsewhere / "held").open("w"):
        # Held through the bind mount: this mount is not busy.
        assert mount.users_of(target) == []
        mount.unmount(target, 1)
    mount.unmount(elsewhere)


def test_twins_of_xfs_need_nouuid(disk: BlockDevice, target: Path, tmp_path: Path) -> None:
    make(disk, "xfs")
    file, twin = attached()
    beside = tmp_path / "twin"
    beside.mkdir()
    try:
        dd = ["dd", f"if={disk.path}", f"of={twin.path}", "bs=1M", "oflag=direct", "status=none"]
        subprocess.run(dd, check=True)
        mount.mount(disk.path, target, "xfs")
        with pytest.raises(ProgramError):
            mount.mount(twin.path, beside, "xfs", ["ro"])
        mount.mount(twin.path, beside, "xfs", ["ro", "nouuid"])
        options = mount.mount_options(seen(beside))
        assert "nouuid" in options
        mount.unmount(beside)
    finally:
        loop.detach(twin.path)
        file.unlink()


def test_swap_space_is_a_user(disk: BlockDevice) -> None:
    subprocess.run(["mkswap", "-q", disk.path], check=True)
    found = signature.probe(disk.path)
    assert found is not None
    assert (found.fs_type, found.usage) == ("swap", "other")
    subprocess.run(["swapon", disk.path], check=True)
    try:
        assert [swap.path for swap in swaps()] == [disk.path]
        assert blockdev.describe_users(disk) == "used as swap space"
    finally:
        subprocess.run(["swapoff", disk.path], check=True)


@pytest.mark.parametrize(
    ("fs_type", "arguments", "block_bytes"),
    [
        ("ext4", ["-b", "1024"], 1024),
        ("ext4", ["-b", "4096"], 4096),
        ("xfs", ["-s", "size=512"], 512),
        ("xfs", ["-s", "size=4096"], 4096),
    ],
)
def test_block_size(
    disk: BlockDevice, fs_type: str, arguments: list[str], block_bytes: int
) -> None:
    subprocess.run([f"mkfs.{fs_type}", "-q", *arguments, disk.path], check=True)
    assert filesystem.block_size(disk.path, fs_type) == block_bytes


@pytest.mark.parametrize("fs_type", FILE_SYSTEMS)
def test_check_finds_damage(disk: BlockDevice, fs_type: str) -> None:
    make(disk, fs_type)
    assert filesystem.check(disk.path, fs_type).clean
    with disk.path.open("r+b", buffering=0) as device:
        device.seek(4096)
        device.write(b"\xa5" * 32768)
    result = filesystem.check(disk.path, fs_type)
    assert not result.clean
    assert "finds errors on" in result.sentence
