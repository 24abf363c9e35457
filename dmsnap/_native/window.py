"""The window: the suspends and resumes that make a point, with a watchdog beside them. Root."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

from dmsnap._native import _core
from dmsnap._native._core import ffi, lib
from dmsnap._native.core import check
from dmsnap.errors import DmsnapError
from dmsnap.units import to_sectors

if TYPE_CHECKING:
    from dmsnap._native._core import CData


class WindowAction(IntEnum):
    """What a step does to its device."""

    SUSPEND = lib.DMS_WINDOW_SUSPEND  # freezes the file system, drains I/O
    SUSPEND_NO_FREEZE = lib.DMS_WINDOW_SUSPEND_NO_FREEZE
    RESUME = lib.DMS_WINDOW_RESUME  # swaps in an inactive table, when there is one
    HOLD = lib.DMS_WINDOW_HOLD  # suspends without freezing; it stays so, and the caller watches it


@dataclass(frozen=True, slots=True)
class Instead:
    """Where a device leads, straight, when its table refuses to be resumed: ``device`` (a device
    number) from there on.
    """

    length_bytes: int
    device: int
    start_bytes: int = 0


@dataclass(frozen=True, slots=True)
class WindowStep:
    """One ioctl on the device with the DM ``uuid``; ``uevent_generated`` and ``seconds`` are
    results.

    ``event_nr`` is a udev cookie with its flags. When the kernel sent no event for it
    (``uevent_generated`` is false), nobody else will complete the cookie. ``instead`` is for steps
    that resume: without it a device whose table refuses stays suspended, and the watchdog goes on
    trying.
    """

    uuid: str
    action: WindowAction
    event_nr: int = 0
    uevent_generated: bool = False
    seconds: float = 0.0
    instead: Instead | None = None


@dataclass(frozen=True, slots=True)
class Counted:
    """What a device counted when all was suspended: sectors of 512 bytes, written and discarded.

    ``in_flight``: it had begun what was not completed. A device that is suspended never has.
    """

    sectors_written: int
    in_flight: bool


@dataclass(frozen=True, slots=True)
class WindowTimes:
    """``seconds`` from before the first suspend until after the last resume.

    ``flush_seconds`` went to writing back file systems before that, ``nr_flushes`` times.
    ``counted`` has what each counter said; None where that could not be read.
    """

    seconds: float
    flush_seconds: float
    nr_flushes: int
    steps: tuple[WindowStep, ...]
    counted: tuple[Counted | None, ...] = ()


class _PutBack:
    """What the C callback gets a handle of: the function, and what it raised."""

    __slots__ = ("cdata", "function", "handle", "raised")

    def __init__(self, function: Callable[[], None] | None) -> None:
        self.function = function
        self.raised: BaseException | None = None
        self.handle = ffi.new_handle(self)
        self.cdata = ffi.NULL
        if function is not None:
            self.cdata = ffi.new(
                "struct dms_window_put_back *",
                {"call": lib.dms_python_put_back, "context": self.handle},
            )


@ffi.def_extern(name="dms_python_put_back", error=1)
def _put_back(context: "CData") -> int:
    call: _PutBack = ffi.from_handle(context)
    try:
        if call.function is not None:
            call.function()
    except BaseException as error:
        call.raised = error
        return 1
    return 0


def watchdog_path() -> Path:
    """The watchdog program, built and installed beside the compiled module."""
    return Path(_core.__file__).with_name("dmsnap-watchdog")


def run(
    steps: Sequence[WindowStep],
    deadline_ms: int,
    *,
    file_systems: Sequence[int] = (),
    watchdog: Path | None = None,
    put_back: Callable[[], None] | None = None,
    counters: Sequence[int] = (),
) -> WindowTimes:
    """Run ``steps`` in order; every device that is suspended must be resumed by a later step, or is
    held: then it is suspended still when all went well.

    ``file_systems`` are descriptors on the file systems that the window freezes: they are written
    back as the last thing before it, until little is left; after a few seconds only while every
    pass leaves less.

    ``put_back`` is called where a device refuses to be resumed, in the window and with its watchdog
    on guard, before the device leads to what there is instead; what it raises is a note of the
    error.

    ``counters`` are descriptors of ``stat`` files in sysfs (``Sysfs.counter``), which are read
    when all is suspended, before the first resume.

    Raises :class:`~dmsnap.errors.DeadlineError` when ``deadline_ms`` passed, and other errors
    when a step failed or could not begin. After any of them everything is resumed, with its table
    or what there is instead, unless the error says which device could not be. SIGINT and SIGTERM
    wait until the end.

    An inactive table of a device that the window suspends goes live with the resume, also when
    the window fails; where the suspend did not come to its end, it is inactive still. No era device
    may be asked anything meanwhile.
    """
    array = ffi.new("struct dms_window_step[]", len(steps))
    for place, step in zip(array, steps, strict=True):
        place.uuid = step.uuid.encode()
        place.action = step.action
        place.event_nr = step.event_nr
        if step.instead is not None:
            place.instead_sectors = to_sectors(step.instead.length_bytes)
            place.instead_major = os.major(step.instead.device)
            place.instead_minor = os.minor(step.instead.device)
            place.instead_start_sectors = to_sectors(step.instead.start_bytes)
    descriptors = ffi.new("int[]", list(file_systems))
    counting = ffi.new("struct dms_window_counter[]", len(counters))
    for counter, descriptor in zip(counting, counters, strict=True):
        counter.stat_fd = descriptor
    result = ffi.new("struct dms_window_result *")
    path = str(watchdog or watchdog_path()).encode()
    call = _PutBack(put_back)
    error = lib.dms_window_run(
        array,
        len(steps),
        descriptors,
        len(file_systems),
        deadline_ms,
        path,
        call.cdata,
        counting,
        len(counters),
        result,
    )
    try:
        check(error, "")
    except DmsnapError as failure:
        if call.raised is not None:
            failure.add_note(f"putting the former table back failed, too: {call.raised}")
        raise
    done = tuple(
        replace(step, uevent_generated=bool(place.uevent_generated), seconds=float(place.seconds))
        for place, step in zip(array, steps, strict=True)
    )
    counted = tuple(
        Counted(int(each.sectors_written), bool(each.in_flight)) if each.known else None
        for each in counting
    )
    return WindowTimes(result.seconds, result.flush_seconds, result.nr_flushes, done, counted)
