"""Labels as the service reads them: one disk that hangs is one volume's problem."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from catalogue_samples import a_volume
from test_history import a_label

from dmsnap.catalogue.model import Volume
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import DeadlineError, DmsnapError, NotFoundError
from dmsnap.host.blockdev import BlockDevice
from dmsnap.recovery import replica
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.health import label_reader, look
from dmsnap.service.health.label_reader import LabelReader
from dmsnap.service.session import Session

LABEL = a_label()
HANGING, OTHER = (replace(a_volume(name), recovery=f"/dev/{name}") for name in ("srv", "home"))


@dataclass
class Disk:
    """That of the first volume: what sysfs says of it. The other one always answers."""

    hangs: bool = False
    suspended: bool = False
    in_flight: int = 0
    completed: int = 7
    asked: int = 0

    def reads(self, path: Path, _seconds: float) -> bool:
        if path != Path("/dev/srv"):
            return True
        self.asked += 1
        return not self.hangs


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    found = Disk()

    def probe(path: Path) -> SimpleNamespace:
        return SimpleNamespace(path=path, devno=1 if path == Path("/dev/srv") else 2)

    monkeypatch.setattr(BlockDevice, "probe", probe)
    monkeypatch.setattr("dmsnap.host.reach.reads", found.reads)
    sysfs = SimpleNamespace(
        in_flight=lambda devno: found.in_flight if devno == 1 else 1,
        requests_completed=lambda devno: found.completed if devno == 1 else 9,
        dm_suspended=lambda devno: found.suspended and devno == 1,
    )
    monkeypatch.setattr(label_reader, "SYSFS", sysfs)

    def label_of(volume: Volume) -> object:
        assert not (found.hangs and volume is HANGING), "it would hang here"
        return LABEL

    monkeypatch.setattr(replica, "label_of", label_of)
    return found


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with Catalogue.open(tmp_path / "catalogue.db") as catalogue:
        for volume in (HANGING, OTHER):
            catalogue.add_volume(volume)
        yield Session(Configuration(run_directory=tmp_path / "run"), catalogue)


def test_a_disk_that_hangs_is_its_volumes_problem(session: Session, disk: Disk) -> None:
    disk.hangs = True
    hanging, other = look.look_up(session, [HANGING, OTHER], LabelReader().read)
    assert isinstance(hanging.label, DeadlineError)
    assert "/dev/srv does not answer" in str(hanging.label)
    assert other.label == LABEL


@pytest.mark.parametrize("waiting", ["in_flight", "suspended"])
def test_it_is_not_asked_again_while_it_hangs(disk: Disk, waiting: str) -> None:
    """The program that was left behind with it waits there: not one more every minute."""
    reader = LabelReader()
    disk.hangs = True
    setattr(disk, waiting, 1)
    for _ in range(3):
        assert isinstance(reader.read(HANGING), DeadlineError)
    assert disk.asked == 1
    disk.completed += 1  # what hung has come back, and others keep it busy
    disk.hangs = False
    assert reader.read(HANGING) == LABEL
    assert (disk.asked, reader.unanswered) == (2, {})


def test_one_that_has_nothing_under_way_is_asked_again(disk: Disk) -> None:
    reader = LabelReader()
    disk.hangs = True
    reader.read(HANGING)
    reader.read(HANGING)
    assert disk.asked == 2


def test_what_else_is_wrong_is_said_as_ever(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = LabelReader()
    assert reader.read(HANGING) == LABEL
    assert reader.read(replace(HANGING, recovery=None)) is None

    def vanished(_path: Path) -> None:
        raise NotFoundError("it is gone")

    monkeypatch.setattr(BlockDevice, "probe", vanished)
    assert isinstance(reader.read(HANGING), DmsnapError)
