"""The table of a device in use, exchanged in a window: nobody is left waiting, whoever dies."""

from contextlib import ExitStack

from dmsnap._native import window
from dmsnap._native.window import WindowAction, WindowStep
from dmsnap.errors import StackChangedError
from dmsnap.host import fsfreeze, signals
from dmsnap.host.dm import device as dm
from dmsnap.host.dm import failing
from dmsnap.host.dm.cookie import Cookie, UdevFlags
from dmsnap.host.dm.device import DmInfo
from dmsnap.host.dm.target import Table, format_table
from dmsnap.host.mountinfo import mounts_of

COOKIE_DEADLINE_SECONDS = 10.0
SUSPENDING = {True: WindowAction.SUSPEND, False: WindowAction.SUSPEND_NO_FREEZE}


def exchange(
    device: DmInfo,
    table: Table,
    deadline_ms: int,
    *,
    udev: UdevFlags = UdevFlags.SHOWN,
    settled: bool = True,
    freeze: bool = True,
    read_only: bool = False,
) -> None:
    """Make ``table`` live under who uses the device.

    In a window, with its watchdog. Not ``settled``, udev is not waited for: it looks at the device,
    which may hang. ``freeze``: what is dirty is written out before it, and the file system frozen.
    When it fails, the device goes on with the table that it had, past a dm-era that refuses; where
    the deadline has passed, or we are killed, with the new one, if that was loaded.

    What ``suspension`` asks of a front is not asked: the era metadata of the old table need no
    room, since any resume goes on with the new one, and this is the way to new ones; and what the
    old table lies on may be dead.
    """
    before = dm.table(device.name)
    written_out = freeze and not failing.is_failed(device.name)
    mounts = mounts_of(device.devno)[:1] if written_out else []
    try:
        # Within: a signal that comes while the kernel loads it raises when it is loaded.
        dm.load(device.name, table, read_only=read_only)
        with ExitStack() as opened, Cookie() as cookie:
            flushed = [opened.enter_context(fsfreeze.flushed(each.mount_point)) for each in mounts]
            event_nr = cookie.event_nr(udev) if settled else 0
            steps = [
                WindowStep(device.uuid, SUSPENDING[freeze]),
                WindowStep(device.uuid, WindowAction.RESUME, event_nr),
            ]
            done = window.run(steps, deadline_ms, file_systems=flushed).steps[-1]
            if done.event_nr and not done.uevent_generated:
                cookie.complete_one()
            cookie.wait(COOKIE_DEADLINE_SECONDS)
    except BaseException as error:
        with signals.deferred(), dm.noted(error, f"resuming {device.name}"):
            dm.go_on_with(device.name, before, read_only=device.read_only)
        raise
    if dm.table(device.name) != table:
        raise StackChangedError(
            f"{device.name} has another table than was loaded, somebody has changed it meanwhile: "
            f"{format_table(dm.table(device.name))}",
            device=device.name,
        )
