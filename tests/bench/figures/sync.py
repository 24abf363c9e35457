"""A sync's cost follows the dirty bytes, not the volume."""

import json
import os
import random
from typing import Any

from figures.bench import GIB, KIB, MIB, SCRATCH, detach, heading, loop, row, run, seconds

BLOCK = 64 * KIB


def measure() -> None:
    """The same change on growing volumes, then growing changes on one volume."""
    heading("sync: seconds inside the command, beside copying the whole volume with dd")
    row("volume, dirty", "bytes dirty/written", "sync s", "dd of the volume s")
    for size_gib, dirty_mib in ((1, 8), (2, 8), (4, 8), (1, 1), (1, 64), (1, 256)):
        one(size_gib, dirty_mib)


def one(size_gib: int, dirty_mib: int) -> None:
    """Protect, dirty some blocks at random, sync, and copy in full for comparison."""
    size = size_gib * GIB
    primary, recovery, target = (
        loop("primary", size),
        loop("recovery", size + GIB),
        loop("target", size),
    )
    store = SCRATCH / "store"
    store.mkdir(exist_ok=True)
    run("dmsnap", "protect", primary, "--name", "bench", "--recovery", recovery, "--store", store)
    dirty("/dev/mapper/bench", size, dirty_mib * MIB)
    result: dict[str, Any] = json.loads(run("dmsnap", "sync", "bench", "--json"))
    copy = seconds(
        lambda: run(
            "dd",
            f"if={recovery}",
            f"of={target}",
            "bs=1M",
            f"count={size // MIB}",
            "iflag=direct",
            "oflag=direct",
            "conv=fsync",
        )
    )
    amounts = f"{result['bytes_dirty'] // MIB}/{result['bytes_written'] // MIB} MiB"
    row(f"{size_gib} GiB, {dirty_mib} MiB", amounts, f"{result['seconds']:.2f}", f"{copy:.2f}")
    run("dmsnap", "unprotect", "bench", "--forget")
    detach(primary, recovery, target)


def dirty(front: str, size: int, amount: int) -> None:
    """Overwrite whole blocks scattered over the front."""
    fd = os.open(front, os.O_WRONLY)
    for block in random.Random(amount).sample(range(size // BLOCK), amount // BLOCK):
        os.pwrite(fd, os.urandom(BLOCK), block * BLOCK)
    os.fsync(fd)
    os.close(fd)
