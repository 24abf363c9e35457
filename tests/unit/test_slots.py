"""Slots: so many at once, given back when a holder dies."""

import os
import subprocess
import sys
from pathlib import Path

from dmsnap.host.slots import slot

HOLD = """
import sys
from pathlib import Path
from dmsnap.host.slots import slot
with slot(Path(sys.argv[1]), "job", int(sys.argv[2])) as taken:
    print(taken, flush=True)
    sys.stdin.read()
"""


def holding(directory: Path, count: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def taken_by(process: "subprocess.Popen[bytes]") -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def test_free_ones_are_taken_at_once(tmp_path: Path) -> None:
    with slot(tmp_path / "new", "job", 2) as first:
        with slot(tmp_path / "new", "job", 2) as second, slot(tmp_path / "new", "disk-sda", 1):
            assert {first, second} == {0, 1}
        with slot(tmp_path / "new", "job", 2) as again:
            assert again == second


def test_the_last_waits_until_one_is_given_back(tmp_path: Path) -> None:
    first = holding(tmp_path, 1)
    assert taken_by(first) == 0
    second = holding(tmp_path, 1)
    assert second.stdout is not None
    os.set_blocking(second.stdout.fileno(), False)
    assert not second.stdout.read()
    os.set_blocking(second.stdout.fileno(), True)
    first.kill()
    first.wait()
    assert taken_by(second) == 0
    second.communicate()
    first.communicate()
