"""What a swap finds where a sync was cut off: all is checked before that is rolled back."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from catalogue_samples import a_point, a_volume, an_area
from test_apply import Images, changed, covering, make_point

from dmsnap._native.label import LabelState
from dmsnap.catalogue.model import Volume, VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import (
    CorruptError,
    DmsnapError,
    ForeignDeviceError,
    NotFoundError,
    PointInvalidError,
)
from dmsnap.host import kernel
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm.status import SnapshotState, SnapshotStatus
from dmsnap.recovery import apply, chain, replica
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.session import Session
from dmsnap.service.swaps import source
from dmsnap.snapshot import live

HERE = uuid4()


@dataclass
class Torn:
    """A volume whose recovery volume, a file, is half of one point and half of the next."""

    images: Images
    session: Session
    volume: Volume
    old: bytes
    older_point: UUID
    old_point: UUID

    def bytes(self) -> bytes:
        return self.images.recovery_path.read_bytes()

    def relabelled(self, **changes: object) -> None:
        current = self.images.reopened()
        current.write_label(replace(current.label, **changes))  # type: ignore[arg-type]

    def chosen(self, wanted: UUID | None = None) -> source.OnRecovery:
        found = source.choose(self.session, self.volume, wanted, force=False)
        assert isinstance(found, source.OnRecovery)
        return found


@contextmanager
def opened(path: Path, *, write: bool = False) -> Iterator[int]:
    """A file, which has neither holders nor sectors."""
    descriptor = os.open(path, os.O_RDWR if write else os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.fixture
def torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Torn]:
    images = Images(tmp_path, os.urandom(64 * 4096 + 512))
    first = images.replica.label
    content = images.content()
    for is_whole in (True, False):
        old, content = content, changed(content, set(range(0, 65, 2)))
        images.write_source(content)
        undo = apply.write_undo(images.replica, images.source_fd, covering(set(range(65))))
        apply.mark_applying(images.replica, undo, make_point())
        if is_whole:
            apply.write_new(images.replica, images.source_fd, undo)
            apply.mark_consistent(images.replica, keep=False)
    os.pwrite(images.fd, content[: 20 * 4096], 0)
    label = images.replica.label
    assert first.point_uuid is not None
    assert label.point_uuid is not None
    monkeypatch.setattr(BlockDevice, "probe", lambda _path: images.device)
    monkeypatch.setattr(kernel, "machine_id", lambda: HERE)
    for module in (replica, chain):
        monkeypatch.setattr(module, "open_shared", opened)
    monkeypatch.setattr(replica, "open_exclusive", opened)
    volume = replace(
        a_volume(), id=label.volume_uuid, recovery_id=label.recovery_uuid,
        recovery=str(images.recovery_path), size_bytes=label.size_bytes,
        state=VolumeState.PROTECTED, mounts=(),
    )  # fmt: skip
    with Catalogue.open(tmp_path / "state" / "catalogue.db") as catalogue:
        session = Session(Configuration(), catalogue)
        yield Torn(images, session, volume, old, first.point_uuid, label.point_uuid)
    images.close()


def test_what_is_planned_is_what_the_label_says_after_the_first_step(torn: Torn) -> None:
    before = torn.bytes()
    planned = torn.chosen()
    assert torn.bytes() == before
    assert (planned.is_torn, planned.point, planned.levels) == (True, torn.old_point, [])
    source.repair(torn.volume)
    assert torn.images.content() == torn.old
    after = torn.chosen()
    assert not after.is_torn
    assert after.label.state is LabelState.CONSISTENT
    assert (after.point, after.label.history) == (planned.point, planned.label.history)
    once = torn.bytes()
    source.repair(torn.volume)
    assert torn.bytes() == once


def test_an_earlier_point_is_one_step_nearer_then(torn: Torn) -> None:
    planned = torn.chosen(torn.older_point)
    assert len(planned.levels) == 1
    assert planned.label.history[0].point_uuid == torn.older_point
    source.repair(torn.volume)
    after = torn.chosen(torn.older_point)
    assert after.levels == planned.levels
    assert after.label.history == planned.label.history


@pytest.mark.parametrize("spoiled", [0, 1])
def test_an_undo_store_that_is_spoiled(torn: Torn, spoiled: int) -> None:
    """The one that the replica goes back by, and the one that shows the point from there."""
    entry = torn.images.reopened().label.history[spoiled]
    os.pwrite(torn.images.fd, bytes(16), entry.store_offset_bytes)
    require_refused(torn, CorruptError, torn.older_point)
    if spoiled == 1:  # is not on the way
        assert torn.chosen().point == torn.old_point


def test_a_point_that_is_not_there(torn: Torn) -> None:
    require_refused(torn, NotFoundError, uuid4())
    # What was being written is nowhere.
    require_refused(torn, NotFoundError, torn.images.reopened().label.next_point_uuid)


def test_a_label_that_names_no_way_back(torn: Torn) -> None:
    torn.relabelled(history=())
    require_refused(torn, CorruptError)


def test_a_live_point_that_was_found_worthless(torn: Torn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its snapshot is there, and was passed by: after a swap nothing else says so."""
    catalogue, volume = torn.session.catalogue, torn.volume
    area = an_area(volume)
    point = replace(a_point(volume), area_id=area.id, invalid_reason="it was passed by")
    catalogue.add_volume(volume)
    catalogue.add_area(area)
    catalogue.add_point(point)
    status = SnapshotStatus(SnapshotState.OK, 8, 1024, 8)
    monkeypatch.setattr(live, "usage", lambda *_: status)
    with pytest.raises(PointInvalidError, match="passed by"):
        source.choose(torn.session, volume, point.id, force=False)


def test_what_another_host_writes_to(torn: Torn) -> None:
    torn.relabelled(host="there", host_uuid=uuid4(), lease_time_ns=1)
    require_refused(torn, ForeignDeviceError)


def require_refused(torn: Torn, error: type[DmsnapError], wanted: UUID | None = None) -> None:
    before = torn.bytes()
    with pytest.raises(error):
        torn.chosen(wanted)
    assert torn.bytes() == before
