"""When the marks of a promoted volume and its former primary are trusted."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from catalogue_samples import a_volume

from dmsnap.catalogue.model import Parting, VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.host import kernel
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.sysfs import Sysfs
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.session import Session
from dmsnap.service.swaps import parting
from dmsnap.snapshot import write_count

FORMER = BlockDevice(Path("/dev/sda"), 7, 4096, 512, False)
PARTING = Parting(since=4, reason=None, tracking_id="boot:1", boot_id="boot", sectors_written=80)
VOLUME = replace(
    a_volume(), state=VolumeState.PROMOTED, previous_backing="/dev/sda", parting=PARTING
)

Doubt = Callable[..., str | None]


@pytest.fixture
def doubt(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> Doubt:
    session = Session(Configuration(), catalogue)
    monkeypatch.setattr(kernel, "boot_id", lambda: "boot")

    def asked(
        *, former_sectors: int = 80, beside: int | None = 0, iostats: str = "1"
    ) -> str | None:
        monkeypatch.setattr(Sysfs, "attribute", lambda *_: iostats)
        monkeypatch.setattr(Sysfs, "partition_parent", lambda *_: None)
        monkeypatch.setattr(Sysfs, "directory", lambda *_: Path("/sys/block/sda"))
        monkeypatch.setattr(Sysfs, "display_name", lambda *_: "sda")
        monkeypatch.setattr(Sysfs, "sectors_written", lambda *_: former_sectors)
        monkeypatch.setattr(write_count, "bytes_beside", lambda *_: beside)
        return parting.doubt(session, VOLUME, FORMER)

    return asked


def test_nobody_wrote_past_either_stack(doubt: Doubt) -> None:
    assert doubt() is None
    assert "not known" in (doubt(beside=None) or "")


def test_what_was_written_past_the_promoted_volume_is_in_no_marks(doubt: Doubt) -> None:
    assert "/dev/vg/srv was written to past" in (doubt(beside=4096) or "")


def test_what_was_written_to_the_former_primary_is_in_no_marks(doubt: Doubt) -> None:
    assert "/dev/sda was written to since" in (doubt(former_sectors=88) or "")


def test_a_former_primary_whose_counter_stands_still_may_have_been_written_to(doubt: Doubt) -> None:
    assert "does not count what is written to sda" in (doubt(iostats="0") or "")
