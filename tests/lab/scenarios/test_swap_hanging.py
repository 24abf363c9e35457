"""A primary that is dead, or that hangs: nothing waits for it, neither dmsnap nor the users."""

import mmap
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import (
    MIB,
    Lab,
    configured,
    dm_devices,
    dmsnap,
    dmsnap_process,
    locks_held,
    rarely,
    refused,
    run,
    sha256,
    suspended,
    written,
)
from faulty_disk import FaultyDisk, faulty_disk
from patience import requests_under_way, until

from dmsnap.errors import ExitCode

SIZE = 64 * MIB
RECOVERY_SIZE = 160 * MIB


# Of its own accord a file system is not to write for an hour: what is under way is what we make.
UNHURRIED = {
    # Some seconds after the mount ext4lazyinit reads bitmaps and clears inode tables.
    "ext4": "noatime,commit=3600,noinit_itable,no_prefetch_block_bitmaps",
    "xfs": "noatime",
    "btrfs": "noatime,commit=3600",
}
WRITE_BACK = (
    "/proc/sys/vm/dirty_writeback_centisecs",
    "/proc/sys/fs/xfs/xfssyncd_centisecs",  # 72 s at the most
)


@pytest.fixture
def no_write_back() -> Iterator[None]:
    """Neither the kernel's flusher nor XFS's, within the test."""
    before = {path: Path(path).read_text() for path in WRITE_BACK if Path(path).exists()}
    for path in before:
        Path(path).write_text("0" if "vm" in path else "7200")
    yield
    for path, value in before.items():
        Path(path).write_text(value)


@contextmanager
def hanging(disk: FaultyDisk) -> Iterator[None]:
    """All I/O of the disk is held back within the block.

    dmsnap waits as long for it as what does not hang may take on a machine that is busy.
    """
    settings = ("primary_wait_seconds = 3", "boot_wait_seconds = 3")
    with configured(*settings), disk.suspended():
        yield


def overwrite(path: Path, text: str) -> None:
    """In place: nothing of it has to be read from the disk first, once it was done before."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(descriptor, text.encode(), 0)
    finally:
        os.close(descriptor)


def warmed(mount_point: Path) -> None:
    """Have in memory what writing to the file again takes."""
    for _ in range(2):
        overwrite(mount_point / "file", "one")
        run("sync", "-f", mount_point)


def device_number(name: str) -> int:
    return Path(f"/dev/mapper/{name}").stat().st_rdev


@pytest.mark.usefixtures("no_write_back")
@pytest.mark.parametrize("fs_type", ["ext4", "xfs", rarely("btrfs")])
def test_a_hanging_primary_with_nothing_under_way(lab: Lab, fs_type: str) -> None:
    """Dirty pages only: the front fails them, and is mounted from the recovery volume."""
    size = SIZE if fs_type == "ext4" else 5 * SIZE
    with faulty_disk(lab, size) as disk:
        mount_point = lab.mounted(disk.path, fs_type, UNHURRIED[fs_type])
        (mount_point / "file").write_text("one")
        name = lab.protect(disk.path, lab.disk(2 * size))
        number = device_number(name)
        warmed(mount_point)
        with hanging(disk):
            overwrite(mount_point / "file", "two")
            dmsnap("swap", name)
            assert (mount_point / "file").read_text() == "one"
            assert device_number(name) == number
            (mount_point / "file").write_text("two")
            # Going back to it would hang: said before anything is changed.
            sentence = refused(ExitCode.DEADLINE, "swap", "revert", name)
            assert disk.path in sentence
            assert (mount_point / "file").read_text() == "two"
            dmsnap("swap", "commit", name)
            assert (mount_point / "file").read_text() == "two"
        dmsnap("unprotect", name)
        assert dm_devices() == []
        run("umount", mount_point)


@pytest.mark.selection
@pytest.mark.usefixtures("no_write_back")
def test_a_hanging_primary_with_requests_under_way(lab: Lab) -> None:
    """They can be failed only where they hang; without --fail-primary all is as before."""
    with faulty_disk(lab, SIZE) as disk:
        mount_point = lab.mounted(disk.path, options=UNHURRIED["ext4"])
        (mount_point / "file").write_text("one")
        name = lab.protect(disk.path, lab.disk(RECOVERY_SIZE))
        table = run("dmsetup", "table", disk.name)
        warmed(mount_point)
        with hanging(disk):
            overwrite(mount_point / "file", "two")
            words = ["sync", "-f", str(mount_point)]
            writer = subprocess.Popen(words, stderr=subprocess.DEVNULL)
            until(lambda: requests_under_way(name), "the front waits for the disk")
            front = run("dmsetup", "table", name)
            sentence = refused(ExitCode.DEADLINE, "swap", name)
            assert "have not come back" in sentence
            assert run("dmsetup", "table", name) == front
            assert f"{mount_point} ext4" in Path("/proc/mounts").read_text()
            assert suspended() == [disk.name]

            dmsnap("swap", name, "--fail-primary")
            assert writer.wait(120) != 0
            assert (mount_point / "file").read_text() == "one"
            # Its owner finds it as it was: suspended, and its table the one to be resumed.
            assert suspended() == [disk.name]
        assert run("dmsetup", "table", disk.name) == table
        # What was held back had not been written: the primary is what it was when it hung.
        dmsnap("swap", "revert", name)
        assert (mount_point / "file").read_text() == "one"
        dmsnap("status", name)
        dmsnap("sync", name, "--audit", "full")
        dmsnap("unprotect", name)
        run("umount", mount_point)


def test_a_boot_with_a_disk_that_hangs(lab: Lab) -> None:
    """It goes on, and nobody has the volume's lock for whom the swap would have to wait."""
    with faulty_disk(lab, SIZE) as disk:
        mount_point = lab.mounted(disk.path)
        (mount_point / "file").write_text("one")
        name = lab.protect(disk.path, lab.disk(RECOVERY_SIZE))
        run("umount", mount_point)
        for device in dm_devices():
            run("dmsetup", "remove", device)
        with hanging(disk):
            for words in (["--boot"], []):
                assembling = dmsnap_process("assemble", name, *words, "--json")
                until(lambda: assembling.poll() is not None, "the boot goes on", 120)  # noqa: B023
                error = written(*assembling.communicate())
                assert error["exit_code"] == ExitCode.DEADLINE
                assert "does not answer" in error["error"]
                assert f"dmsnap swap {name}" in error["hint"]
            assert (dm_devices(), locks_held()) == ([], [])
            dmsnap("swap", name)
            assert (mount_point / "file").read_text() == "one"
        dmsnap("swap", "revert", name)
        assert (mount_point / "file").read_text() == "one"
        dmsnap("unprotect", name)
        run("umount", mount_point)


