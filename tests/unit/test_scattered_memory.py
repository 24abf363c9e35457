"""What was written in two million places takes no more memory than half a million extents do.

In a process of its own, by the most that was ever resident of it: VmHWM is of what runs in it since
exec, where ru_maxrss begins with what the process that started it had.
"""

import re
import subprocess
import sys
from pathlib import Path

from dmsnap._native.extent_set import MOST_EXTENTS, ExtentSet
from dmsnap.units import KIB, MIB

PLACES = 2_000_000
EXTENT_BYTES = 16


def peak_bytes() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * KIB


def sets_of_a_sync(most: int) -> int:
    """As a sync makes them of the marks, and of what the replica leaves out; what that takes."""
    before = peak_bytes()
    marked, left_out = ExtentSet(most), ExtentSet()
    for place in range(PLACES):
        marked.add(place * 64 * KIB, 4 * KIB)
    left_out.add(0, MIB)
    catch_up, dirty = marked.within(left_out), marked.without(left_out)
    assert min(len(catch_up), len(dirty)) > 0
    assert dirty.bytes >= (PLACES - 16) * 4 * KIB
    return peak_bytes() - before


def taken(most: int) -> int:
    completed = subprocess.run(
        [sys.executable, __file__, str(most)], capture_output=True, text=True, check=True
    )
    return int(completed.stdout)


def test_scattered_writes_take_no_more_memory_than_a_bound_set_has() -> None:
    bound_bytes = MOST_EXTENTS * EXTENT_BYTES
    assert taken(MOST_EXTENTS) < 4 * bound_bytes
    assert taken(0) > 2 * PLACES * EXTENT_BYTES  # what it would be


if __name__ == "__main__":
    print(sets_of_a_sync(int(sys.argv[1])))
