"""What a front counts beyond the origin below it, over a directory tree."""

import os
from pathlib import Path

import pytest
from catalogue_samples import a_volume
from test_write_count import device

from dmsnap.host import kernel
from dmsnap.host.sysfs import Sysfs
from dmsnap.snapshot import failed_writes
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


@pytest.mark.parametrize(("version", "expected"), [((6, 1), 0), ((6, 3), 4096)])
def test_kernels_that_count_a_write_when_it_begins_are_believed_at_rest_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: tuple[int, int],
    expected: int,
) -> None:
    volume = a_volume()
    at_rest = [True]
    monkeypatch.setattr(failed_writes, "devices", lambda _: (FRONT, ORIGIN))
    monkeypatch.setattr(failed_writes, "excess", lambda *_: (0 if at_rest[0] else 8, at_rest[0]))
    monkeypatch.setattr(kernel, "version", lambda: version)
    failed_writes.remember(tmp_path, volume)
    assert failed_writes.bytes_failed(tmp_path, volume) == 0
    at_rest[0] = False
    assert failed_writes.bytes_failed(tmp_path, volume) == expected
