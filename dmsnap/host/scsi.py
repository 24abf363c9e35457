"""SCSI disks: who they say they are, and dropping what the kernel remembers of them.

After a LUN was mapped to something else, the kernel goes on showing what it knew: name, size and
cached blocks. So a disk is asked anew before anything of it is believed, and one that is in
nobody's use goes as a whole, in the order flush, delete, wait.
"""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dmsnap.errors import DeadlineError, DmsnapError
from dmsnap.host import blockdev, identifiers, udev
from dmsnap.host.sysfs import SYSFS, Sysfs, attribute_text, parse_devno
from dmsnap.host.system_call import system_call

WAIT_SECONDS = 30.0
OPENING_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class ScsiDisk:
    """A disk: ``directory`` is its SCSI device H:C:T:L in sysfs."""

    directory: Path
    devno: int

    @property
    def address(self) -> tuple[int, int, int, int]:
        """Host, channel, target, LUN."""
        host, channel, target, lun = (int(part) for part in self.directory.name.split(":"))
        return host, channel, target, lun

    @property
    def lun(self) -> int:
        return self.address[3]

    def wwid(self) -> str:
        """Its identity, of the VPD page 0x83 that was read last: ``naa.6001…``; empty: none."""
        return identifiers.stated(lambda: self._attribute("wwid"))

    def state(self) -> str:
        """``running``; ``blocked`` while its session is lost, ``transport-offline`` after that."""
        return self._attribute("state")

    def _attribute(self, name: str) -> str:
        return (attribute_text(f"{self.directory}/{name}") or "").strip()


def disks(*, sysfs: Sysfs = SYSFS) -> list[ScsiDisk]:
    """Every SCSI disk of the host."""
    return _disks([link.resolve() for link in sysfs.root.glob("class/scsi_device/*/device")])


def disks_below(directory: Path) -> list[ScsiDisk]:
    """The disks of one session, given by its directory."""
    return _disks(list(directory.glob("target*/*:*:*:*")))


def _disks(directories: list[Path]) -> list[ScsiDisk]:
    found = []
    for directory in sorted(directories):
        for entry in directory.glob("block/*/dev"):
            with system_call(f"read {entry}"):
                found.append(ScsiDisk(directory, parse_devno(entry.read_text())))
    return found


def is_known(directory: Path, lun: int) -> bool:
    """Whether a session has a LUN, be it no disk, or one whose node is still to come."""
    return any(directory.glob(f"target*/*:*:*:{lun}"))


def await_opening(disk: ScsiDisk, *, sysfs: Sysfs = SYSFS) -> None:
    """Wait until a disk can be opened; the kernel shows a new one in sysfs a moment before. Root.

    One that is offline does not come to it: what is wrong with it is for the caller to find out.
    """
    path = sysfs.device_path(disk.devno)
    udev.wait_for_uevent(lambda: _can_be_opened(path), OPENING_SECONDS)


def _can_be_opened(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        return error.errno not in {errno.ENXIO, errno.ENOENT}
    return True


def rescan(disk: ScsiDisk) -> None:
    """Have the kernel ask a disk anew for its identity and size (scsi_rescan_device). Root."""
    _write(disk.directory / "rescan", "1")


def scan(host: int, lun: int, *, sysfs: Sysfs = SYSFS) -> None:
    """Have the kernel look for one LUN of a session's host, which has one target. Root."""
    _write(sysfs.root / "class" / "scsi_host" / f"host{host}" / "scan", f"0 0 {lun}")


def delete(disk: ScsiDisk, *, sysfs: Sysfs = SYSFS) -> None:
    """Have the kernel forget a disk and all that it has cached of it: flush, delete, wait. Root.

    The caller knows that nobody uses it.
    """
    with suppress(DmsnapError):  # where a LUN is gone, there is nothing to be flushed to
        blockdev.flush_buffers(sysfs.device_path(disk.devno))
    _write(disk.directory / "delete", "1")
    await_uevent(
        lambda: not disk.directory.exists(),
        f"{disk.directory.name} did not go within {WAIT_SECONDS:g} s of being deleted",
    )


def await_uevent(done: Callable[[], bool], failure: str) -> None:
    """Wait for what block uevents bring about, else :class:`DeadlineError`."""
    if not udev.wait_for_uevent(done, WAIT_SECONDS):
        raise DeadlineError(failure)


def _write(path: Path, text: str) -> None:
    with system_call(f"write {text} to {path}"):
        path.write_text(text)
