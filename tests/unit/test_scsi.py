"""SCSI disks that the kernel has just made."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dmsnap.host import scsi, udev
from dmsnap.host.sysfs import Sysfs


@pytest.fixture
def disk(tmp_path: Path) -> scsi.ScsiDisk:
    return scsi.ScsiDisk(tmp_path, os.makedev(8, 0))


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    (tmp_path / "devices" / "sda").mkdir(parents=True)
    (tmp_path / "dev" / "block").mkdir(parents=True)
    (tmp_path / "dev" / "block" / "8:0").symlink_to("../../devices/sda")
    return Sysfs(tmp_path)


def asked_anew(done: Callable[[], bool], deadline_seconds: float) -> bool:
    """As wait_for_uevent, with an uevent whenever it waits for one."""
    return any(done() for _ in range(int(deadline_seconds * 10)))


def opening(monkeypatch: pytest.MonkeyPatch, *answers: int) -> list[str]:
    """Opening a device fails with each of some errors in turn, then succeeds; 0 is success."""
    opened: list[str] = []
    left = list(answers)

    def answer(path: Path, _flags: int) -> int:
        opened.append(str(path))
        code = left.pop(0) if left else 0
        if code:
            raise OSError(code, os.strerror(code))
        return os.dup(2)

    monkeypatch.setattr(udev, "wait_for_uevent", asked_anew)
    monkeypatch.setattr(os, "open", answer)
    return opened


def test_a_disk_that_shows_before_it_can_be_opened_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, disk: scsi.ScsiDisk, sysfs: Sysfs
) -> None:
    opened = opening(monkeypatch, errno.ENXIO, errno.ENOENT)
    scsi.await_opening(disk, sysfs=sysfs)
    assert opened == ["/dev/sda"] * 3


def test_any_other_error_is_left_to_whoever_opens_it(
    monkeypatch: pytest.MonkeyPatch, disk: scsi.ScsiDisk, sysfs: Sysfs
) -> None:
    opened = opening(monkeypatch, errno.EIO)
    scsi.await_opening(disk, sysfs=sysfs)
    assert opened == ["/dev/sda"]


def test_a_disk_that_stays_away_ends_the_waiting(
    monkeypatch: pytest.MonkeyPatch, disk: scsi.ScsiDisk, sysfs: Sysfs
) -> None:
    opened = opening(monkeypatch, *[errno.ENXIO] * 100)
    scsi.await_opening(disk, sysfs=sysfs)
    assert len(opened) == 10 * scsi.OPENING_SECONDS
