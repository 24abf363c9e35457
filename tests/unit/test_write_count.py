"""The two counters of a stack, over a directory tree."""

import os
from pathlib import Path

from dmsnap.host.sysfs import Sysfs, format_devno
from dmsnap.snapshot.write_count import Surplus, surplus

BACKING, ORIGIN = os.makedev(7, 0), os.makedev(253, 0)


def device(root: Path, devno: int, *, sectors: int, in_flight: int = 0) -> None:
    directory = root / "devices" / format_devno(devno)
    directory.mkdir(parents=True)
    link = root / "dev" / "block" / format_devno(devno)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(directory)
    (directory / "stat").write_text(f"1 2 3 4 5 6 {sectors} 8 9 10 11 0 0 0 0\n")
    (directory / "inflight").write_text(f"0 {in_flight}\n")


def test_at_rest_the_surplus_is_exact(tmp_path: Path) -> None:
    device(tmp_path, BACKING, sectors=1008)
    device(tmp_path, ORIGIN, sectors=1000)
    assert surplus(BACKING, ORIGIN, Sysfs(tmp_path)) == Surplus(8, at_rest=True)


def test_a_write_under_way_makes_it_a_lower_bound(tmp_path: Path) -> None:
    device(tmp_path, BACKING, sectors=1008)
    device(tmp_path, ORIGIN, sectors=1000, in_flight=1)
    assert surplus(BACKING, ORIGIN, Sysfs(tmp_path)) == Surplus(8, at_rest=False)
