"""What a front counts beyond the origin below it, over a directory tree."""

import os
from pathlib import Path

import pytest
from catalogue_samples import a_volume
from test_write_count import device

from dmsnap.host import kernel
from dmsnap.host.counting import UncountedError
from dmsnap.host.sysfs import Sysfs
from dmsnap.snapshot import failed_writes
from dmsnap.snapshot.failed_writes import at_most, excess

FRONT, ORIGIN = os.makedev(253, 1), os.makedev(253, 0)


def test_at_rest_it_is_exact(tmp_path: Path) -> None:
    device(tmp_path, FRONT, sectors=1008)
    device(tmp_path, ORIGIN, sectors=1000)
    assert excess(FRONT, ORIGIN, Sysfs(tmp_path)) == (8, True)


class Stream:
    """A front that is written to at an even rate; each attribute takes its time to be read.

    A write of 4 KiB is counted by the origin, and then by the front: when it begins on both, or
    ``behind`` by some seconds, as it completes.
    """

    READ_SECONDS = 15e-6

    def __init__(self, iops: int, *, ahead: int = 0, behind: float = 0) -> None:
        self.iops, self.ahead, self.behind = iops, ahead, behind
        self.now = 1.0

    def attribute(self, _devno: int, name: str) -> str:
        assert name == "queue/iostats"
        return "1"

    def in_flight(self, _devno: int) -> int:
        self.now += self.READ_SECONDS
        return 32

    def sectors_written(self, devno: int) -> int:
        self.now += self.READ_SECONDS
        if devno == ORIGIN:
            return 8 * int(self.now * self.iops)
        return 8 * int((self.now - self.behind) * self.iops) + self.ahead


@pytest.mark.parametrize("iops", [10_000, 100_000, 200_000, 500_000, 2_000_000])
@pytest.mark.parametrize(("ahead", "behind"), [(256, 0), (0, 1e-6), (0, 10e-6)])
def test_under_writes_both_bounds_hold(iops: int, ahead: int, behind: float) -> None:
    """A front that counts when a write begins is ahead; nothing is below the upper bound there."""
    stream = Stream(iops, ahead=ahead, behind=behind)
    highest, at_rest = at_most(FRONT, ORIGIN, stream)  # type: ignore[arg-type]
    assert (highest >= 0, at_rest) == (True, False)
    lowest, at_rest = excess(FRONT, ORIGIN, stream)  # type: ignore[arg-type]
    assert (lowest <= ahead, at_rest) == (True, False)


def test_at_rest_the_upper_bound_is_exact(tmp_path: Path) -> None:
    device(tmp_path, FRONT, sectors=1000)
    device(tmp_path, ORIGIN, sectors=1008)
    assert at_most(FRONT, ORIGIN, Sysfs(tmp_path)) == (-8, True)


@pytest.mark.parametrize("still", [FRONT, ORIGIN])
def test_a_counter_that_stands_still_tells_of_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, still: int
) -> None:
    """Nor does a front whose counter does begin a count."""
    for devno in (FRONT, ORIGIN):
        device(tmp_path, devno, sectors=1000, iostats=int(devno != still))
    for counted in (at_most, excess):
        with pytest.raises(UncountedError):
            counted(FRONT, ORIGIN, Sysfs(tmp_path))

    def refused(*_: int) -> tuple[int, bool]:
        raise UncountedError("it stands still")

    volume = a_volume()
    monkeypatch.setattr(failed_writes, "devices", lambda _: (FRONT, ORIGIN))
    failed_writes.write(tmp_path, volume, 0)
    monkeypatch.setattr(failed_writes, "excess", refused)
    assert failed_writes.bytes_failed(tmp_path, volume) == 0
    failed_writes.remember(tmp_path, volume)
    assert failed_writes.read(tmp_path, volume) is None


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
