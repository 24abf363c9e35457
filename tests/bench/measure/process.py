"""Programs under measurement: wall clock, processor and peak memory, contestants in turn."""

import resource
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from measure.model import Series

DEADLINE_SECONDS = 900


class BenchError(Exception):
    """What ends a section: a program that failed (with its status), results that differ."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Usage:
    """One run: what it took from start to end, children included."""

    seconds: float
    cpu_seconds: float = 0.0
    peak_bytes: float = 0.0


Work = Callable[[], Usage | None]
"""One run of a contestant; it may say itself what it took, or else it is timed from outside."""


def run(*argv: object, timeout: float = DEADLINE_SECONDS, expected: Sequence[int] = (0,)) -> str:
    """Run a program to its end and return what it wrote on stdout."""
    return finished(argv, subprocess.PIPE, timeout, expected).stdout


def finished(
    argv: Sequence[object], stdout: int, timeout: float, expected: Sequence[int]
) -> subprocess.CompletedProcess[str]:
    """A program at its end; any exit status but those expected is an error with its last words."""
    words = [str(word) for word in argv]
    completed = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=timeout,
        check=False,
    )
    if completed.returncode not in expected:
        said = f"{shlex.join(words)}: {completed.returncode}\n{completed.stderr}"
        raise BenchError(said, completed.returncode)
    return completed


def used(*argv: object, timeout: float = DEADLINE_SECONDS, expected: Sequence[int] = (0,)) -> Usage:
    """Run a program, its output to /dev/null, since reading it costs time; say what it took.

    GNU time starts it and tells its peak memory: a child's begins with that of the process it was
    forked from, and ours is larger than many a contestant's. Its start costs about a millisecond.
    """
    with tempfile.NamedTemporaryFile(prefix="dmsnap-bench-") as file:
        prefix = ["/usr/bin/time", "--quiet", "--format=%M", f"--output={file.name}"]
        before, begun = children_seconds(), time.perf_counter()
        finished([*prefix, *argv], subprocess.DEVNULL, timeout, expected)
        seconds = time.perf_counter() - begun
        peak_bytes = int(file.read().split()[-1]) * 1024
        return Usage(seconds, children_seconds() - before, peak_bytes)


def children_seconds() -> float:
    """What all children that have ended took of the processor; GNU time rounds to 10 ms."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def programs(commands: Mapping[str, Sequence[object]]) -> dict[str, Work]:
    """Contestants that are one program each."""
    return {contestant: partial(used, *argv) for contestant, argv in commands.items()}


def alternating(
    rounds: int,
    works: Mapping[str, Work],
    before: Callable[[str], None] = lambda _contestant: None,
) -> dict[str, list[Usage]]:
    """Run the contestants in turn, so that a busy moment of the machine hits all of them.

    ``before`` puts the devices back into the state in which each contestant finds them; it is not
    timed. Every other round goes backwards: who follows whom matters to caches and disks.
    """
    taken: dict[str, list[Usage]] = {contestant: [] for contestant in works}
    for number in range(rounds):
        order = list(works) if number % 2 == 0 else list(works)[::-1]
        for contestant in order:
            before(contestant)
            begun = time.perf_counter()
            usage = works[contestant]()
            taken[contestant].append(usage or Usage(time.perf_counter() - begun))
    return taken


def series(
    contestant: str,
    case: str,
    usages: Sequence[Usage],
    command: Sequence[object] | str = "",
    *,
    position: float | None = None,
    note: str = "",
) -> Series:
    """The seconds of several runs, with processor and memory where they were measured."""
    measured = any(usage.peak_bytes for usage in usages)
    return Series(
        contestant,
        case,
        samples=tuple(usage.seconds for usage in usages),
        cpu_seconds=tuple(usage.cpu_seconds for usage in usages) if measured else (),
        peak_bytes=tuple(usage.peak_bytes for usage in usages) if measured else (),
        command=command if isinstance(command, str) else shlex.join(map(str, command)),
        position=position,
        note=note,
    )


def drop_caches() -> None:
    """Write everything out and make the next reads come from the medium."""
    run("sync")
    Path("/proc/sys/vm/drop_caches").write_text("3")
