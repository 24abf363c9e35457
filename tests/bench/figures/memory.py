"""The memory of commands on a volume of 16 TiB, which dm-zero and a snapshot over it make."""

import os
import subprocess
from contextlib import ExitStack
from pathlib import Path

from figures.bench import GIB, KIB, MIB, SCRATCH, TIB, detach, dm, heading, loop, row, run

SIZE = 16 * TIB
LIMIT_MIB = 150
CONFIGURATION = Path("/etc/dmsnap/dmsnap.toml")


def measure() -> None:
    """Peak resident memory of each command, the first copy cut short after a while."""
    heading(f"peak resident memory on 16 TiB, MiB (goal: under {LIMIT_MIB})")
    run("modprobe", "-a", "loop", "dm-mod", "dm-zero", "dm-snapshot")
    sectors = SIZE // 512
    tail = 2 * GIB
    with ExitStack() as devices:
        cow, end = loop("sparse-cow", 2 * GIB), loop("tail", tail)
        replica_cow = loop("replica-cow", 2 * GIB)
        zero = devices.enter_context(dm("bench-zero", f"0 {sectors} zero"))
        primary = devices.enter_context(
            dm("bench-primary", f"0 {sectors} snapshot {zero} {cow} P 8")
        )
        replica = devices.enter_context(
            dm("bench-replica", f"0 {sectors} snapshot {zero} {replica_cow} P 8")
        )
        recovery = devices.enter_context(
            dm("bench-recovery", f"0 {sectors} linear {replica} 0\n"
               f"{sectors} {tail // 512} linear {end} 0")
        )  # fmt: skip
        commands(primary, recovery)
    detach(cow, end, replica_cow)


def commands(primary: str, recovery: str) -> None:
    """Each command's peak. A full copy of 16 TiB takes hours: it is ended after a minute."""
    store = SCRATCH / "store"
    store.mkdir(exist_ok=True)
    CONFIGURATION.parent.mkdir(exist_ok=True)
    CONFIGURATION.write_text(f"cow_limit_bytes = {256 * MIB}\n")
    protect = ["dmsnap", "protect", primary, "--name", "bench", "--recovery", recovery]
    row("protect, the first minute of its copy", peak(60, *protect, "--store", store))
    row("status", peak(60, "dmsnap", "status"))
    CONFIGURATION.unlink()


def peak(limit_seconds: int, *argv: object) -> str:
    """The peak of a command and its children, ended by SIGTERM after ``limit_seconds``."""
    words = [str(word) for word in argv]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        try:
            process.wait(limit_seconds)
        except subprocess.TimeoutExpired:
            process.terminate()
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0
    return f"{usage.ru_maxrss * KIB / MIB:.0f}"
