"""Stores that are given more room, whatever becomes of the record of it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from catalogue_samples import a_volume, an_area

from dmsnap.catalogue.model import Area
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import NoSpaceError, UnreachableError
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.health import room
from dmsnap.service.health.room import Room
from dmsnap.service.session import Session
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

    def grow(self, path: str, size_bytes: int) -> None:
        assert path == self.area.path
        self.sizes.append(size_bytes)

    @property
    def recorded(self) -> Area:
        (found,) = self.session.catalogue.areas(self.room.volume.id)
        return found


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    with Catalogue.open(tmp_path / "catalogue.db") as catalogue:
        made = Store(catalogue)
        monkeypatch.setattr(room, "open_space", lambda _: SimpleNamespace(grow=made.grow))
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
