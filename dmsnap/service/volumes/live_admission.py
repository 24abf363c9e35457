"""What must hold before the layers are put under a mounted LV, beside what admits any volume."""

from pathlib import Path

from dmsnap._native import window
from dmsnap.catalogue.model import LiveFront
from dmsnap.errors import BusyError, WrongStateError
from dmsnap.host import blockdev, kernel
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.host.mountinfo import mounts_of
from dmsnap.host.sysfs import SYSFS
from dmsnap.service.session import Session
from dmsnap.snapshot import layers


def admit(session: Session, device: BlockDevice) -> LiveFront:
    """The LV's dm device as the front that it can be until the next boot."""
    uuid, name = SYSFS.dm_uuid(device.devno) or "", SYSFS.dm_name(device.devno)
    if not uuid.startswith(layers.LVM_PREFIX) or name is None:
        raise WrongStateError(
            f"{device.path} is no logical volume: only those can stay mounted meanwhile",
            hint="protect it without --live",
        )
    if not mounts_of(device.devno):
        raise WrongStateError(f"{device.path} is not mounted", hint="protect it without --live")
    require_plain(device)
    require_late(session, device)
    return LiveFront(name, uuid, kernel.boot_id())


def require_plain(device: BlockDevice) -> None:
    """Raise unless LVM's table can be copied, and LVM is done with it."""
    info = dm.existing(SYSFS.dm_name(device.devno) or "")
    if info.suspended or info.inactive_table:
        raise BusyError(f"LVM is changing {info.name}", hint="try again when it is done")
    layers.require_own_table(info, device.size_bytes)


def require_late(session: Session, device: BlockDevice) -> None:
    """Raise for what a boot needs before the stack can be built, and what runs while the LV waits.

    An ordinary protect cannot unmount such a volume: this would not have to.
    """
    settings = session.configuration
    needed = [Path("/usr"), Path("/etc"), settings.state_directory, settings.run_directory]
    for path in [*needed, window.watchdog_path()]:
        if blockdev.file_depends_on(path, device.devno):
            raise WrongStateError(
                f"{path} lies on {device.path}, whose stack is built with what is there",
                hint="protect volumes that are mounted later in the boot",
            )
