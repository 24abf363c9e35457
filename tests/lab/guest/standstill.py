"""A scenario that does not end is ended, and the guest is looked at before: what waits for what.

By a process of its own, as the scenario's may be in a call that nothing interrupts. Without it a
run would stand still until its guest is ended from outside, and nobody would know where.
"""

import os
import select
import signal
import sys

from guest.process_states import states

LOOK_SECONDS = 5.0


class Watch:
    """Ends this process (SIGABRT, for which pytest tells where it is) when a scenario stands still.

    Made once, before the first scenario begins.
    """

    def __init__(self, seconds: float) -> None:
        reader, self._writer = os.pipe()
        watched = os.getpid()
        if os.fork() == 0:
            os.close(self._writer)
            try:
                _watch(watched, reader, seconds)
            finally:
                os._exit(0)
        os.close(reader)

    def begins(self) -> None:
        """One more scenario begins."""
        os.write(self._writer, b".")


def _watch(watched: int, reader: int, seconds: float) -> None:
    quiet, look = 0.0, min(LOOK_SECONDS, seconds)
    while os.getppid() == watched:
        if select.select([reader], [], [], look)[0]:
            quiet = 0.0
            if not os.read(reader, 1024):
                return
        else:
            quiet += look
        if quiet >= seconds:
            sys.stderr.writelines(["the scenario stands still:\n", *states()])
            sys.stderr.flush()
            os.kill(watched, signal.SIGABRT)
            return
