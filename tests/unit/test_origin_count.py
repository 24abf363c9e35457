"""What an origin counts beyond the front over it, and beyond when the front left it."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from catalogue_samples import a_volume

from dmsnap.catalogue.model import Volume
from dmsnap.host import counting, kernel
from dmsnap.host.counting import UncountedError
from dmsnap.snapshot import failed_writes, origin_count, stack
from dmsnap.snapshot.window_count import OriginCounts

FRONT = os.makedev(253, 9)
# How far a front is ahead of its origin at each look, in sectors: 32 writes of 4 KiB are under way.
UNDER_WAY = 256


@dataclass
class Counters:
    """The kernel's, in sectors: of the front, and of the origin of each generation; ``under`` is
    that of the one which the front lies over.

    Under writes each look finds the front ``ahead``, or behind.
    """

    front: int
    origins: dict[int, int]
    under: int = 1
    ahead: int = 0

    def sectors_written(self, devno: int) -> int:
        return self.origins[os.minor(devno)]

    def write(self, generation: int, sectors: int) -> None:
        """Through the front."""
        self.front += sectors
        self.origins[generation] += sectors

    def excess(self, _front: int, origin: int) -> tuple[int, bool]:
        return self.front + self.ahead - self.sectors_written(origin), not self.ahead

    def in_window(self, generation: int = 1) -> OriginCounts:
        """There nothing is under way."""
        return OriginCounts(self.front, self.origins[generation])


@pytest.fixture
def counters(monkeypatch: pytest.MonkeyPatch) -> Counters:
    made = Counters(0, {1: 0, 2: 0})

    def origin_of(volume: Volume) -> int:
        return os.makedev(253, volume.generation)

    monkeypatch.setattr(counting, "sectors_written", made.sectors_written)
    monkeypatch.setattr(origin_count, "_origin", origin_of)
    monkeypatch.setattr(
        origin_count, "_is_under_front", lambda volume: volume.generation == made.under
    )
    monkeypatch.setattr(failed_writes, "devices", lambda volume: (FRONT, origin_of(volume)))
    monkeypatch.setattr(failed_writes, "excess", made.excess)
    monkeypatch.setattr(failed_writes, "at_most", made.excess)
    return made


def test_what_passes_the_front_by_is_told_until_it_was_seen(
    tmp_path: Path, counters: Counters
) -> None:
    volume = a_volume()
    assert origin_count.sectors_beside(tmp_path, volume) is None
    origin_count.arrive(tmp_path, volume)
    counters.write(1, 100)
    assert origin_count.sectors_beside(tmp_path, volume) == 0
    counters.origins[1] += 16
    counters.write(1, 50)
    assert origin_count.sectors_beside(tmp_path, volume) == 16
    window = counters.in_window()
    counters.origins[1] += 6  # behind it
    origin_count.settle(tmp_path, volume, window)
    assert origin_count.sectors_beside(tmp_path, volume) == 6
    # What dm-era failed is told by the same record.
    origin_count.settle(tmp_path, volume, counters.in_window())
    assert failed_writes.bytes_failed(tmp_path, volume) == 0
    counters.front += 8
    assert failed_writes.bytes_failed(tmp_path, volume) == 8 * 512
    # And is no news that a comparison has seen.
    origin_count.settle(tmp_path, volume, counters.in_window())
    assert failed_writes.bytes_failed(tmp_path, volume) == 8 * 512


# Before Linux 6.3 a front counts what it has begun; since then each look may find it behind.
@pytest.mark.parametrize(("version", "ahead"), [((6, 1), UNDER_WAY), ((6, 3), -8)])
@pytest.mark.parametrize("beside", [0, 8])
def test_under_writes_a_window_tells_and_nothing_else_is_ever_kept(
    tmp_path: Path,
    counters: Counters,
    monkeypatch: pytest.MonkeyPatch,
    version: tuple[int, int],
    ahead: int,
    beside: int,
) -> None:
    monkeypatch.setattr(kernel, "version", lambda: version)
    volume = a_volume()
    origin_count.arrive(tmp_path, volume)
    counters.write(1, 100)
    counters.origins[1] += beside
    counters.ahead = ahead
    window = counters.in_window()
    assert origin_count.sectors_beside(tmp_path, volume, window) == beside
    assert failed_writes.bytes_failed(tmp_path, volume, window) == 0
    origin_count.settle(tmp_path, volume, window)
    counters.ahead = 0
    assert origin_count.sectors_beside(tmp_path, volume) == 0
    assert failed_writes.bytes_failed(tmp_path, volume) == 0
    # As much again is not taken for what was seen.
    counters.origins[1] += 8
    assert origin_count.sectors_beside(tmp_path, volume) == 8


def test_a_window_tells_of_failed_writes_on_every_kernel(
    tmp_path: Path, counters: Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "version", lambda: (6, 1))
    volume = a_volume()
    origin_count.arrive(tmp_path, volume)
    counters.front += 8
    counters.ahead = UNDER_WAY
    assert failed_writes.bytes_failed(tmp_path, volume) == 0
    assert failed_writes.bytes_failed(tmp_path, volume, counters.in_window()) == 8 * 512


@pytest.mark.parametrize("before", [0, 16])
@pytest.mark.parametrize("meanwhile", [0, 24])
def test_what_was_written_while_the_front_was_elsewhere_is_told_when_it_is_back(
    tmp_path: Path, counters: Counters, before: int, meanwhile: int
) -> None:
    volume = a_volume()
    trial = replace(volume, generation=2)
    origin_count.arrive(tmp_path, volume)
    counters.write(1, 100)
    counters.origins[1] += before
    origin_count.leave(tmp_path, volume)
    counters.under = 2
    origin_count.arrive(tmp_path, trial)
    counters.write(2, 1000)
    counters.origins[1] += meanwhile
    assert origin_count.sectors_beside(tmp_path, trial) == 0
    assert origin_count.sectors_beside(tmp_path, volume) == before + meanwhile
    origin_count.leave(tmp_path, trial)
    counters.under = 1
    origin_count.arrive(tmp_path, volume)
    counters.write(1, 10)
    assert origin_count.sectors_beside(tmp_path, volume) == before + meanwhile


@pytest.mark.parametrize("beside", [0, 16])
def test_a_front_that_an_initiator_writes_to_all_along_leaves_and_comes_back(
    tmp_path: Path, counters: Counters, beside: int
) -> None:
    """LIO has it open: what is known is of the moment of the exchange."""
    volume = a_volume()
    trial = replace(volume, generation=2)
    counters.ahead = UNDER_WAY
    counters.write(1, 40)
    origin_count.arrive(tmp_path, volume, counters.in_window())
    counters.origins[1] += beside
    origin_count.leave(tmp_path, volume)
    counters.write(1, 100)
    window = counters.in_window()
    origin_count.left(tmp_path, volume, window)
    counters.under = 2
    origin_count.arrive(tmp_path, trial, counters.in_window(2))
    counters.write(2, 1000)
    assert origin_count.sectors_beside(tmp_path, volume) == beside
    origin_count.leave(tmp_path, trial)
    counters.under = 1
    origin_count.arrive(tmp_path, volume, counters.in_window())
    counters.write(1, 10)
    assert origin_count.sectors_beside(tmp_path, volume, counters.in_window()) == beside
    counters.ahead = 0
    assert origin_count.sectors_beside(tmp_path, volume) == beside


@pytest.mark.parametrize("left", [True, False])
def test_what_no_window_counted_is_not_known(
    tmp_path: Path, counters: Counters, left: bool
) -> None:
    """Not even when the front was elsewhere since; a comparison makes it known again."""
    volume = a_volume()
    counters.ahead = UNDER_WAY
    origin_count.arrive(tmp_path, volume)
    assert origin_count.sectors_beside(tmp_path, volume) is None
    counters.ahead = 0
    if left:
        origin_count.leave(tmp_path, volume)
        counters.under = 2
        assert origin_count.sectors_beside(tmp_path, volume) is None
        counters.under = 1
        origin_count.arrive(tmp_path, volume)
    assert origin_count.sectors_beside(tmp_path, volume) is None
    window = counters.in_window()
    counters.origins[1] += 8
    origin_count.settle(tmp_path, volume, window)
    assert origin_count.sectors_beside(tmp_path, volume) == 8


def test_of_an_lv_that_is_the_front_nothing_is_told(
    tmp_path: Path, counters: Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its dm device has counted since before there were layers, and again while there are none."""
    volume = a_volume()
    monkeypatch.setattr(stack, "live_front", lambda _: "vg-srv")
    assert origin_count.sectors_beside(tmp_path, volume) == 0
    origin_count.settle(tmp_path, volume, counters.in_window())
    counters.front += 8
    assert failed_writes.bytes_failed(tmp_path, volume) == 0


