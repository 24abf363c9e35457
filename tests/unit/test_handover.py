"""A failback that was recorded and cut off: what becomes of it after a boot, by its marks."""

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from catalogue_samples import a_point, a_volume
from era_model import Model, Writeset, build

from dmsnap.catalogue.model import Area, AreaRole, Parting, Volume, VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import CorruptError, NotFoundError, WrongStateError
from dmsnap.host import blockdev
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.session import Session
from dmsnap.service.swaps import handover, parting
from dmsnap.snapshot import stack
from dmsnap.units import MIB

SINCE = 7
BLOCKS = 64
RETURNED = replace(
    a_volume(),
    state=VolumeState.PROTECTED,
    backing="/dev/a",
    recovery="/dev/b",
    size_bytes=BLOCKS * 65536,
    generation=3,
    device_bytes=5 * MIB,
    parting=Parting(SINCE, None, "boot:1", "boot", 0, device_bytes=9 * MIB),
)
DAMAGED = b"nothing that dm-era would take".ljust(8192, b"\0")


def metadata(*eras: int) -> bytes:
    """Of a device whose blocks were written in these eras, one block in each; it was cut off."""
    archived = [Writeset(era, BLOCKS, {era}) for era in eras[:-1]]
    current = Writeset(eras[-1], BLOCKS, {eras[-1]}) if eras else Writeset(1, BLOCKS, set())
    model = Model(current_era=current.era, eras=[0] * BLOCKS, archived=archived, current=current)
    return build(model)


COPIED = metadata(2, SINCE - 1)
WRITTEN_SINCE = metadata(2, SINCE)
UNUSED = metadata()
USED = metadata(1)


class Boot:
    """No device is there: only the catalogue, and era metadata in files."""

    def __init__(self, catalogue: Catalogue, directory: Path) -> None:
        self.session = Session(Configuration(run_directory=directory), catalogue)
        self.directory = directory
        self.done: list[str] = []
        self.point = replace(a_point(RETURNED), area_id=None)

    def record(self, promoted: bytes, former: bytes, volume: Volume = RETURNED) -> Volume:
        catalogue = self.session.catalogue
        catalogue.add_volume(volume)
        catalogue.add_point(self.point)
        for generation, content in ((2, promoted), (3, former)):
            path = self.directory / f"era-{generation}"
            path.write_bytes(content)
            role = AreaRole.ERA_METADATA
            area = Area(uuid4(), volume.id, role, generation, str(path), len(content))
            catalogue.add_area(area)
        return volume

    @property
    def volume(self) -> Volume:
        return self.session.catalogue.volume_by_id(RETURNED.id)


@pytest.fixture
def boot(catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Boot:
    made = Boot(catalogue, tmp_path)

    def attach_area(_volume: Volume, area: Area) -> Any:
        return SimpleNamespace(path=Path(area.path))

    def open_shared(path: Path) -> AbstractContextManager[int]:
        return blockdev.open_shared(path, direct=False)

    monkeypatch.setattr(stack, "exists", lambda _device: False)
    monkeypatch.setattr(stack, "attach_area", attach_area)
    monkeypatch.setattr(parting, "open_shared", open_shared)
    monkeypatch.setattr(handover, "label_replica", lambda *_: made.done.append("label"))
    monkeypatch.setattr(handover, "retire", lambda *_: made.done.append("retire"))
    return made


def require_finished(boot: Boot) -> None:
    assert boot.done == ["label", "retire"]
    assert boot.volume == replace(RETURNED, parting=None)


def require_taken_back(boot: Boot) -> None:
    assert boot.done == []
    now = boot.volume
    assert (now.state, now.generation) == (VolumeState.PROMOTED, 2)
    assert (now.backing, now.recovery, now.previous_backing) == ("/dev/b", None, "/dev/a")
    assert now.device_bytes == 9 * MIB
    assert now.parting is not None
    assert now.parting.reason == "the last failback was taken back"
    assert now.parting.device_bytes == 5 * MIB
    assert boot.session.catalogue.points(now.id) == []


def test_nobody_wrote_to_the_promoted_volume(boot: Boot) -> None:
    handover.finish(boot.session, boot.record(COPIED, UNUSED))
    require_finished(boot)


def test_the_front_had_gone_over(boot: Boot) -> None:
    handover.finish(boot.session, boot.record(COPIED, USED))
    require_finished(boot)


def test_somebody_mounted_the_promoted_volume_and_wrote(boot: Boot) -> None:
    handover.finish(boot.session, boot.record(WRITTEN_SINCE, UNUSED))
    require_taken_back(boot)


def test_a_lost_point_does_not_keep_it_from_being_taken_back(boot: Boot) -> None:
    volume = boot.record(WRITTEN_SINCE, UNUSED)
    boot.session.catalogue.delete_point(boot.point.id, "lost")
    handover.finish(boot.session, volume)
    require_taken_back(boot)


def test_what_cannot_be_known_is_not_finished(boot: Boot) -> None:
    handover.finish(boot.session, boot.record(DAMAGED, UNUSED))
    require_taken_back(boot)


def test_nothing_at_all_can_be_known(boot: Boot) -> None:
    handover.finish(boot.session, boot.record(DAMAGED, DAMAGED))
    require_taken_back(boot)


def test_metadata_that_are_not_there_yet_decide_nothing(boot: Boot) -> None:
    volume = boot.record(WRITTEN_SINCE, UNUSED)
    (boot.directory / "era-2").unlink()
    with pytest.raises(NotFoundError):
        handover.finish(boot.session, volume)
    assert (boot.done, boot.volume) == ([], RETURNED)


@pytest.mark.parametrize(
    ("former", "require"), [(UNUSED, require_taken_back), (USED, require_finished)]
)
def test_marks_that_a_crash_may_have_lost(boot: Boot, former: bytes, require: Any) -> None:
    """Of early kernels: what they have is true, what they lack need not be."""
    doubted = replace(RETURNED, parting=replace(RETURNED.parting, reason="an old kernel"))  # type: ignore[type-var]
    handover.finish(boot.session, boot.record(COPIED, former, doubted))
    require(boot)


@pytest.mark.parametrize(
    ("promoted", "error"), [(WRITTEN_SINCE, WrongStateError), (DAMAGED, CorruptError)]
)
def test_who_differs_from_what_serves_is_called_no_point(
    boot: Boot, promoted: bytes, error: type[Exception]
) -> None:
    """Written to after the last copy, or not known: the front had gone over all the same."""
    volume = boot.record(promoted, USED)
    for _ in range(2):
        with pytest.raises(error):
            handover.finish(boot.session, volume)
        assert boot.done == []
        assert boot.volume == RETURNED
