"""A live volume that gets a front of its own: what is recorded when its metadata are damaged."""

import errno
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from catalogue_samples import a_point, a_volume, an_area

from dmsnap.catalogue.model import Area, Volume
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import OperatingSystemError
from dmsnap.host import blockdev
from dmsnap.host.blockdev import BlockDevice
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.session import Session
from dmsnap.service.volumes import assembly, live_link, own_front
from dmsnap.snapshot import layers, stack, write_count

METADATA = BlockDevice(Path("/dev/loop7"), 7, 4096, 512, False)


class Front:
    """dm-era, which takes its metadata when they were cleared."""

    def __init__(self) -> None:
        self.is_damaged = True

    def open_it(self) -> None:
        if self.is_damaged:
            raise OperatingSystemError("cannot load a table", errnum=errno.EILSEQ)

    def clear(self, _path: Path, _length: int) -> None:
        self.is_damaged = False


@pytest.fixture
def volume(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> Volume:
    front = Front()

    def build(session: Session, volume: Volume, _areas: Sequence[Area]) -> None:
        assembly.begin_anew_if_damaged(session, volume, METADATA, front.open_it)

    monkeypatch.setattr(assembly, "build", build)
    monkeypatch.setattr(blockdev, "clear_start", front.clear)
    monkeypatch.setattr(stack, "exists", lambda _device: False)
    monkeypatch.setattr(stack, "remove", lambda _device: None)
    monkeypatch.setattr(live_link, "hide", lambda _volume: None)
    monkeypatch.setattr(layers, "take_out", lambda *_, **__: None)
    monkeypatch.setattr(write_count, "remember", lambda *_: None)
    found = a_volume()
    catalogue.add_volume(found)
    return found


def test_metadata_that_begin_anew_are_trusted_for_no_point_of_before(
    catalogue: Catalogue, volume: Volume
) -> None:
    """Their eras begin at 1, and pass that of the replica's point after a few windows: from then
    on what was written before they were cleared would be dirty to nobody.
    """
    after = own_front.make(Session(Configuration(), catalogue), volume, failed=False)
    recorded = catalogue.volume_by_id(volume.id)
    assert after == recorded
    assert recorded.tracking_id != volume.tracking_id
    assert replace(recorded, tracking_id=volume.tracking_id) == volume


def test_taking_it_back_does_not_bring_trust_back(catalogue: Catalogue, volume: Volume) -> None:
    session = Session(Configuration(), catalogue)
    own_front.make(session, volume, failed=False)
    distrusted = catalogue.volume_by_id(volume.id).tracking_id
    own_front.take_back(session, volume)
    assert catalogue.volume_by_id(volume.id).tracking_id == distrusted != volume.tracking_id


def test_what_passed_the_layers_by_until_it_was_unmounted_is_seen(
    catalogue: Catalogue, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were there when the swap began; afterwards nobody could tell."""
    area = an_area(volume)
    catalogue.add_area(area)
    point = replace(a_point(volume), area_id=area.id, invalid_reason=None)
    catalogue.add_point(point)
    monkeypatch.setattr(layers, "dropped", lambda _volume: "it passes the layers by")
    monkeypatch.setattr(assembly, "build", lambda *_: None)
    after = own_front.make(Session(Configuration(), catalogue), volume, failed=False)
    assert after.tracking_id == catalogue.volume_by_id(volume.id).tracking_id != volume.tracking_id
    (found,) = catalogue.points(volume.id)
    assert found.invalid_reason == "it passes the layers by"
