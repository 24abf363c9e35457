"""What the core takes for a copy or an audit goes back to the system when that is done."""

import os
import subprocess
import sys
from pathlib import Path

from dmsnap._native import copy, digest
from dmsnap._native.copy import CopyOptions, UndoStore
from dmsnap._native.extent_set import ExtentSet
from dmsnap.units import MIB

SIZE = 64 * MIB
# All buffers are in use at once.
OPTIONS = CopyOptions(queue_depth=16, request_bytes=MIB)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def copy_and_audit(directory: Path) -> int:
    """What stays in memory when both were done twice."""
    source, destination, store = (
        os.open(directory / name, os.O_RDWR | os.O_CREAT) for name in ("new", "old", "store")
    )
    for descriptor in (source, destination, store):
        os.truncate(descriptor, SIZE)
    for offset in range(0, SIZE, MIB):
        os.pwrite(source, os.urandom(MIB // 4), offset)
    whole = ExtentSet.whole(SIZE)
    before = resident_bytes()
    for _ in range(2):
        undo = UndoStore(store, 0, SIZE)
        copy.compare(source, destination, SIZE, whole, undo=undo, options=OPTIONS, name="x")
        digest.compare(source, destination, SIZE, whole, options=OPTIONS, name="x")
    return resident_bytes() - before


def test_memory_is_given_back(tmp_path: Path) -> None:
    """In a process of its own: what others left in this one would hide it."""
    completed = subprocess.run(
        [sys.executable, __file__, tmp_path], capture_output=True, text=True, check=True
    )
    assert int(completed.stdout) < 4 * MIB


if __name__ == "__main__":
    print(copy_and_audit(Path(sys.argv[1])))
