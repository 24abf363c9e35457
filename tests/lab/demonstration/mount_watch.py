"""Seeing mounts vanish and come back, at the moment when the kernel says so."""

import select
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demonstration import notes
from demonstration.program import FailedError

MOUNTINFO = Path("/proc/self/mountinfo")
POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Change:
    """A mount that vanished or came, and how far the application's notes were."""

    mount_point: Path
    mounted: bool
    moment: float
    position: int


class MountWatch(threading.Thread):
    """Records every change of some mount points until it is stopped (proc(5): POLLPRI)."""

    def __init__(self, watched: Sequence[tuple[Path, Path]]) -> None:
        super().__init__(name="mount watch", daemon=True)
        self._notes = dict(watched)
        self._mounted = dict.fromkeys(self._notes, True)
        self._changes: list[Change] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._file = MOUNTINFO.open()

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._file, select.POLLPRI)
        while not self._ended.is_set():
            if poll.poll(1000 * POLL_SECONDS):
                self._look()

    def _look(self) -> None:
        with self._lock:
            moment = time.monotonic()
            self._file.seek(0)
            # A placeholder that is seen meanwhile is no mount of the volume.
            rows = (line.split() for line in self._file if "-placeholder-" not in line)
            present = {Path(row[4]) for row in rows}
            for mount_point, before in self._mounted.items():
                mounted = mount_point in present
                if mounted is not before:
                    position = notes.position(self._notes[mount_point])
                    self._changes.append(Change(mount_point, mounted, moment, position))
                    self._mounted[mount_point] = mounted

    def stop(self) -> None:
        self._ended.set()
        self.join()
        self._file.close()

    def changes(self, mount_point: Path, since: float) -> list[Change]:
        """What happened to a mount point since a moment."""
        self._look()
        return [
            change
            for change in self._changes
            if change.mount_point == mount_point and change.moment >= since
        ]

    def absence(self, mount_point: Path, since: float) -> tuple[Change, Change]:
        """How the mount vanished and came back, once; anything else is a failure."""
        seen = self.changes(mount_point, since)
        if [change.mounted for change in seen] != [False, True]:
            raise FailedError(f"{mount_point} was to vanish and come back once: {seen}")
        return seen[0], seen[1]