@pytest.mark.parametrize("beside", [0, 16])
def test_a_front_that_did_not_leave_writes_past_nobody(
    tmp_path: Path, counters: Counters, beside: int
) -> None:
    """A swap that failed as the front was loaded, or was killed right before that."""
    volume = a_volume()
    origin_count.arrive(tmp_path, volume)
    origin_count.leave(tmp_path, volume)
    counters.write(1, 100)
    counters.origins[1] += beside
    assert origin_count.sectors_beside(tmp_path, volume) == beside


@pytest.mark.parametrize("when", ["as it leaves", "as it comes back"])
def test_an_origin_that_is_not_counted_while_the_front_is_elsewhere_is_not_known(
    tmp_path: Path, counters: Counters, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def still(*_: int) -> int:
        raise UncountedError("it stands still")

    volume = a_volume()
    origin_count.arrive(tmp_path, volume)
    with monkeypatch.context() as off:
        if when == "as it leaves":
            off.setattr(failed_writes, "at_most", still)
        origin_count.leave(tmp_path, volume)
    counters.under = 2
    with monkeypatch.context() as off:
        if when == "as it comes back":
            off.setattr(counting, "sectors_written", still)
        assert origin_count.sectors_beside(tmp_path, volume) is None
        counters.under = 1
        origin_count.arrive(tmp_path, volume)
    assert origin_count.sectors_beside(tmp_path, volume) is None
