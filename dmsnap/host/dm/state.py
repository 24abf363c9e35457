"""What the kernel says of dm devices: state, tables, status, neighbours. Root; changes nothing.

A call for a device that does not exist raises ``NotFoundError``, but for ``info``.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dmsnap.errors import NotFoundError, WrongStateError
from dmsnap.host.dm._libdm import ffi, lib
from dmsnap.host.dm.status import EraStatus, MirrorStatus, SnapshotStatus, ThinPoolStatus
from dmsnap.host.dm.target import RawLine, Table, TableLine, parse_target
from dmsnap.host.dm.task import Task
from dmsnap.host.sysfs import SYSFS, Sysfs
from dmsnap.host.system_call import failure

if TYPE_CHECKING:
    from dmsnap.host.dm._libdm import CData

DIRECTORY = Path("/dev/mapper")
UUID_PREFIX = "DMSNAP-"


@dataclass(frozen=True, slots=True)
class DmInfo:
    """A device's state. ``event_nr`` counts the events of its targets."""

    name: str
    uuid: str
    devno: int
    open_count: int
    suspended: bool
    live_table: bool
    inactive_table: bool
    read_only: bool
    event_nr: int

    @property
    def ours(self) -> bool:
        return self.uuid.startswith(UUID_PREFIX)


def info(name: str | None = None, *, uuid: str | None = None) -> DmInfo | None:
    """The state of the device with this name or this UUID; None when there is none."""
    with Task(lib.DM_DEVICE_INFO, name=name, uuid=uuid) as task:
        task.run()
        raw = ffi.new("struct dm_info *")
        task.check(lib.dm_task_get_info(task.handle, raw))
        if not raw.exists:
            return None
        return DmInfo(
            name=_text(lib.dm_task_get_name(task.handle)),
            uuid=_text(lib.dm_task_get_uuid(task.handle)),
            devno=os.makedev(raw.major, raw.minor),
            open_count=raw.open_count,
            suspended=bool(raw.suspended),
            live_table=bool(raw.live_table),
            inactive_table=bool(raw.inactive_table),
            read_only=bool(raw.read_only),
            event_nr=raw.event_nr,
        )


def _text(characters: "CData") -> str:
    text: bytes = ffi.string(characters) if characters != ffi.NULL else b""
    return text.decode()


def existing(name: str) -> DmInfo:
    """As ``info``, but a device that does not exist is a ``NotFoundError``."""
    state = info(name)
    if state is None:
        raise NotFoundError(f"there is no dm device {name}", device=name)
    return state


def table(name: str, *, inactive: bool = False) -> Table:
    """The live table, or the inactive one; empty when none is loaded."""
    with Task(lib.DM_DEVICE_TABLE, name=name) as task:
        if inactive:
            task.check(lib.dm_task_query_inactive_table(task.handle))
        task.run()
        return tuple(_typed(line) for line in task.targets())


def _typed(line: RawLine) -> TableLine:
    target = parse_target(line.type_name, line.parameters)
    return TableLine(line.start_bytes, line.length_bytes, target)


def status(name: str) -> tuple[RawLine, ...]:
    """The status line of each target.

    Raises ``WrongStateError`` for a suspended dm-era: it would answer through a worker that is
    stopped, and hang until somebody resumes it. (A suspend between the check and the question can
    still do that: do not ask from outside the lock that guards the window.)
    """
    refuse_suspended_era(name)
    with Task(lib.DM_DEVICE_STATUS, name=name) as task:
        task.check(lib.dm_task_no_flush(task.handle))
        task.run()
        return tuple(task.targets())


def refuse_suspended_era(name: str) -> None:
    """``WrongStateError`` when ``name`` is a suspended dm-era: a question to it would hang."""
    if existing(name).suspended and any(line.target.type_name == "era" for line in table(name)):
        raise WrongStateError(f"{name} is suspended, dm-era does not answer", device=name)


def _only_status(name: str, *type_names: str) -> str:
    lines = status(name)
    if len(lines) != 1 or lines[0].type_name not in type_names:
        found = ", ".join(line.type_name for line in lines) or "no table"
        raise WrongStateError(f"{name} should be one dm target {type_names[0]}, it has {found}")
    return lines[0].parameters


def era_status(name: str) -> EraStatus:
    """The status of a device that is one era target, else ``WrongStateError``."""
    return EraStatus.parse(_only_status(name, "era"))


def snapshot_status(name: str) -> SnapshotStatus:
    """The status of a device that is one snapshot or snapshot-merge target."""
    return SnapshotStatus.parse(_only_status(name, "snapshot", "snapshot-merge"))


def mirror_status(name: str) -> MirrorStatus:
    """The status of a device that is one mirror target."""
    return MirrorStatus.parse(_only_status(name, "mirror"))


def thin_pool_status(name: str) -> ThinPoolStatus:
    """The status of a device that is one thin-pool target."""
    return ThinPoolStatus.parse(_only_status(name, "thin-pool"))


def deps(name: str) -> list[int]:
    """The numbers of the devices that the live table opened."""
    with Task(lib.DM_DEVICE_DEPS, name=name) as task:
        raw = lib.dm_task_get_deps(task.run().handle)
        return [int(raw.device[index]) for index in range(raw.count)] if raw != ffi.NULL else []


def list_devices(uuid_prefix: str = UUID_PREFIX) -> list[DmInfo]:
    """The devices whose UUID begins with ``uuid_prefix``, by name; "" gives all."""
    states = (info(name) for name in _names(uuid_prefix))
    return [state for state in states if state and state.uuid.startswith(uuid_prefix)]


def _names(uuid_prefix: str) -> list[str]:
    """From Linux 5.13 on no others than those (drivers/md/dm-ioctl.c, filter_device): each costs a
    question, and a host may have hundreds.
    """
    with Task(lib.DM_DEVICE_LIST, uuid=uuid_prefix or None) as task:
        raw = lib.dm_task_get_names(task.run().handle)
        return sorted(_walk_names(raw)) if raw != ffi.NULL and raw.dev else []


def _walk_names(raw: "CData") -> Iterator[str]:
    while True:
        yield _text(raw.name)
        if not raw.next:
            return
        raw = ffi.cast("struct dm_names *", ffi.cast("char *", raw) + raw.next)


def node(name: str) -> Path:
    """The device's path, ``/dev/mapper/NAME``: made by udev, or where it does not run by us."""
    return DIRECTORY / name


def make_nodes(name: str) -> None:
    """Make or remove the node by what the kernel knows: after a resume that others did."""
    lib.dms_dm_keep_messages()
    if not lib.dm_mknodes(name.encode()):
        message = _text(lib.dms_dm_message())
        raise failure(f"make the node of {name}", 0, message or "libdevmapper gave no reason")
    lib.dm_task_update_nodes()


def path_by_devno(devno: int, *, sysfs: Sysfs = SYSFS) -> Path:
    """The node of any block device; of a dm device the one with its name."""
    name = sysfs.dm_name(devno)
    return node(name) if name else sysfs.device_path(devno)
