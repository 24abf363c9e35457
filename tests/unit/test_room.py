"""Stores that are given more room, whatever becomes of the record of it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest
from catalogue_samples import a_point, a_volume, an_area

from dmsnap.catalogue.model import Area, VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import NoSpaceError, UnreachableError
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.health import room
from dmsnap.service.health.room import Room
from dmsnap.service.session import Session
from dmsnap.snapshot.space import DirectorySpace
from dmsnap.units import GIB, MIB


class Store:
    """A live point's COW store of a volume of 16 GiB."""

    def __init__(self, catalogue: Catalogue) -> None:
        volume = replace(a_volume(), size_bytes=16 * GIB)
        self.area = replace(an_area(volume), size_bytes=GIB)
        catalogue.add_volume(volume)
        catalogue.add_area(self.area)
        self.session = Session(Configuration(), catalogue)
        self.room = Room(volume, self.area, "x", self.area.point_id)
        self.sizes: list[int] = []
        self.spare = 1 << 50

    def grow(self, path: str, size_bytes: int) -> None:
        assert path == self.area.path
        self.sizes.append(size_bytes)

    def spare_bytes(self) -> int:
        return self.spare

    @property
    def recorded(self) -> Area:
        (found,) = self.session.catalogue.areas(self.room.volume.id)
        return found


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    with Catalogue.open(tmp_path / "catalogue.db") as catalogue:
        made = Store(catalogue)
        monkeypatch.setattr(room, "open_space", lambda _: made)
        yield made


def test_it_has_twice_the_room_each_time(store: Store) -> None:
    for gibibytes in (2, 4, 8, 16):
        store.room = room.extend(store.session, store.room)
        assert store.room.area == store.recorded
        assert store.recorded.size_bytes == gibibytes * GIB
    store.room = room.extend(store.session, store.room)  # with what it takes to say where
    assert store.sizes[-1] == store.room.largest_bytes
    with pytest.raises(NoSpaceError, match="all that it may have"):
        room.extend(store.session, store.room)


def test_what_somebody_else_made_larger_grows_from_there(store: Store) -> None:
    store.session.catalogue.update_area(replace(store.area, size_bytes=3 * GIB))
    assert room.extend(store.session, store.room).area.size_bytes == 6 * GIB


@pytest.mark.parametrize("method", ["update_area", "areas"])
def test_a_catalogue_that_is_away_holds_up_nobody(
    store: Store, method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The point would be lost, for a record that only repeats what the store has."""

    def away(*_asked: object) -> None:
        raise UnreachableError("the catalogue cannot be reached")

    with monkeypatch.context() as patch:
        patch.setattr(store.session.catalogue, "update_area", away)
        patch.setattr(store.session.catalogue, method, away)
        store.room = room.extend(store.session, store.room)
        store.room = room.extend(store.session, store.room)
    assert store.sizes == [2 * GIB, 4 * GIB]
    assert "is not recorded: the catalogue cannot be reached" in caplog.text
    assert store.recorded.size_bytes == GIB
    assert room.extend(store.session, store.room).area.size_bytes == 8 * GIB
    assert store.recorded.size_bytes == 8 * GIB


def test_no_more_than_the_configuration_allows(store: Store) -> None:
    session = replace(store.session, configuration=Configuration(cow_limit_bytes=GIB + 64 * MIB))
    assert room.extend(session, store.room).area.size_bytes == GIB + 64 * MIB


def test_what_there_is_is_taken_where_it_is_not_twice_as_much(store: Store) -> None:
    """Nothing is allocated in vain: that would take all there is from everybody, for a while."""
    store.spare = 100 * MIB + 5
    store.room = room.extend(store.session, store.room)
    assert store.sizes == [GIB + 100 * MIB]
    store.spare = MIB - 1
    with pytest.raises(NoSpaceError, match="no more to spare"):
        room.extend(store.session, store.room)
    assert store.sizes == [GIB + 100 * MIB]


@pytest.mark.parametrize(("size", "free", "spare"), [
    (1000 * GIB, 100 * GIB, 100 * GIB - 256 * MIB), (GIB, 100 * MIB, 80 * MIB), (GIB, MIB, 0),
])  # fmt: skip
def test_a_directory_keeps_a_little_for_others(
    size: int, free: int, spare: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = SimpleNamespace(f_blocks=size // MIB, f_bavail=free // MIB, f_frsize=MIB)
    monkeypatch.setattr("dmsnap.snapshot.space.os.statvfs", lambda _: status)
    assert DirectorySpace(tmp_path).spare_bytes() == pytest.approx(spare, abs=MIB)


def test_a_volume_without_its_record_hides_no_other(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = store.session.catalogue
    trial = replace(a_volume(), id=uuid4(), name="trial", state=VolumeState.TRIAL)
    catalogue.add_volume(trial)
    point = replace(a_point(store.room.volume), area_id=store.area.id)
    catalogue.add_point(point)
    monkeypatch.setattr("dmsnap.service.health.room.stack.exists", lambda _: True)
    listing = room.rooms(store.session)
    assert [each.point for each in listing.rooms] == [point.id]
    assert list(listing.unseen) == ["trial"]
