"""The process that writes the volumes, seen from outside."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from demonstration.program import FailedError
from demonstration.volume import Volume

LAB = Path(__file__).resolve().parents[1]
DEADLINE_SECONDS = 60.0
LOOK_SECONDS = 0.02


class Applications:
    """One process for all volumes, from the first file to the end of the demonstration."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.pid = process.pid

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Leave the processor and the disks to somebody else."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Ask them to end; FailedError when they did not go well."""
        self._process.terminate()
        if self._process.wait(DEADLINE_SECONDS) != 0:
            raise FailedError(f"the applications ended with status {self._process.returncode}")


@contextmanager
def started(volumes: Sequence[Volume], files: int) -> Iterator[Applications]:
    """The applications, their first content written; killed at the latest when this ends."""
    arguments = [f"{volume.name}={volume.mount_point}={volume.notes}" for volume in volumes]
    process = subprocess.Popen(
        [sys.executable, "-m", "demonstration.workload", str(files), *arguments],
        cwd=LAB,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise FailedError("the applications did not start")
        yield Applications(process)
    finally:
        process.kill()
        process.wait()


def wait_for_commit(volume: Volume, position: int) -> float:
    """When the application noted its first commit from a position of its notes on."""
    ends = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < ends:
        for record in volume.commits(position):
            return record.moment
        time.sleep(LOOK_SECONDS)
    raise FailedError(f"the application on {volume.name} does not go on")


def wait_for_failure(volume: Volume, position: int) -> str:
    """What the application says of its first failure from a position of its notes on."""
    ends = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < ends:
        for record in volume.records(position):
            if record.kind == "failed":
                return record.error
        time.sleep(LOOK_SECONDS)
    raise FailedError(f"the application on {volume.name} did not notice the disaster")
