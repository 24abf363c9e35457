"""Whether the kernel counts what a device does, over a directory tree."""

import errno
import os
from pathlib import Path

import pytest
from test_write_count import device

from dmsnap.host import counting, kernel
from dmsnap.host.counting import UncountedError
from dmsnap.host.sysfs import Sysfs, format_devno

DISK, PARTITION = os.makedev(8, 0), os.makedev(8, 1)


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    """A disk with a partition, which has no queue of its own."""
    device(tmp_path, DISK, sectors=1000)
    disk = tmp_path / "devices" / format_devno(DISK)
    (disk / "dev").write_text("8:0\n")
    (disk / "sda1").mkdir()
    (disk / "sda1" / "partition").write_text("1\n")
    (tmp_path / "dev" / "block" / format_devno(PARTITION)).symlink_to(disk / "sda1")
    return Sysfs(tmp_path)


def set_switch(sysfs: Sysfs, value: int) -> None:
    counting.switch(DISK, sysfs).write_text(f"{value}\n")


def test_a_partition_is_counted_with_its_disk(sysfs: Sysfs) -> None:
    assert counting.is_counted(PARTITION, sysfs)
    counting.require([DISK, PARTITION], sysfs)
    set_switch(sysfs, 0)
    assert not counting.is_counted(DISK, sysfs)
    with pytest.raises(UncountedError, match="what is written to sda1") as found:
        counting.require([PARTITION], sysfs)
    # The disk's own name stands in its place here.
    assert found.value.hint is not None
    assert found.value.hint.startswith(f"echo 1 > /sys/block/{format_devno(DISK)}/queue/iostats")


def test_a_switch_that_is_opened_anew_has_another_time(sysfs: Sysfs) -> None:
    switch = counting.switch(PARTITION, sysfs)
    os.utime(switch, ns=(1, 1))
    assert counting.last_set(PARTITION, sysfs) == counting.last_set(DISK, sysfs) == 1
    assert counting.is_counted(PARTITION, sysfs)
    assert counting.last_set(DISK, sysfs) == 1
    set_switch(sysfs, 1)
    assert counting.last_set(PARTITION, sysfs) != 1


def test_what_is_not_counted_gets_on_as_what_lies_below(tmp_path: Path) -> None:
    """Where that is counted, all of it."""
    striped, one, other = os.makedev(253, 0), os.makedev(8, 16), os.makedev(8, 32)
    sysfs = Sysfs(tmp_path)
    for devno, completed in ((striped, 7), (one, 20), (other, 300)):
        device(tmp_path, devno, sectors=1000)
        directory = tmp_path / "devices" / format_devno(devno)
        (directory / "stat").write_text(f"{completed} 0 0 0 0 0 0 0 0 0 0\n")
        (directory / "dev").write_text(format_devno(devno))
    (tmp_path / "devices" / format_devno(striped) / "slaves").mkdir()
    for devno in (one, other):
        slave = tmp_path / "devices" / format_devno(striped) / "slaves" / format_devno(devno)
        slave.symlink_to(tmp_path / "devices" / format_devno(devno))
    assert counting.requests_completed(striped, sysfs) == 7
    counting.switch(striped, sysfs).write_text("0\n")
    assert counting.requests_completed(striped, sysfs) == 320
    counting.switch(other, sysfs).write_text("0\n")
    assert counting.requests_completed(striped, sysfs) is None
    assert counting.requests_completed(other, sysfs) is None


def test_who_may_not_set_a_time_reads_it(sysfs: Sysfs, monkeypatch: pytest.MonkeyPatch) -> None:
    """As dmsnapd, for which all of sysfs is read-only."""

    def refused(*_: object, **_times: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    os.utime(counting.switch(DISK, sysfs), ns=(1, 1))
    monkeypatch.setattr(os, "utime", refused)
    assert counting.last_set(DISK, sysfs) == 1


@pytest.mark.parametrize(
    ("version", "other", "with_requests", "counted"),
    [((6, 5), "0", False, False), ((6, 1), "0", False, True), ((6, 1), "1", False, False),
     ((6, 1), "0", True, False)],
)  # fmt: skip
def test_old_kernels_count_dm_devices_whatever_the_switch_says(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: tuple[int, int],
    other: str,
    with_requests: bool,
    counted: bool,
) -> None:
    """Unless they took over what came with 6.5, as a dm device tells that is on."""
    monkeypatch.setattr(kernel, "version", lambda: version)
    sysfs, devices = Sysfs(tmp_path), [os.makedev(253, 0), os.makedev(253, 1)]
    (tmp_path / "block").mkdir()
    for number, (devno, value) in enumerate(zip(devices, ("0", other), strict=True)):
        device(tmp_path, devno, sectors=0, iostats=int(value))
        directory = tmp_path / "devices" / format_devno(devno)
        (directory / "dev").write_text(format_devno(devno))
        (directory / "dm").mkdir()
        (tmp_path / "block" / f"dm-{number}").symlink_to(directory)
    if with_requests:
        (tmp_path / "devices" / format_devno(devices[0]) / "mq").mkdir()
    assert counting.is_counted(devices[0], sysfs) is counted


def test_a_device_without_a_switch_is_counted(sysfs: Sysfs) -> None:
    counting.switch(DISK, sysfs).unlink()
    assert counting.is_counted(DISK, sysfs)
