"""How full dm-era's metadata are, as the service asks: a disk that hangs keeps no lock."""

import gzip
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from catalogue_samples import a_volume
from era_model import SUPERBLOCK_SALT, crc32c
from test_native_recorded import ERA, IMAGES

from dmsnap.catalogue.model import VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.host.blockdev import open_shared
from dmsnap.host.dm.target import Era, TableLine
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.health import era_room
from dmsnap.service.health.era_room import EraRooms
from dmsnap.service.session import Session

NAME = "srv"
NR_BLOCKS = 44  # in the superblock: of the metadata; behind it how many are in use


@dataclass
class Disk:
    """What dm-era's metadata lie on: ``image`` holds them, as a kernel wrote them."""

    image: Path
    used: int = 10
    in_flight: int = 0
    hangs: bool = False
    asked: int = 0

    def reads(self, path: Path, _seconds: float) -> bool:
        assert path == self.image
        self.asked += 1
        self.image.write_bytes(with_used(self.used))
        return not self.hangs


def with_used(percent: int) -> bytes:
    """The metadata as if so much of them were in use, with the checksum of that."""
    image = bytearray(gzip.decompress((IMAGES / f"{ERA[0]}.img.gz").read_bytes()))
    (total,) = struct.unpack_from("<Q", image, NR_BLOCKS)
    struct.pack_into("<Q", image, NR_BLOCKS + 8, -(-percent * total // 100))
    struct.pack_into("<I", image, 0, crc32c(bytes(image[4:4096])) ^ SUPERBLOCK_SALT)
    return bytes(image)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Disk:
    found = Disk(tmp_path / "metadata")
    front = SimpleNamespace(name=NAME, live_table=True)
    table = [TableLine(0, 1 << 30, Era(1, 2, 65536))]
    monkeypatch.setattr("dmsnap.snapshot.stack.find", lambda _: front)
    monkeypatch.setattr("dmsnap.host.dm.device.table", lambda _: table)
    monkeypatch.setattr("dmsnap.host.reach.reads", found.reads)
    sysfs = SimpleNamespace(
        in_flight=lambda devno: found.in_flight if devno == 1 else 1,
        device_path=lambda devno: found.image if devno == 1 else None,
    )
    monkeypatch.setattr(era_room, "SYSFS", sysfs)
    monkeypatch.setattr(era_room, "open_shared", partial(open_shared, direct=False))
    return found


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with Catalogue.open(tmp_path / "catalogue.db") as catalogue:
        catalogue.add_volume(replace(a_volume(NAME), state=VolumeState.PROTECTED))
        yield Session(Configuration(run_directory=tmp_path / "run"), catalogue)


def test_what_is_nearly_full_is_told(session: Session, disk: Disk) -> None:
    rooms = EraRooms()
    assert rooms.problems(session, NAME) == []
    disk.used = 80
    (problem,) = rooms.problems(session, NAME)
    assert "over 80 % full" in problem


def test_what_is_no_metadata_says_nothing(
    session: Session, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmsnap.host.reach.reads", lambda *_: disk.image.write_bytes(bytes(8192)))
    assert EraRooms().problems(session, NAME) == []


def test_a_disk_that_hangs_is_told_and_not_asked_again(session: Session, disk: Disk) -> None:
    """The program that hangs with it is one of those requests; the volume's lock is free."""
    rooms = EraRooms()
    disk.hangs = True
    (problem,) = rooms.problems(session, NAME)
    assert "do not answer" in problem
    disk.in_flight, disk.hangs = 1, False
    assert rooms.problems(session, NAME) == [problem]
    assert disk.asked == 1
    disk.in_flight = 0
    assert rooms.problems(session, NAME) == []
    disk.in_flight = 1  # a busy one
    assert rooms.problems(session, NAME) == []
    assert disk.asked == 2


def test_no_lock_is_waited_for(session: Session, disk: Disk) -> None:
    disk.used = 90
    with session.locked([NAME]):
        assert len(EraRooms().problems(session, NAME)) == 1
