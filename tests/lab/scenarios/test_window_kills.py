"""Killed inside a window, again and again: what it suspended is resumed, by the watchdog alone.

``DMSNAP_KILLS`` says how often, in each setting: kills that were outside of a window come on top of
that. The longest thaw is printed.
"""

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from conftest import MIB, Lab, run
from file_workload import CHECKERS
from patience import PATIENCE_SECONDS, until
from test_window import DEADLINE_MS, SIZE, Stack, stack, state_of, wait_no_watchdog, writing

__all__ = ["stack"]  # a fixture

KILLS = int(os.environ.get("DMSNAP_KILLS", "6"))  # inside a window, of each setting
# Every other one is seen to be inside before it is killed: two would do if none of the others is.
ATTEMPTS_PER_KILL = 3

# Begins windows without end in a child of its own, at each line that it is told.
NURSERY = textwrap.dedent("""
    import os, sys
    from dmsnap._native import window
    from dmsnap._native.window import WindowAction, WindowStep
    deadline_ms, uuids = int(sys.argv[1]), sys.argv[2:]
    fronts, origins = uuids[::2], uuids[1::2]
    steps = [
        *(WindowStep(uuid, WindowAction.SUSPEND) for uuid in fronts),
        *(WindowStep(uuid, WindowAction.SUSPEND_NO_FREEZE) for uuid in origins),
        *(WindowStep(uuid, WindowAction.RESUME) for uuid in reversed(origins)),
        *(WindowStep(uuid, WindowAction.RESUME) for uuid in reversed(fronts)),
    ]
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            print(os.getpid(), flush=True)
            while True:
                window.run(steps, deadline_ms)
        os.waitpid(child, 0)
        print("ended", flush=True)
""")


@dataclass
class Killings:
    """Processes that are killed in windows of one or of several stacks, one after the other."""

    stacks: list[Stack]
    nursery: "subprocess.Popen[str]"
    kills: int = 0
    inside: int = 0
    longest_seconds: float = 0.0

    def suspended(self) -> list[str]:
        return [stack.name(role) for stack in self.stacks for role in stack.suspended()]

    def attempts(self) -> Iterator[int]:
        """Numbers of kills, until as many as are wanted were inside a window."""
        for attempt in range(KILLS * ATTEMPTS_PER_KILL):
            if self.inside >= KILLS:
                return
            yield attempt
        assert self.inside >= KILLS, f"too few inside: {self}"

    def kill(self, later_seconds: float, *, stopped: bool) -> None:
        """After some time; ``stopped``: where it is seen to be inside a window.

        One that is not stopped is inside if anything is suspended when it is dead: nobody but its
        watchdog can resume that then. Those whose watchdog was faster are not counted.
        """
        assert self.nursery.stdin is not None
        assert self.nursery.stdout is not None
        print(file=self.nursery.stdin, flush=True)
        child = int(self.nursery.stdout.readline())
        time.sleep(later_seconds)
        inside = stopped and self._stop_inside(child)
        os.kill(child, signal.SIGKILL)
        killed = time.monotonic()
        assert self.nursery.stdout.readline() == "ended\n"
        inside = inside or self.suspended() != []
        until(lambda: self.suspended() == [], "all is resumed", DEADLINE_MS / 2000)
        self.longest_seconds = max(self.longest_seconds, time.monotonic() - killed)
        self.kills, self.inside = self.kills + 1, self.inside + inside
        time.sleep(0.02)
        assert self.suspended() == []

    def _stop_inside(self, child: int) -> bool:
        """Stop it when it is inside a window."""
        ends = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < ends:
            while not self.suspended() and time.monotonic() < ends:
                pass
            os.kill(child, signal.SIGSTOP)
            # It stops on its way out of the kernel, which an ioctl may delay.
            until(lambda: state_of(Path(f"/proc/{child}")) == "T", "it has stopped")
            if self.suspended():
                return True
            os.kill(child, signal.SIGCONT)
        raise AssertionError("it was never seen inside a window")

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.inside} of them inside the window, the longest thaw "
            f"{self.longest_seconds * 1000:.1f} ms"
        )


@contextmanager
def killings(*stacks: Stack) -> Iterator[Killings]:
    uuids = [stack.uuid(role) for stack in stacks for role in ("front", "origin")]
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY, str(DEADLINE_MS), *uuids],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as nursery:
        yield Killings(list(stacks), nursery)
        assert nursery.stdin is not None
        nursery.stdin.close()


def test_the_process_is_killed_in_the_window(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    """At so many moments, under writes; the deadline of a minute is not what ends it."""
    with killings(stack) as made:
        for attempt in made.attempts():
            with writing(stack):
                made.kill(0.05 + attempt % 40 * 0.0037, stopped=attempt % 2 == 1)
            stack.check_usable()
    wait_no_watchdog()
    told(capsys, f"no file system: {made}")


def told(capsys: pytest.CaptureFixture[str], figures: str) -> None:
    """Print for the log of a run, where nothing failed, too."""
    with capsys.disabled():
        print(f"\nwindow: {figures}")


@contextmanager
def files_written(mount_point: Path) -> Iterator[list[int]]:
    """Somebody overwrites a file, in part flushed; how often so far."""
    ends, count = threading.Event(), [0]
    path = mount_point / "written"
    path.write_bytes(bytes(8 * MIB))

    def write() -> None:
        places = random.Random(3)
        with path.open("r+b", buffering=0) as file:
            while not ends.is_set():
                os.pwrite(file.fileno(), os.urandom(4096), places.randrange(2000) * 4096)
                count[0] += 1
                if count[0] % 16 == 0:
                    os.fsync(file.fileno())

    thread = threading.Thread(target=write)
    thread.start()
    try:
        until(lambda: count[0] > 16, "somebody writes")
        yield count
    finally:
        ends.set()
        thread.join()


def have_risen(counts: Sequence[Sequence[int]], before: Sequence[int]) -> bool:
    return all(count[0] > former for count, former in zip(counts, before, strict=True))


def unmount_and_check(lab: Lab, fs_type: str, stacks: Sequence[Stack]) -> None:
    for place in lab.mounts:
        run("umount", place)
    lab.mounts.clear()
    for each in stacks:
        run(*CHECKERS[fs_type], each.front)


@pytest.mark.parametrize("volumes", [1, 2])
@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
def test_the_process_is_killed_over_mounted_file_systems(
    lab: Lab, capsys: pytest.CaptureFixture[str], fs_type: str, volumes: int
) -> None:
    """Who writes to them waits, and goes on; nothing stays frozen, and each is whole."""
    size_bytes = 320 * MIB if fs_type == "xfs" else SIZE
    with ExitStack() as opened:
        stacks = [Stack(lab, size_bytes=size_bytes) for _ in range(volumes)]
        for stack in stacks:
            opened.callback(stack.close)
        places = [lab.mounted(str(stack.front), fs_type) for stack in stacks]
        opened.callback(unmount_and_check, lab, fs_type, stacks)
        counts = [opened.enter_context(files_written(place)) for place in places]
        made = opened.enter_context(killings(*stacks))
        for attempt in made.attempts():
            before = [count[0] for count in counts]
            made.kill(0.01 + attempt % 40 * 0.0017, stopped=attempt % 2 == 1)
            # One that waits for the disk still is not frozen: each gets on.
            until(partial(have_risen, counts, before), "writing goes on")
        wait_no_watchdog()
        told(capsys, f"{fs_type}, {volumes} volumes: {made}")
