"""The window under random writes, beside the same work done by one dmsetup process a step."""

import json
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from figures.bench import GIB, MIB, SCRATCH, detach, heading, loop, row, run, spread

ROUNDS = 12
MS = 1e-3


def measure() -> None:
    """Alternate both ways on the same volume under the same load."""
    heading("how long the file system stands still for a point, under 4 KiB random writes")
    primary, recovery = loop("primary", 2 * GIB), loop("recovery", 3 * GIB)
    cow = loop("cow", 256 * MIB)
    mount_point, store = SCRATCH / "mnt", SCRATCH / "store"
    for directory in (mount_point, store):
        directory.mkdir(exist_ok=True)
    run("mkfs.ext4", "-q", "-F", primary)
    run("mount", primary, mount_point)
    run("dmsnap", "protect", primary, "--name", "bench", "--recovery", recovery, "--store", store)
    ours, theirs = [], []
    with random_writes(mount_point):
        for _ in range(ROUNDS):
            ours.append(by_dmsnap())
            theirs.append(by_dmsetup(primary, cow))
    row("milliseconds, median (min-max)", "dmsnap", "dmsetup, step by step")
    row("window", spread(ours, MS, 1), spread(theirs, MS, 1))
    ratio = statistics.median(ours) / statistics.median(theirs)
    row("ratio of the medians (goal: under 0.1)", f"{ratio:.3f}")
    run("dmsnap", "unprotect", "bench", "--forget")
    run("umount", mount_point)
    detach(primary, recovery, cow)


@contextmanager
def random_writes(mount_point: Path) -> Iterator[None]:
    """Buffered 4 KiB random writes at full rate, until the block ends."""
    command = ["fio", "--name=load", f"--directory={mount_point}", "--size=512m", "--bs=4k",
               "--rw=randwrite", "--ioengine=psync", "--time_based", "--runtime=600"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as load:
        time.sleep(5)
        try:
            yield
        finally:
            load.terminate()


def by_dmsnap() -> float:
    """A point; the window's seconds are measured inside it."""
    (point,) = json.loads(run("dmsnap", "point", "create", "bench", "--cow-percent", 20, "--json"))
    run("dmsnap", "point", "delete", point["id"])
    return float(point["window_seconds"])


def by_dmsetup(primary: str, cow: str) -> float:
    """The classic order: suspend, make the snapshot, resume. From the first suspend to the end."""
    run("dd", "if=/dev/zero", f"of={cow}", "bs=4k", "count=1", "oflag=direct")
    origin = "dmsnap-bench-origin-1"
    sectors = run("blockdev", "--getsz", primary).strip()
    begun = time.perf_counter()
    run("dmsetup", "suspend", "bench")
    run("dmsetup", "suspend", "--nolockfs", origin)
    run("dmsetup", "create", "classic", "--table", f"0 {sectors} snapshot {primary} {cow} P 8")
    run("dmsetup", "resume", origin)
    run("dmsetup", "resume", "bench")
    taken = time.perf_counter() - begun
    run("dmsetup", "remove", "--retry", "classic")
    return taken
