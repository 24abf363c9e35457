"""dm devices: create, load, suspend, resume, remove, and what the kernel says of them. Root.

A device is named by its dm name. Where udev runs, each call waits until udev has handled it; where
it does not, libdevmapper makes the nodes. A call for a device that does not exist raises
``NotFoundError``.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dmsnap.errors import BusyError, DmsnapError, ForeignDeviceError, OperatingSystemError
from dmsnap.host.blockdev import LET_GO_ATTEMPTS, describe_users_of, may_be_let_go
from dmsnap.host.dm._libdm import ffi, lib
from dmsnap.host.dm.cookie import Cookie, UdevFlags
from dmsnap.host.dm.driver import require_targets, targets
from dmsnap.host.dm.event import wait_event, wait_merged
from dmsnap.host.dm.state import (
    UUID_PREFIX,
    DmInfo,
    deps,
    era_status,
    existing,
    info,
    list_devices,
    make_nodes,
    mirror_status,
    node,
    path_by_devno,
    refuse_suspended_era,
    snapshot_status,
    status,
    table,
    thin_pool_status,
)
from dmsnap.host.dm.state import table as live_table
from dmsnap.host.dm.target import Table, TableLine, past_era
from dmsnap.host.dm.task import Task
from dmsnap.host.sysfs import SYSFS, Sysfs

__all__ = [
    "UUID_PREFIX",
    "DmInfo",
    "UdevFlags",
    "clear",
    "create",
    "create_inactive",
    "deps",
    "era_status",
    "existing",
    "flags_for",
    "go_on_with",
    "info",
    "list_devices",
    "load",
    "make_nodes",
    "message",
    "mirror_status",
    "node",
    "path_by_devno",
    "reload",
    "remove",
    "require_targets",
    "resume",
    "resume_past_era",
    "snapshot_status",
    "status",
    "suspend",
    "suspended",
    "table",
    "targets",
    "thin_pool_status",
    "wait_event",
    "wait_merged",
]

FRONT_SUFFIX = "-front"
UDEV_SECONDS = 30.0


def create(
    name: str,
    uuid: str,
    table: Sequence[TableLine],
    *,
    read_only: bool = False,
    activate: bool = True,
    udev: UdevFlags | None = None,
) -> DmInfo:
    """A new device with ``table``; with ``activate`` False it is loaded, but not resumed.

    Raises ``BusyError`` when the name or the UUID is taken. Nothing is left of a failed attempt.
    A UUID without our prefix is a ``ValueError``: such a device could never be removed.
    """
    if not uuid.startswith(UUID_PREFIX):
        raise ValueError(f"the UUID {uuid!r} does not begin with {UUID_PREFIX}")
    if info(name) or info(uuid=uuid):
        raise BusyError(f"there is a dm device {name} or one with the UUID {uuid} already")
    with Task(lib.DM_DEVICE_CREATE, name=name, uuid=uuid) as task:
        task.run()
    try:
        load(name, table, read_only=read_only)
        if activate:
            resume(name, udev=udev)
        return existing(name)
    except BaseException as error:
        with noted(error, f"removing {name}"):
            remove(name)
        raise


def create_inactive(
    name: str, uuid: str, table: Sequence[TableLine], *, read_only: bool = False
) -> DmInfo:
    """A device whose table is loaded (read, checked, stores opened), and which is not resumed yet.

    It has no node in /dev/mapper before its first resume.
    """
    return create(name, uuid, table, read_only=read_only, activate=False)


def load(name: str, table: Sequence[TableLine], *, read_only: bool = False) -> None:
    """Load ``table`` as the inactive one; the next resume makes it live."""
    with Task(lib.DM_DEVICE_RELOAD, name=name) as task:
        if read_only:
            task.check(lib.dm_task_set_ro(task.handle))
        task.add_table(table)
        task.run()


def clear(name: str) -> None:
    """Drop the inactive table, if there is one."""
    with Task(lib.DM_DEVICE_CLEAR, name=name) as task:
        task.run()


def suspend(name: str, *, flush: bool = True, freeze: bool = True) -> None:
    """Hold back all I/O. A device that is suspended already stays so.

    ``flush``: wait for I/O under way (a dead device below would make this endless).
    ``freeze``: freeze the file system first.
    """
    with Task(lib.DM_DEVICE_SUSPEND, name=name) as task:
        if not flush:
            task.check(lib.dm_task_no_flush(task.handle))
        if not freeze:
            task.check(lib.dm_task_skip_lockfs(task.handle))
        task.run()


def resume(
    name: str, *, udev: UdevFlags | None = None, deadline_seconds: float = UDEV_SECONDS
) -> None:
    """Make an inactive table live, let I/O go on, wait until udev knows.

    ``udev`` None, here and elsewhere: our devices are hidden, but for the front.

    Raises ``DeadlineError`` when udev does not answer; the device is resumed even then.
    """
    flags = flags_for(existing(name).uuid) if udev is None else udev
    with Cookie() as cookie:
        with Task(lib.DM_DEVICE_RESUME, name=name) as task:
            task.check(lib.dm_task_set_cookie(task.handle, cookie.cell, int(flags)))
            task.run()
        cookie.wait(deadline_seconds)


def resume_past_era(name: str, *, udev: UdevFlags | None = None) -> bool:
    """Resume; where dm-era refuses, the device leads past it. Returns whether it had to. One that
    a watchdog resumes at the same moment is resumed, though the kernel refuses us (EINVAL).

    dm-era begins an era whenever it is resumed, and refuses when it cannot write that to its
    metadata (drivers/md/dm-era-target.c, era_preresume): the device stays suspended, and who uses
    it hangs. What is written to one that leads past dm-era is marked nowhere.
    """
    try:
        resume(name, udev=udev)
    except OperatingSystemError:
        if not existing(name).suspended:
            return False
        past = past_era(live_table(name))
        if past is None:
            raise
        load(name, past)
        return _resume_loaded(name, udev)
    return False


def _resume_loaded(name: str, udev: UdevFlags | None) -> bool:
    """Resume a suspended device with what was just loaded; False when a watchdog was faster.

    A device has one place for what is loaded. So a watchdog that resumes it after the load takes
    this; what is there when the device is not suspended any more came too late, and is dropped: to
    resume it would exchange its table once more, behind what was written meanwhile.
    """
    if not existing(name).suspended:
        clear(name)
        return False
    resume(name, udev=udev)
    return True


def flags_for(uuid: str) -> UdevFlags:
    """The flags for a device with this UUID: others' devices are none of our business."""
    ours = uuid.startswith(UUID_PREFIX) and not uuid.endswith(FRONT_SUFFIX)
    return UdevFlags.HIDDEN if ours else UdevFlags.SHOWN


