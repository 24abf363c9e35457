"""The watchdog beside work that takes longer than a window while a device is suspended. Root.

The program is the window's (native/src/watchdog_main.c), and what is said to it, over the socket
that is its standard input, is in native/src/window_watchdog.h.
"""

import logging
import os
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from pathlib import Path
from types import FrameType

from dmsnap.errors import DeadlineError, DmsnapError, OperatingSystemError
from dmsnap.host.dm.device import flags_for
from dmsnap.host.system_call import system_call

log = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0
END_SECONDS = 10.0
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000

_MESSAGE = struct.Struct("=IiQ")  # struct dms_watchdog_message: kind, errnum, deadline_ns
_FLAGS_SHIFT = 16  # dm_ioctl.event_nr: the flags for udev are its upper half
_SIGNAL = signal.SIGRTMAX - 2  # DMS_WATCHDOG_SIGNAL


class _Kind(IntEnum):
    ARMED = 1
    FAILED = 2
    START = 3
    DONE = 4
    CLEAN = 5
    FIRED = 6


class Watchdog:
    """It resumes a device when we die or the deadline passes, until :meth:`finish` is called.

    Only while that is suspended: a table that is loaded when it goes on already stays inactive.
    """

    def __init__(self, link: socket.socket, uuid: str, deadline_ms: int) -> None:
        self._link = link
        self._uuid = uuid
        self._deadline_ms = deadline_ms
        self._deadline_ns = 0
        self._finished = False

    def start(self) -> None:
        """From now on the deadline counts."""
        self._deadline_ns = _now_ns() + self._deadline_ms * NS_PER_MS
        self._say(_Kind.START, self._deadline_ns)

    def require(self, seconds: float = 0) -> None:
        """``DeadlineError`` unless that much is left of the deadline.

        Until that has passed, the watchdog of one that lives has resumed nothing.
        """
        if _now_ns() + seconds * NS_PER_S >= self._deadline_ns:
            raise self.failure()

    def finish(self) -> None:
        """Have it do nothing any more; ``DeadlineError`` when it has resumed the device already."""
        if self._finished:
            return
        self._finished = True
        self._say(_Kind.DONE)
        if self.answer() is not _Kind.CLEAN:
            raise self.failure()

    def hush(self) -> None:
        """From now on only resume the device, and raise nothing: it is being put in order."""
        signal.signal(_SIGNAL, signal.SIG_IGN)

    def join(self) -> None:
        """Once the deadline has passed, have it end: no resume of it is under way afterwards.

        Before that it stays: what it watches is suspended.
        """
        try:
            self.require()
        except DeadlineError:
            with suppress(DmsnapError):
                self.finish()

    def failure(self) -> DeadlineError:
        return DeadlineError(
            f"the device {self._uuid} was suspended for longer than {self._deadline_ms} ms, and "
            f"was resumed by its watchdog",
            device=self._uuid,
        )

    def answer(self) -> _Kind:
        """The next thing that it says."""
        with system_call("hear from the watchdog"):
            ready, _, _ = select.select([self._link], [], [], ANSWER_SECONDS)
            message = self._link.recv(_MESSAGE.size) if ready else b""
        if len(message) != _MESSAGE.size:
            raise OperatingSystemError("the watchdog has ended or does not answer")
        kind, errnum, _ = _MESSAGE.unpack(message)
        if kind == _Kind.FAILED:
            raise OperatingSystemError(
                f"the watchdog cannot begin: {os.strerror(errnum)}", errnum=errnum
            )
        return _Kind(kind)

    def _say(self, kind: _Kind, deadline_ns: int = 0) -> None:
        with system_call("tell the watchdog"):
            self._link.send(_MESSAGE.pack(kind, 0, deadline_ns))


def _now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


@contextmanager
def watched(program: Path, uuid: str, deadline_ms: int) -> Iterator[Watchdog]:
    """A watchdog for the device with the DM ``uuid``, armed and not started yet.

    When the deadline passes in the block, ``DeadlineError`` is raised in the main thread, as a
    signal's handler does it: soon, and not before the device is being resumed.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # "!": such a device is suspended without freezing.
    device = f"!{int(flags_for(uuid)) << _FLAGS_SHIFT}:{uuid}"
    words = [str(program), str(os.getpid()), str(threading.get_native_id()), device]
    with ours, theirs:
        watchdog = Watchdog(ours, uuid, deadline_ms)
        with _raising(watchdog):
            process = subprocess.Popen(words, stdin=theirs.fileno())
            theirs.close()
            try:
                if watchdog.answer() is not _Kind.ARMED:
                    raise OperatingSystemError("the watchdog did not say that it is armed")
                yield watchdog
            finally:
                ours.close()
                _reap(process)


def _reap(process: "subprocess.Popen[bytes]") -> None:
    """It ends when the link is closed, unless it hangs with the device: then it is left behind, as
    waiting for it would be for ever.
    """
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        log.warning("the watchdog (pid %d) has not ended: it is left behind", process.pid)


@contextmanager
def _raising(watchdog: Watchdog) -> Iterator[None]:
    """The watchdog's signal ends what we do: the device is not suspended any more."""

    def fired(_number: int, _frame: FrameType | None) -> None:
        signal.signal(_SIGNAL, signal.SIG_IGN)  # it comes again until we are out
        raise watchdog.failure()

    before = signal.signal(_SIGNAL, fired)
    try:
        yield
    finally:
        signal.signal(_SIGNAL, before)
