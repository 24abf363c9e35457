"""What an origin counts beyond the front over it, and beyond when the front left it."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from catalogue_samples import a_volume

from dmsnap.catalogue.model import Volume
from dmsnap.snapshot import failed_writes, origin_count

FRONT = os.makedev(253, 9)


@dataclass
class Counters:
    """The kernel's, in sectors: of the front, and of the origin of each generation; ``under`` is
    that of the one which the front lies over.
    """

    front: int
    origins: dict[int, int]
    under: int = 1

    def sectors_written(self, devno: int) -> int:
        return self.origins[os.minor(devno)]

    def write(self, generation: int, sectors: int) -> None:
        """Through the front."""
        self.front += sectors
        self.origins[generation] += sectors


@pytest.fixture
def counters(monkeypatch: pytest.MonkeyPatch) -> Counters:
    made = Counters(0, {1: 0, 2: 0})

    def origin_of(volume: Volume) -> int:
        return os.makedev(253, volume.generation)

    def excess(_front: int, origin: int) -> tuple[int, bool]:
        return made.front - made.sectors_written(origin), True

    monkeypatch.setattr(origin_count, "SYSFS", made)
    monkeypatch.setattr(origin_count, "_origin", origin_of)
    monkeypatch.setattr(
        origin_count, "_is_under_front", lambda volume: volume.generation == made.under
    )
    monkeypatch.setattr(failed_writes, "devices", lambda volume: (FRONT, origin_of(volume)))
    monkeypatch.setattr(failed_writes, "excess", excess)
    return made


def test_what_passes_the_front_by_is_told_until_it_is_acknowledged(
    tmp_path: Path, counters: Counters
) -> None:
    volume = a_volume()
    assert origin_count.sectors_beside(tmp_path, volume) == 0  # nothing is known
    origin_count.arrive(tmp_path, volume)
    counters.write(1, 100)
    assert origin_count.sectors_beside(tmp_path, volume) == 0
    counters.origins[1] += 16
    counters.write(1, 50)
    assert origin_count.sectors_beside(tmp_path, volume) == 16
    origin_count.acknowledge(tmp_path, volume, 10)
    assert origin_count.sectors_beside(tmp_path, volume) == 6
    # What dm-era failed is told by the same record.
    origin_count.acknowledge(tmp_path, volume, 6)
    assert failed_writes.bytes_failed(tmp_path, volume) == 0
    counters.front += 8
    assert failed_writes.bytes_failed(tmp_path, volume) == 8 * 512


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
