"""Asking another process to end: by a descriptor of it, which no later process can take over."""

import os
import select
import signal
from collections.abc import Callable
from contextlib import suppress

from dmsnap.errors import DeadlineError

_MILLISECONDS = 1000


def terminate(pid: int, is_meant: Callable[[], bool], wait_seconds: float) -> None:
    """Send SIGTERM to a process and wait for its end; nothing happens when it has ended already.

    ``is_meant`` is asked once the process is held on to: its number may be another's by then.
    Raises :class:`DeadlineError` when it lives on. Needs root for the processes of others.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not is_meant():
            return
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(wait_seconds * _MILLISECONDS):
            raise DeadlineError(
                f"process {pid} was asked to end and has not within {wait_seconds:g} s", pid=pid
            )
    finally:
        os.close(descriptor)
