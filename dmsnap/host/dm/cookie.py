"""udev cookies: waiting until udev has handled what device-mapper did, with a deadline."""

import errno
import time
from enum import IntFlag

from dmsnap.errors import DeadlineError, OperatingSystemError
from dmsnap.host.dm._libdm import ffi, lib
from dmsnap.host.system_call import failure

_PRIMARY_SOURCE = 0x0040
_FLAGS_SHIFT = 16
_BASE_MASK = 0xFFFF


class UdevFlags(IntFlag):
    """What udev's rules leave undone for a device (``DM_UDEV_…`` in libdevmapper.h).

    The rules remember the flags of the last resume by us, so each resume has to say them again.
    """

    NONE = 0
    DISABLE_DM_RULES = 0x0001
    DISABLE_SUBSYSTEM_RULES = 0x0002
    DISABLE_DISK_RULES = 0x0004
    DISABLE_OTHER_RULES = 0x0008
    LOW_PRIORITY = 0x0010
    # The front: all links.
    SHOWN = 0
    # Twins: a node in /dev/mapper, but no /dev/disk links, no blkid, no LVM scan, no watch.
    HIDDEN = DISABLE_SUBSYSTEM_RULES | DISABLE_DISK_RULES | DISABLE_OTHER_RULES | LOW_PRIORITY


class Cookie:
    """A notification semaphore that udev's rules decrement, once for each event it is part of.

    Where udev does not run it does nothing: ``event_nr`` is 0, ``wait`` returns at once. Leaving
    the context without having waited removes the semaphore; udev's late answers then go nowhere.
    """

    def __init__(self) -> None:
        self._cell = ffi.new("uint32_t *")

    def __enter__(self) -> "Cookie":
        lib.dms_dm_keep_messages()
        if not lib.dm_udev_create_cookie(self._cell):
            raise OperatingSystemError(
                f"cannot create a semaphore to wait for udev with: {_message()}",
                hint="see the limits in /proc/sys/kernel/sem and what is used: ipcs -s",
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._destroy()

    @property
    def cell(self) -> object:
        """The ``uint32_t *`` that ``dm_task_set_cookie`` takes."""
        return self._cell

    @property
    def value(self) -> int:
        """The semaphore's key; 0: none."""
        return int(self._cell[0])

    def event_nr(self, flags: UdevFlags) -> int:
        """Count one more event and return the ``event_nr`` of the DM_DEV_SUSPEND that causes it.

        For resumes done by others: lower 16 bits the cookie, upper 16 the flags, marked as coming
        from the device's owner (dm_ioctl.event_nr, libdevmapper's encoding). Whoever does the
        ioctl calls ``complete_one`` when the kernel generated no uevent.
        """
        if not self.value:
            return 0
        task = ffi.gc(lib.dm_task_create(lib.DM_DEVICE_RESUME), lib.dm_task_destroy)
        # Setting the cookie increments the semaphore; the task itself is never run.
        if task == ffi.NULL or not lib.dm_task_set_cookie(task, self._cell, int(flags)):
            raise OperatingSystemError(f"cannot count up a udev cookie: {_message()}")
        return (int(flags) | _PRIMARY_SOURCE) << _FLAGS_SHIFT | (self.value & _BASE_MASK)

    def complete_one(self) -> None:
        """Do what udev would have done for an event that does not come."""
        if self.value and not lib.dm_udev_complete(self.value):
            raise OperatingSystemError(f"cannot complete a udev cookie: {_message()}")

    def wait(self, deadline_seconds: float) -> None:
        """Wait until udev has handled all events, then make or remove the nodes that it did not.

        Raises ``DeadlineError``; the devices themselves are as they should be even then.
        """
        try:
            if self.value:
                self.complete_one()  # the count of 1 that every cookie is made with
                self._wait_zero(deadline_seconds)
        finally:
            self._destroy()
            lib.dm_task_update_nodes()

    def _wait_zero(self, deadline_seconds: float) -> None:
        ends = time.monotonic() + deadline_seconds
        while True:
            remaining_ms = max(0, int(1000 * (ends - time.monotonic())))
            errnum = lib.dms_cookie_wait_zero(self.value, remaining_ms)
            if errnum in (0, errno.EIDRM):
                return
            if errnum == errno.EAGAIN:
                raise DeadlineError(
                    f"udev did not handle device-mapper's events within {deadline_seconds:g} s",
                    hint="see what udev is busy with: udevadm settle, journalctl -u systemd-udevd",
                )
            if errnum != errno.EINTR:  # after EINTR, the signal's Python handler has run
                raise failure("wait for udev", errnum)

    def _destroy(self) -> None:
        if self.value:
            lib.dms_cookie_destroy(self.value)
            self._cell[0] = 0


def _message() -> str:
    message: bytes = ffi.string(lib.dms_dm_message())
    return message.decode(errors="replace") or "no reason given"
