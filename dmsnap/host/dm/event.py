"""Waiting for dm events with a deadline. Root."""

import fcntl
import os
import select
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dmsnap.errors import DeadlineError, PointInvalidError
from dmsnap.host.dm.state import existing, snapshot_status
from dmsnap.host.dm.status import SnapshotState, SnapshotStatus
from dmsnap.host.system_call import system_call

CONTROL = Path("/dev/mapper/control")
MERGE_INTERVAL_SECONDS = 0.2

# struct dm_ioctl (linux/dm-ioctl.h): version[3], data_size, data_start, target_count, open_count,
# flags, event_nr, padding, dev, name[128], uuid[129], data[7]: 312 bytes.
_DM_IOCTL = struct.Struct("=3I I I I i I I I Q 128s 129s 7s")
_DM_DEV_ARM_POLL = 0xC000FD10 | _DM_IOCTL.size << 16  # _IOWR(0xfd, 16, struct dm_ioctl)
_VERSION = (4, 37, 0)  # the first that knows DM_DEV_ARM_POLL


@dataclass(frozen=True, slots=True)
class EventPoll:
    """The control device, readable once any dm device had an event since it was armed."""

    descriptor: int

    def arm(self) -> None:
        request = bytearray(_DM_IOCTL.size)
        _DM_IOCTL.pack_into(
            request, 0, *_VERSION, len(request), len(request), 0, 0, 0, 0, 0, 0, b"", b"", b""
        )
        with system_call("arm the poll of device-mapper's events"):
            fcntl.ioctl(self.descriptor, _DM_DEV_ARM_POLL, request)


@contextmanager
def event_poll() -> Iterator[EventPoll]:
    """An armed poll for the events of all dm devices: made, removed, renamed, or what targets say.

    DM_DEVICE_WAITEVENT has no deadline and cannot be given one without signals: so the control
    device is polled, which the kernel wakes for every event since DM_DEV_ARM_POLL.
    """
    with system_call(f"open {CONTROL}"):
        control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        events = EventPoll(control)
        events.arm()
        yield events
    finally:
        os.close(control)


@contextmanager
def _events() -> Iterator[Callable[[float], None]]:
    """A function that waits for the next event of any dm device, or some seconds."""
    with event_poll() as events:
        poll = select.poll()
        poll.register(events.descriptor, select.POLLIN)

        def wait(seconds: float) -> None:
            poll.poll(max(0.0, 1000 * seconds))
            events.arm()

        yield wait


def wait_event(name: str, event_nr: int, timeout_seconds: float) -> int:
    """Wait until the device's event number is another than ``event_nr``, and return it.

    Raises ``DeadlineError``, and ``NotFoundError`` when the device goes away.
    """
    ends = time.monotonic() + timeout_seconds
    with _events() as wait:
        while (current := existing(name).event_nr) == event_nr:
            remaining = ends - time.monotonic()
            if remaining <= 0:
                raise DeadlineError(f"{name} had no event within {timeout_seconds:g} s")
            wait(remaining)
    return current


def wait_merged(
    name: str,
    deadline_seconds: float,
    progress: Callable[[SnapshotStatus], None] = lambda _status: None,
) -> None:
    """Wait until a snapshot-merge has merged everything; ``progress`` sees each status.

    dm-snap.c raises an event when a snapshot fails, but none when a merge is done: the status is
    asked anew every 0.2 s, or sooner when an event comes.
    Raises ``PointInvalidError`` when the merge failed, ``DeadlineError``.
    """
    ends = time.monotonic() + deadline_seconds
    with _events() as wait:
        while not (status := snapshot_status(name)).merged:
            if status.state is not SnapshotState.OK:
                raise PointInvalidError(f"merging {name} failed: {status.state.value}", device=name)
            progress(status)
            remaining = ends - time.monotonic()
            if remaining <= 0:
                raise DeadlineError(f"{name} was not merged within {deadline_seconds:g} s")
            wait(min(remaining, MERGE_INTERVAL_SECONDS))
    progress(status)
