"""What every figure stands on: programs, loop devices, times, and how they are printed."""

import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SCRATCH = Path("/scratch")
KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40


def run(*argv: object, timeout: float = 900) -> str:
    """Run a program to its end; its failure ends the bench."""
    words = [str(word) for word in argv]
    completed = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)
    if completed.returncode:
        raise SystemExit(f"{' '.join(words)}: {completed.returncode}\n{completed.stderr}")
    return completed.stdout


def seconds(work: Callable[[], object]) -> float:
    """How long ``work`` takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def alternating(rounds: int, *works: Callable[[], object]) -> list[list[float]]:
    """Time several works in turn, so that a busy moment of the machine hits all of them."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for place, work in zip(times, works, strict=True):
            place.append(seconds(work))
    return times


def spread(values: Sequence[float], unit: float = 1.0, digits: int = 3) -> str:
    """``median (min-max)``."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return " ".join(
        [f"{middle / unit:.{digits}f}", f"({low / unit:.{digits}f}-{high / unit:.{digits}f})"]
    )


def heading(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)


def row(label: str, *cells: object) -> None:
    print(f"  {label:<46}" + "".join(f"{cell!s:>26}" for cell in cells), flush=True)


def drop_caches() -> None:
    """Make the next reads come from the medium."""
    run("sync")
    Path("/proc/sys/vm/drop_caches").write_text("3")


def loop(name: str, size_bytes: int) -> str:
    """A loop device over a new sparse file."""
    path = SCRATCH / name
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return run("losetup", "--find", "--show", "--direct-io=on", path).strip()


@contextmanager
def dm(name: str, table: str) -> Iterator[str]:
    """A dm device of the bench's own."""
    run("dmsetup", "create", name, "--table", table)
    try:
        yield f"/dev/mapper/{name}"
    finally:
        run("dmsetup", "remove", "--retry", name)


def detach(*loops: str) -> None:
    """Give loop devices and their files back."""
    for device in loops:
        backing = run("losetup", "--noheadings", "-O", "BACK-FILE", device).strip()
        run("losetup", "-d", device)
        Path(backing).unlink()
