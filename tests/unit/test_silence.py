"""One disk that hangs is one volume's problem: the others are looked at."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from catalogue_samples import a_volume
from test_history import a_label

from dmsnap.catalogue.model import LiveFront, Volume, VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import DeadlineError, NotFoundError
from dmsnap.host import kernel
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.recovery import replica
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.health import look, silence
from dmsnap.service.health.silence import Part, Watch
from dmsnap.service.session import Session
from dmsnap.snapshot import stack

LABEL = a_label()
HANGING, OTHER = (
    replace(a_volume(name), recovery=f"/dev/{name}", backing="/dev/primary")
    for name in ("srv", "home")
)


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
        return SimpleNamespace(path=path, devno=1 if path == Path("/dev/srv") else hash(path))

    monkeypatch.setattr(BlockDevice, "probe", probe)
    monkeypatch.setattr("dmsnap.host.reach.reads", found.reads)
    sysfs = SimpleNamespace(
        in_flight=lambda devno: found.in_flight if devno == 1 else 1,
        requests_completed=lambda devno: found.completed if devno == 1 else 9,
        dm_suspended=lambda devno: found.suspended and devno == 1,
    )
    monkeypatch.setattr(silence, "SYSFS", sysfs)

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


def disk_of(path: str) -> BlockDevice:
    return BlockDevice.probe(Path(path))


def test_a_disk_that_hangs_is_its_volumes_problem(session: Session, disk: Disk) -> None:
    disk.hangs = True
    hanging, other = look.look_up(session, [HANGING, OTHER], Watch())
    assert isinstance(hanging.label, DeadlineError)
    assert "/dev/srv does not answer" in str(hanging.label)
    assert list(hanging.silent.sentences) == [Part.RECOVERY]
    assert other.label == LABEL
    assert other.silent.sentences == {}
    assert other.silent.anywhere


@pytest.mark.parametrize("waiting", ["in_flight", "suspended"])
def test_it_is_not_asked_again_while_it_hangs(disk: Disk, waiting: str) -> None:
    """The program that was left behind with it waits there: not one more every minute."""
    watch, device = Watch(), disk_of("/dev/srv")
    disk.hangs = True
    setattr(disk, waiting, 1)
    for _ in range(3):
        assert watch([device]) == [device]
    assert disk.asked == 1
    disk.completed += 1  # what hung has come back, and others keep it busy
    disk.hangs = False
    assert watch([device]) == []
    assert (disk.asked, watch.unanswered) == (2, {})


def test_one_that_has_nothing_under_way_is_asked_again(disk: Disk) -> None:
    watch, device = Watch(), disk_of("/dev/srv")
    disk.hangs = True
    assert watch([device, disk_of("/dev/home")]) == [device]
    assert watch([device]) == [device]
    assert disk.asked == 2


def test_a_primary_that_hangs_is_named_with_what_to_do(session: Session, disk: Disk) -> None:
    disk.hangs = True
    volume = replace(OTHER, backing="/dev/srv", state=VolumeState.PROTECTED)
    (looked,) = look.look_up(session, [volume], Watch())
    assert looked.label == LABEL
    sentence = looked.silent.sentences[Part.SERVING]
    assert sentence.startswith("/dev/srv, which home lies on, does not answer")
    assert sentence.endswith("dmsnap swap home puts the recovery volume in its place")


def test_a_primary_that_a_trial_stands_in_for_is_not_asked(session: Session, disk: Disk) -> None:
    volume = replace(OTHER, backing="/dev/srv", state=VolumeState.TRIAL)
    disk.hangs = True
    (looked,) = look.look_up(session, [volume], Watch())
    assert (looked.silent.sentences, disk.asked) == ({}, 0)


def test_below_a_front_that_is_an_lv_its_disks_are_asked(
    session: Session, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the front: who hung in it would keep from it the swap that is advised."""
    live = LiveFront("vg-lv", "LVM-lv", kernel.boot_id())
    volume = replace(OTHER, backing="/dev/vg/lv", live=live, state=VolumeState.PROTECTED)
    base = stack.base(volume)
    monkeypatch.setattr(dm, "info", lambda *, uuid: base if uuid == base.uuid else None)
    monkeypatch.setattr(dm, "deps", lambda name: [8, 1] if name == base.name else [])
    names = {8: Path("/dev/home"), 1: Path("/dev/srv")}
    monkeypatch.setattr(dm, "path_by_devno", lambda devno: names[devno])
    disk.hangs = True
    (looked,) = look.look_up(session, [volume], Watch())
    assert disk.asked == 1
    assert looked.silent.sentences[Part.SERVING].startswith("/dev/vg/lv, which home lies on")
    # After a commit the volume lies on another device, and nothing stands for that.
    moved = replace(volume, backing="/dev/srv", recovery=None, state=VolumeState.PROMOTED)
    (looked,) = look.look_up(session, [moved], Watch())
    assert disk.asked == 2
    assert looked.silent.sentences[Part.SERVING].startswith("/dev/srv, which home lies on")


def test_what_else_is_wrong_is_said_as_ever(
    session: Session, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    (looked,) = look.look_up(session, [replace(HANGING, recovery=None)], Watch())
    assert looked.label is None

    def vanished(_volume: Volume) -> None:
        raise NotFoundError("it is gone")

    monkeypatch.setattr(replica, "label_of", vanished)
    (looked,) = look.look_up(session, [HANGING], Watch())
    assert isinstance(looked.label, NotFoundError)
