"""What a front counts beyond the origin below it, over a directory tree."""

import os
from pathlib import Path

from test_write_count import device

from dmsnap.host.sysfs import Sysfs
from dmsnap.snapshot.failed_writes import excess

FRONT, ORIGIN = os.makedev(253, 1), os.makedev(253, 0)


def test_at_rest_it_is_exact(tmp_path: Path) -> None:
    device(tmp_path, FRONT, sectors=1008)
    device(tmp_path, ORIGIN, sectors=1000)
    assert excess(FRONT, ORIGIN, Sysfs(tmp_path)) == (8, True)


def test_a_write_under_way_is_below_first(tmp_path: Path) -> None:
    """It is counted there already, and above only when it has completed: a lower bound."""
    device(tmp_path, FRONT, sectors=1008, in_flight=1)
    device(tmp_path, ORIGIN, sectors=1024)
    assert excess(FRONT, ORIGIN, Sysfs(tmp_path)) == (-16, False)
