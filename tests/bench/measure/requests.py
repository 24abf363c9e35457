"""Requests that block devices have completed, and what the processors have worked meanwhile."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SYSFS = Path("/sys")
PROC_STAT = Path("/proc/stat")


@dataclass(frozen=True, slots=True)
class Requests:
    """Since a device exists. ``merged``: writes that went along with others, and are not counted.

    A dm device counts what it was given after it has cut it for its target, a disk what it was
    given after neighbours have been put together.
    """

    reads: int = 0
    writes: int = 0
    merged: int = 0

    @classmethod
    def parse(cls, text: str) -> "Requests":
        """The file ``stat`` of a device in sysfs: Documentation/block/stat.rst."""
        fields = [int(word) for word in text.split()]
        return cls(reads=fields[0], writes=fields[4], merged=fields[5])

    @classmethod
    def of(cls, numbers: Iterable[str], sysfs: Path = SYSFS) -> "Requests":
        """Of all devices with these numbers, ``major:minor``, together."""
        found = [cls.parse((sysfs / "dev/block" / each / "stat").read_text()) for each in numbers]
        return cls(
            reads=sum(each.reads for each in found),
            writes=sum(each.writes for each in found),
            merged=sum(each.merged for each in found),
        )

    def __sub__(self, other: "Requests") -> "Requests":
        return Requests(
            self.reads - other.reads, self.writes - other.writes, self.merged - other.merged
        )


def number_of(device: Path) -> str:
    """``major:minor`` of a device's node."""
    status = device.stat()
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def loops_in(directory: Path, sysfs: Path = SYSFS) -> list[str]:
    """The numbers of all loop devices over files in ``directory``."""
    return [
        (backing.parents[1] / "dev").read_text().strip()
        for backing in sorted(sysfs.glob("block/loop*/loop/backing_file"))
        if Path(backing.read_text().strip()).is_relative_to(directory)
    ]


def busy_seconds(proc_stat: Path = PROC_STAT) -> float:
    """What all processors have worked since the start: neither idle, nor waiting, nor stolen."""
    user, nice, system, _idle, _iowait, irq, softirq = (
        int(word) for word in proc_stat.read_text().splitlines()[0].split()[1:8]
    )
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
