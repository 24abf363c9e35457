"""What users wait for comes before what is recorded, and before what may wait itself."""

import errno
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest
from catalogue_samples import a_volume

from dmsnap.errors import DmsnapError, OperatingSystemError, ReadOnlyError
from dmsnap.recovery import replica
from dmsnap.service.replicas import rolling
from dmsnap.service.replicas.synchronisation import Sync
from dmsnap.service.session import Session
from dmsnap.service.swaps import primary, swap
from dmsnap.service.volumes.renewal import LostMarksError
from dmsnap.snapshot import bypass, stack


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The fronts that were led past dm-era."""
    names: list[str] = []
    monkeypatch.setattr(bypass, "pass_by", lambda volume, _deadline: names.append(volume.name))
    return names


@pytest.fixture
def session() -> Session:
    """Its catalogue lies on the disk of the store, which takes nothing any more."""

    def distrust(_volume: object) -> None:
        raise ReadOnlyError("/var/lib/dmsnap/catalogue.db", "dmsnap")

    settings = SimpleNamespace(window_deadline_ms=500)
    return cast(Session, SimpleNamespace(distrust=distrust, configuration=settings))


def test_a_front_goes_on_without_marks_though_nothing_can_be_recorded(
    session: Session, passed: list[str]
) -> None:
    volume = a_volume()
    with pytest.raises(ReadOnlyError), rolling.giving_up_marks(session, volume):
        raise LostMarksError("the metadata give errors")
    assert passed == [volume.name]


def test_a_sync_that_finds_no_marks_does_the_same(session: Session, passed: list[str]) -> None:
    syncing = cast(Any, SimpleNamespace(session=session, volume=a_volume()))
    with pytest.raises(ReadOnlyError):
        Sync._pass_era_by(syncing, DmsnapError("the metadata give errors"))
    assert passed == [syncing.volume.name]


def test_a_swap_asks_whether_the_primary_hangs_before_who_uses_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a process that waits for it the maps cannot be read."""
    asked: list[str] = []

    def answers(*_of: object) -> bool:
        asked.append("primary")
        return False

    monkeypatch.setattr(replica, "require_changeable", lambda _volume: None)
    monkeypatch.setattr(primary, "answers", answers)
    monkeypatch.setattr(swap, "users_of", lambda _volume: asked.append("users"))
    settings = SimpleNamespace(primary_wait_seconds=1)
    swapping = SimpleNamespace(
        before=a_volume(), session=SimpleNamespace(configuration=settings), occupants=None
    )
    swap.Trial._require_repairable(cast(Any, swapping))
    assert asked == ["primary"]


@pytest.mark.parametrize("errnum", [errno.EIO, errno.EINVAL])
def test_a_swap_that_is_taken_back_leaves_no_front_of_errors(
    session: Session, monkeypatch: pytest.MonkeyPatch, errnum: int
) -> None:
    """Its dm-era may not be able to use its metadata any more, as on a disk that has failed."""
    volume, loaded = a_volume(), list[object]()

    def exchange(_front: object, table: object, _deadline: int, *, freeze: bool) -> None:
        assert not freeze
        if table == "era":
            raise OperatingSystemError("the table is not taken", errnum=errnum)
        loaded.append(table)

    monkeypatch.setattr(primary, "exchange", exchange)
    monkeypatch.setattr(bypass, "table", lambda _volume: "past")
    for name, answer in (("front", None), ("require", None), ("attach_area", None),
                         ("front_table", "era"), ("turn_discards_off", None)):  # fmt: skip
        monkeypatch.setattr(stack, name, lambda *_of, answer=answer: answer)
    expected = nullcontext() if errnum == errno.EIO else pytest.raises(OperatingSystemError)
    with expected:
        primary.revive(session, volume, cast(Any, None))
    assert loaded == (["past"] if errnum == errno.EIO else [])