def test_a_hanging_raw_volume(lab: Lab) -> None:
    """No file system, nobody who has it open."""
    with faulty_disk(lab, SIZE) as disk:
        run("dd", "if=/dev/urandom", f"of={disk.path}", "bs=1M", "count=8", "oflag=direct")
        name = lab.protect(disk.path, lab.disk(RECOVERY_SIZE))
        content = sha256(disk.path)
        with hanging(disk):
            dmsnap("swap", name)
            assert sha256(f"/dev/mapper/{name}") == content
        dmsnap("swap", "revert", name)
        assert sha256(f"/dev/mapper/{name}") == content
        dmsnap("unprotect", name)


@pytest.mark.usefixtures("no_write_back")
def test_a_swap_that_fails_after_it_failed_the_front(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The front has its table again; what hangs is not mounted, and nothing waits for it."""
    from dmsnap.errors import DmsnapError
    from dmsnap.service.swaps import trial

    with faulty_disk(lab, SIZE) as disk:
        mount_point = lab.mounted(disk.path, options=UNHURRIED["ext4"])
        (mount_point / "file").write_text("one")
        name = lab.protect(disk.path, lab.disk(RECOVERY_SIZE))
        table = run("dmsetup", "table", name)
        with hanging(disk):

            def refuse(*_: object) -> None:
                raise DmsnapError("not now")

            with monkeypatch.context() as patch:
                patch.setattr(trial, "require_unopened", refuse)
                dmsnap("swap", name, expected=ExitCode.FAILURE)
            assert run("dmsetup", "table", name) == table
            dmsnap("swap", name)
            assert (mount_point / "file").read_text() == "one"
        dmsnap("swap", "revert", name)
        assert (mount_point / "file").read_text() == "one"
        dmsnap("unprotect", name)
        run("umount", mount_point)


@contextmanager
def slow(disk: FaultyDisk) -> Iterator[None]:
    """A read takes twice as long as dmsnap waits for what hangs; what others read comes back all
    the time.
    """
    comes_back, ends = threading.Event(), threading.Event()

    def read_on(begins: float) -> None:
        ends.wait(begins)
        descriptor = os.open(disk.path, os.O_RDONLY | os.O_DIRECT)
        with mmap.mmap(-1, 4096) as buffer:
            while not ends.is_set():
                os.preadv(descriptor, [buffer], 0)
                comes_back.set()
        os.close(descriptor)

    readers = [threading.Thread(target=read_on, args=(number / 2,)) for number in range(12)]
    with configured("primary_wait_seconds = 3"):
        disk.delay_reads(6000)
        for reader in readers:
            reader.start()
        try:
            assert comes_back.wait(60)
            yield
        finally:
            ends.set()
            disk.load()
            for reader in readers:
                reader.join()


@pytest.mark.usefixtures("no_write_back")
def test_a_slow_primary_is_not_given_up(lab: Lab) -> None:
    """What was not written to it by then would be lost: it is waited for."""
    with faulty_disk(lab, SIZE) as disk:
        mount_point = lab.mounted(disk.path, options=UNHURRIED["ext4"])
        (mount_point / "file").write_text("one")
        name = lab.protect(disk.path, lab.disk(RECOVERY_SIZE))
        warmed(mount_point)
        with slow(disk):
            overwrite(mount_point / "file", "two")
            dmsnap("swap", name)
            assert (mount_point / "file").read_text() == "one"
        dmsnap("swap", "revert", name)
        assert (mount_point / "file").read_text() == "two"
        dmsnap("unprotect", name)
        run("umount", mount_point)


@pytest.mark.parametrize("fs_type", ["xfs", "btrfs"])
def test_a_dead_primary(lab: Lab, fs_type: str) -> None:
    """Every request to it fails, under a mounted file system that is written to."""
    size = 5 * SIZE
    with faulty_disk(lab, size) as disk:
        mount_point = lab.mounted(disk.path, fs_type)
        (mount_point / "file").write_text("one")
        name = lab.protect(disk.path, lab.disk(2 * size))
        (mount_point / "file").write_text("two")
        disk.load(((0, size), "error"))
        dmsnap("swap", name)
        assert (mount_point / "file").read_text() == "one"
        dmsnap("swap", "commit", name)
        dmsnap("unprotect", name)
        run("umount", mount_point)
