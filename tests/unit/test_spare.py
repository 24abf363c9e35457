"""Era metadata of before, which are given back when no front has them open."""

from dataclasses import replace
from pathlib import Path

import pytest
from catalogue_samples import a_volume

from dmsnap.catalogue.model import AreaRole, VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import NotFoundError
from dmsnap.host import lvm
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.session import Session
from dmsnap.service.volumes import spare
from dmsnap.snapshot.space import open_space, plan_area
from dmsnap.units import MIB


def test_a_store_that_is_away_is_the_reason(catalogue: Catalogue, tmp_path: Path) -> None:
    """Status tells of all volumes, and just then."""
    volume = replace(
        a_volume(), state=VolumeState.PROTECTED, store=str(tmp_path / "gone"), size_bytes=2**40
    )
    reason = spare.reason_without(Session(Configuration(), catalogue), volume, ())
    assert reason is not None
    assert "gone: No such file or directory" in reason
    with pytest.raises(NotFoundError, match="gone"):
        open_space(volume.store).spare_bytes()


def test_lvm_is_not_asked_for_room_while_a_disk_hangs(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def volume_group(_name: str) -> None:
        pytest.fail("it would hang here")

    monkeypatch.setattr(lvm, "volume_group", volume_group)
    volume = replace(a_volume(), state=VolumeState.PROTECTED, store="vg0", size_bytes=2**40)
    reason = spare.reason_without(Session(Configuration(), catalogue), volume, (), True)
    assert reason is not None
    assert "while a disk hangs" in reason


def test_metadata_that_were_given_back_and_not_recorded_keep_no_command_out(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    """Killed between the two: the record is of a file that is not there."""
    volume = replace(a_volume(), store=str(tmp_path / "store"))
    retired = plan_area(volume, AreaRole.RETIRED, MIB)
    catalogue.add_volume(volume)
    catalogue.add_area(retired)
    session = Session(Configuration(), catalogue)
    with pytest.raises(NotFoundError, match="the store"):
        spare.release_retired(session, volume)
    assert catalogue.areas(volume.id) == [retired]  # a store that is away may hold it yet
    (tmp_path / "store").mkdir()
    with pytest.raises(NotFoundError):
        spare.release_retired(session, volume)
    assert catalogue.areas(volume.id) == [retired]  # so may what is mounted there otherwise
    other = plan_area(volume, AreaRole.ERA_METADATA, MIB)
    catalogue.add_area(other)
    Path(other.path).touch()
    spare.release_retired(session, volume)
    assert catalogue.areas(volume.id) == [other]
