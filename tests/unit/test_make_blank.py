"""A device that is written over: its label goes before what the label promises."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from test_growth import BEFORE_BYTES, MADE, Disk

from dmsnap.host import signature
from dmsnap.host.blockdev import BlockDevice
from dmsnap.recovery import replica


@pytest.mark.parametrize("labelled", [True, False])
def test_no_label_is_left_when_signatures_are_wiped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labelled: bool
) -> None:
    disk = Disk(tmp_path / "sdb")
    if labelled:
        disk.write(MADE)
    device = SimpleNamespace(path=disk.path, size_bytes=BEFORE_BYTES, devno=1)
    seen = []

    def wipe(path: Path) -> None:
        seen.append(replica.read_label(path))

    monkeypatch.setattr(BlockDevice, "probe", lambda _path: device)
    monkeypatch.setattr(signature, "wipe", wipe)
    assert (replica.read_label(disk.path) is not None) is labelled
    replica.make_blank(disk.path)
    assert seen == [None]
    assert replica.read_label(disk.path) is None