def reload(
    name: str,
    table: Sequence[TableLine],
    *,
    read_only: bool = False,
    udev: UdevFlags | None = None,
) -> None:
    """Load ``table``, suspend and resume: the device changes its table under its users.

    Whatever fails, and whenever a signal arrives, the device is not left suspended: it goes on
    with the table that it had.
    """
    state, before = existing(name), live_table(name)
    try:
        load(name, table, read_only=read_only)
        suspend(name)
        resume(name, udev=udev)
    except BaseException as error:
        with noted(error, f"resuming {name}"):
            go_on_with(name, before, read_only=state.read_only, udev=udev)
        raise


def go_on_with(
    name: str, before: Table, *, read_only: bool = False, udev: UdevFlags | None = None
) -> None:
    """Undo a reload that stopped anywhere. A table that is live and works stays.

    A dm-era that cannot read or write its metadata is passed by: nobody is left waiting.
    """
    state = existing(name)
    if state.inactive_table:
        clear(name)
    if not state.suspended:
        return
    if before and live_table(name) != before:
        # The new table was swapped in and then refused to resume (a target's preresume).
        _load_or_past_era(name, before, read_only=read_only)
    if existing(name).suspended:
        resume_past_era(name, udev=udev)
    else:
        clear(name)  # a watchdog was faster


def _load_or_past_era(name: str, table: Table, *, read_only: bool) -> None:
    try:
        load(name, table, read_only=read_only)
    except OperatingSystemError:
        past = past_era(table)
        if past is None:
            raise
        load(name, past, read_only=read_only)


@contextmanager
def noted(error: BaseException, action: str) -> Iterator[None]:
    """Undo within: a failure of the undo is noted on ``error``, which stays the one raised."""
    try:
        yield
    except DmsnapError as second:
        error.add_note(f"{action} failed, too: {second}")


@contextmanager
def suspended(
    name: str,
    *,
    flush: bool = True,
    freeze: bool = True,
    udev: UdevFlags | None = None,
) -> Iterator[None]:
    """Suspended within the block, resumed after it whatever happens.

    Nothing in it may wait for the device: no dm-era status, no write to its file system, no log.
    """
    try:
        suspend(name, flush=flush, freeze=freeze)
        yield
    finally:
        resume(name, udev=udev)


def remove(name: str, *, deadline_seconds: float = UDEV_SECONDS, sysfs: Sysfs = SYSFS) -> bool:
    """Remove one of our devices; False when there is none of that name.

    Raises ``ForeignDeviceError`` for a device without our UUID, and ``BusyError`` naming the users.
    Who cannot be seen to use it for long is waited for, some seconds.
    """
    state = info(name)
    if state is None:
        return False
    _require_ours(state)
    for _ in range(LET_GO_ATTEMPTS):
        try:
            _remove(name, deadline_seconds)
        except BusyError:
            if not may_be_let_go(state.devno, sysfs=sysfs):
                break
        else:
            return True
    raise _in_use(state, sysfs)


def _require_ours(state: DmInfo) -> None:
    if not state.ours:
        raise ForeignDeviceError(
            f"{state.name} is not dmsnap's (its UUID is {state.uuid!r}) and will not be removed",
            device=state.name,
            uuid=state.uuid,
        )


def _remove(name: str, deadline_seconds: float) -> None:
    with Cookie() as cookie:
        with Task(lib.DM_DEVICE_REMOVE, name=name) as task:
            task.check(lib.dm_task_set_cookie(task.handle, cookie.cell, 0))
            task.run()
        cookie.wait(deadline_seconds)


def _in_use(state: DmInfo, sysfs: Sysfs) -> BusyError:
    users = describe_users_of(state.devno, sysfs=sysfs) or "by nobody to be seen from here"
    return BusyError(
        f"{state.name} cannot be removed, it is in use: {users}",
        device=state.name,
        users=users,
    )


def message(name: str, text: str, *, sector: int = 0) -> str:
    """Send a message to the target at ``sector``; what it answers, or "".

    A dm-era that is suspended would not answer before it is resumed: ``WrongStateError``.
    """
    refuse_suspended_era(name)
    with Task(lib.DM_DEVICE_TARGET_MSG, name=name) as task:
        task.check(lib.dm_task_set_sector(task.handle, sector))
        task.check(lib.dm_task_set_message(task.handle, text.encode()))
        answer = lib.dm_task_get_message_response(task.run().handle)
        response: bytes = ffi.string(answer) if answer != ffi.NULL else b""
        return response.decode()
