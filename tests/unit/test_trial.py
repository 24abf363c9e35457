"""What a front shows is not exchanged under who has it open."""

from dataclasses import replace
from pathlib import Path

import pytest
from catalogue_samples import a_volume, an_area

from dmsnap.catalogue.model import AreaRole
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import BusyError
from dmsnap.host import blockdev
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.device import DmInfo
from dmsnap.host.dm.target import Linear, Table, single
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.exports import exported
from dmsnap.service.session import Session
from dmsnap.service.swaps import trial
from dmsnap.snapshot import failed_writes, stack
from dmsnap.units import MIB

METADATA = BlockDevice(Path("/dev/loop7"), 7, 4096, 512, False)
VOLUME = a_volume()
AREA = an_area(VOLUME, AreaRole.ERA_METADATA)
OLD, NEW = single(MIB, Linear(1, 0)), single(MIB, Linear(2, 0))
FRONT = DmInfo("srv", "DMSNAP-x-front", 1, 0, False, True, False, False, 0)


@pytest.fixture
def session(catalogue: Catalogue) -> Session:
    return Session(Configuration(), catalogue)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Table]:
    """The tables that were exchanged."""
    found: list[Table] = []
    monkeypatch.setattr(stack, "attach_area", lambda *_: METADATA)
    monkeypatch.setattr(stack, "front_table", lambda *_: NEW)
    monkeypatch.setattr(stack, "turn_discards_off", lambda _: None)
    monkeypatch.setattr(dm, "table", lambda _: OLD)
    monkeypatch.setattr(blockdev, "flush_buffers", lambda _: None)
    monkeypatch.setattr(exported, "opened_by_lio", lambda _: 1)
    monkeypatch.setattr(trial, "may_be_let_go", lambda _: False)
    monkeypatch.setattr(trial, "describe_users_of", lambda _: "mounted on /srv")

    def exchange(_front: DmInfo, table: Table, _ms: int, *, counted: list[int]) -> list[int | None]:
        found.append(table)
        return [None for _ in counted]

    monkeypatch.setattr(trial, "exchange", exchange)
    monkeypatch.setattr(failed_writes, "remember", lambda *_: None)
    return found


def test_who_has_it_open_for_a_moment_is_waited_for(
    session: Session, loaded: list[Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    """udev, or the kernel in place of a command that was killed: LIO stays."""
    counts = [3, 2, 1]
    monkeypatch.setattr(stack, "require", lambda _: replace(FRONT, open_count=counts.pop(0)))
    monkeypatch.setattr(trial, "may_be_let_go", lambda _: True)
    trial.require_unopened(VOLUME)
    assert counts == []


def test_one_that_is_mounted_keeps_its_table(
    session: Session, loaded: list[Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A swap that is undone goes on when it cannot unmount: with a file system on the front."""
    monkeypatch.setattr(stack, "require", lambda _: replace(FRONT, open_count=2))
    with pytest.raises(BusyError, match="mounted on /srv"):
        trial.load_front(session, VOLUME, AREA)
    assert loaded == []


def test_a_lun_that_shows_it_is_no_obstacle(
    session: Session, loaded: list[Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "require", lambda _: replace(FRONT, open_count=1))
    trial.load_front(session, VOLUME, AREA)
    assert loaded == [NEW]
