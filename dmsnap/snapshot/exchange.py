"""The table of a device in use, exchanged in a window: nobody is left waiting, whoever dies."""

from collections.abc import Sequence
from contextlib import ExitStack

from dmsnap._native import window
from dmsnap._native.window import Instead, WindowAction, WindowStep
from dmsnap.errors import StackChangedError
from dmsnap.host import counting, fsfreeze, signals
from dmsnap.host.dm import device as dm
from dmsnap.host.dm import failing
from dmsnap.host.dm.cookie import Cookie, UdevFlags
from dmsnap.host.dm.device import DmInfo
from dmsnap.host.dm.target import Linear, Table, format_table, past_era
from dmsnap.host.mountinfo import mounts_of

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
    counted: Sequence[int] = (),
) -> list[int | None]:
    """Make ``table`` live under who uses the device. Returns what the devices with the numbers in
    ``counted`` have written, in sectors, as it was suspended; None where that is not known.

    In a window, with its watchdog. Not ``settled``, udev is not waited for: it looks at the device,
    which may hang. ``freeze``: what is dirty is written out before it, and the file system frozen.
    When it fails, the device goes on with the table that it had, past a dm-era that refuses; where
    the deadline had passed when the suspend came to its end, or we are killed then, with the new
    one: all I/O was drained, and the old one may be what cannot be resumed. A suspend that is given
    up leaves the old one, and nothing goes live behind it. Where the new one refuses, the window
    stays on guard until the old one is back; when we are killed meanwhile, its watchdog has the
    device lead to what lies below, if that is one device, and else tries until somebody helps.

    What ``suspension`` asks of a front is not asked: the era metadata of the old table need no
    room, since any resume goes on with the new one, and this is the way to new ones; and what the
    old table lies on may be dead.
    """
    before = dm.table(device.name)

    def put_back() -> None:
        with signals.deferred():
            dm.go_on_with(device.name, before, read_only=device.read_only)

    written_out = freeze and not failing.is_failed(device.name)
    mounts = mounts_of(device.devno)[:1] if written_out else []
    try:
        # Within: a signal that comes while the kernel loads it raises when it is loaded.
        dm.load(device.name, table, read_only=read_only)
        with (
            ExitStack() as opened,
            counting.opened(counted) as counters,
            Cookie() as cookie,
        ):
            flushed = [opened.enter_context(fsfreeze.flushed(each.mount_point)) for each in mounts]
            event_nr = cookie.event_nr(udev) if settled else 0
            steps = [
                WindowStep(device.uuid, SUSPENDING[freeze]),
                WindowStep(
                    device.uuid,
                    WindowAction.RESUME,
                    event_nr,
                    instead=None if device.read_only else led_to(before),
                ),
            ]
            times = window.run(
                steps, deadline_ms, file_systems=flushed, put_back=put_back, counters=counters
            )
            done = times.steps[-1]
            if done.event_nr and not done.uevent_generated:
                cookie.complete_one()
            cookie.wait(dm.UDEV_SECONDS)
    except BaseException as error:
        with dm.noted(error, f"resuming {device.name}"):
            put_back()
        raise
    if dm.table(device.name) != table:
        raise StackChangedError(
            f"{device.name} has another table than was loaded, somebody has changed it meanwhile: "
            f"{format_table(dm.table(device.name))}",
            device=device.name,
        )
    return [each.sectors_written if each else None for each in times.counted]


def led_to(table: Table) -> Instead | None:
    """Where a table leads, past a dm-era, when that is one device; its dm-era is gone then, and
    with it the tracking.
    """
    lines = past_era(table) or table
    if len(lines) != 1 or not isinstance(lines[0].target, Linear):
        return None
    below = lines[0].target
    return Instead(lines[0].length_bytes, below.device, below.offset_bytes)
