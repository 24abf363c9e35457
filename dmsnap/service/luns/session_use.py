"""Whether anybody uses a session's disks: only then it is not ended."""

import time
from collections.abc import Sequence

from dmsnap.host import blockdev, multipath, scsi, udev
from dmsnap.host.iscsi_session import IscsiSession
from dmsnap.host.scsi import ScsiDisk
from dmsnap.host.sysfs import SYSFS

# How long somebody who only looks at a disk of a session that is to be ended is waited for.
LETTING_GO_SECONDS = 10.0
LETTING_GO_LOOK_SECONDS = 0.1


def are_let_go(found: Sequence[IscsiSession]) -> bool:
    """Whether nobody has a disk of the sessions open, who closes it in a moment waited for.

    dmsnapd's look at a label is such a one: it would have refused the command that comes beside it,
    or kept the session for good. Of all at one moment: while one is waited for, somebody may mount
    a disk of another.
    """
    ends = time.monotonic() + LETTING_GO_SECONDS
    while used := list(filter(is_used, found)):
        if any(map(is_held, used)) or time.monotonic() >= ends:
            return False
        time.sleep(LETTING_GO_LOOK_SECONDS)
    return True


def is_used(current: IscsiSession) -> bool:
    """Whether anybody has a disk of the session open, or a partition of one, udevd not counted."""
    if current.is_up and any(map(blockdev.describe_users_of, devices_below(current))):
        udev.settle()
    return any(map(blockdev.describe_users_of, devices_below(current)))


def is_held(current: IscsiSession) -> bool:
    """Whether something of the session is used by somebody who does not let it go by himself."""
    return any(map(blockdev.lasting_users, devices_below(current)))


def devices_below(current: IscsiSession) -> list[int]:
    """The numbers of a session's disks and their partitions."""
    disks = scsi.disks_below(current.directory)
    return [devno for disk in disks for devno in devices_of(disk)]


def devices_of(disk: ScsiDisk) -> list[int]:
    """The numbers of a disk and its partitions: who uses one of these does not show at the disk.

    Where dm-multipath has it, of that device alone: multipathd has every path open and in a map,
    and lets it go.
    """
    over = multipath.map_over(disk.devno, sysfs=SYSFS)
    return [disk.devno, *SYSFS.partitions(disk.devno)] if over is None else [over]


def maps_over(found: Sequence[IscsiSession]) -> set[int]:
    """The numbers of dm-multipath's devices over the sessions' disks."""
    disks = [disk for each in found for disk in scsi.disks_below(each.directory)]
    over = [multipath.map_over(disk.devno, sysfs=SYSFS) for disk in disks]
    return {devno for devno in over if devno is not None}
