"""How full dm-era's metadata are, as the service asks: a disk that hangs keeps no lock."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from catalogue_samples import a_volume

from dmsnap.catalogue.model import VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import CorruptError, DeadlineError, DmsnapError
from dmsnap.host.dm import state
from dmsnap.host.dm.status import EraStatus
from dmsnap.host.dm.target import Era, TableLine
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.health import era_room
from dmsnap.service.health.era_room import EraRooms
from dmsnap.service.session import Session

NAME = "srv"


@dataclass
class Disk:
    """What dm-era's metadata lie on."""

    used: int = 10
    in_flight: int = 0
    failure: DmsnapError | None = None
    asked: int = 0

    def status(self, _name: str, _seconds: float) -> EraStatus:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        return EraStatus(8, self.used, 100, 5, None)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    found = Disk()
    front = SimpleNamespace(name=NAME, live_table=True, suspended=False)
    table = [TableLine(0, 1 << 30, Era(1, 2, 65536))]
    monkeypatch.setattr("dmsnap.snapshot.stack.find", lambda _: front)
    monkeypatch.setattr("dmsnap.host.dm.device.table", lambda _: table)
    monkeypatch.setattr("dmsnap.host.dm.device.era_status_beside", found.status)
    sysfs = SimpleNamespace(in_flight=lambda devno: found.in_flight if devno == 1 else 1)
    monkeypatch.setattr(era_room, "SYSFS", sysfs)
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
    with session.locked_at_once(NAME):
        assert rooms.problems(session, NAME) == []
    disk.failure = CorruptError("dm-era reports 'Error'")
    assert rooms.problems(session, NAME) == []


def test_a_disk_that_hangs_is_told_and_not_asked_again(session: Session, disk: Disk) -> None:
    """The program that hangs with it is one of those requests; the volume's lock is free."""
    rooms = EraRooms()
    disk.failure = DeadlineError("dmsetup did not end within 10 s and was killed")
    (problem,) = rooms.problems(session, NAME)
    assert "do not answer" in problem
    with session.locked_at_once(NAME):
        pass
    disk.in_flight, disk.failure = 1, None
    assert rooms.problems(session, NAME) == [problem]
    assert disk.asked == 1
    disk.in_flight = 0
    assert rooms.problems(session, NAME) == []
    disk.in_flight = 1  # a busy one
    assert rooms.problems(session, NAME) == []
    assert disk.asked == 2


def test_what_the_program_says(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def run(*argv: str, **asked: float) -> SimpleNamespace:
        told.append((argv[0], asked))
        return SimpleNamespace(text="0 131072 era 8 13/1024 5 -\n")

    monkeypatch.setattr(state, "run", run)
    assert state.era_status_beside(NAME, 7) == EraStatus(8, 13, 1024, 5, None)
    assert told == [("dmsetup", {"timeout_seconds": 7, "reap_seconds": 0})]
