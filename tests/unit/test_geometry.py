"""Sectors that must fit a volume."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from dmsnap.errors import BlockSizeError
from dmsnap.host import filesystem
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.signature import Signature
from dmsnap.service.volumes import geometry
from dmsnap.units import MIB

CONTENT = Signature(fs_type="ext4", uuid="aa")


def device(size_bytes: int, block_bytes: int) -> BlockDevice:
    return BlockDevice(Path("/dev/sda"), 1, size_bytes, block_bytes, False)


@pytest.mark.parametrize("size_bytes", [64 * MIB, 64 * MIB + 512])
@pytest.mark.parametrize(("recovery", "store"), [(512, 512), (4096, 512), (512, 4096)])
def test_a_volume_is_of_whole_sectors_of_what_it_is_shown_from(
    monkeypatch: pytest.MonkeyPatch, size_bytes: int, recovery: int, store: int
) -> None:
    space = SimpleNamespace(logical_block_bytes=lambda: store)
    monkeypatch.setattr(geometry, "open_space", lambda _store: space)
    monkeypatch.setattr(filesystem, "block_size", lambda *_: 4096)
    volume = device(size_bytes, 512)

    def check() -> None:
        geometry.check_block_sizes("/store", volume, device(128 * MIB, recovery), CONTENT)

    if size_bytes % max(recovery, store):
        with pytest.raises(BlockSizeError, match="no whole number of them"):
            check()
    else:
        check()
