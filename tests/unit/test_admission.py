"""What is chosen for a volume that is to be protected, and what is said of it."""

import logging
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from dmsnap.host import filesystem
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.signature import Signature
from dmsnap.service.volumes import admission
from dmsnap.service.volumes.admission import MAX_BLOCKS, block_bytes_for
from dmsnap.units import GIB, KIB, MIB, TIB


@pytest.mark.parametrize(
    ("size_bytes", "block_bytes"),
    [
        (MIB, 64 * KIB),
        (64 * GIB, 64 * KIB),
        (TIB, 64 * KIB),
        (TIB + 512, 128 * KIB),
        (4 * TIB, 256 * KIB),
        (16 * TIB, MIB),
    ],
)
def test_blocks_grow_where_there_would_be_too_many(size_bytes: int, block_bytes: int) -> None:
    assert block_bytes_for(size_bytes) == block_bytes
    assert size_bytes <= block_bytes * MAX_BLOCKS


def image(path: Path, size_bytes: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path


def patched(path: Path, offset_bytes: int, value: bytes) -> Path:
    with path.open("r+b") as file:
        file.seek(offset_bytes)
        file.write(value)
    return path


def test_an_ext4_without_a_journal_of_its_own_is_known(tmp_path: Path) -> None:
    """As with -J device=, which takes a block device: it says 0 for the journal's inode."""
    made = image(tmp_path / "ext4", 8 * MIB)
    for features, elsewhere in (("has_journal", "its journal"), ("^has_journal", None)):
        subprocess.run(["mke2fs", "-qF", "-t", "ext4", "-O", features, made], check=True)
        assert filesystem.part_elsewhere(made, "ext4") is None
        patched(made, 1024 + 0xE0, bytes(4))
        assert filesystem.part_elsewhere(made, "ext4") == elsewhere


@pytest.mark.skipif(shutil.which("mkfs.xfs") is None, reason="needs xfsprogs")
def test_an_xfs_whose_log_or_realtime_section_is_elsewhere_is_known(tmp_path: Path) -> None:
    made, other = image(tmp_path / "xfs", 400 * MIB), image(tmp_path / "other", 128 * MIB)
    options = {
        (): None,
        ("-l", f"logdev={other},size=64m"): "its log",
        ("-r", f"rtdev={other}"): "its realtime section",
    }
    for words, elsewhere in options.items():
        subprocess.run(["mkfs.xfs", "-qf", *words, made], check=True)
        assert filesystem.part_elsewhere(made, "xfs") == elsewhere


def test_a_btrfs_of_several_devices_is_known(tmp_path: Path) -> None:
    made = image(tmp_path / "btrfs", MIB)
    for count, elsewhere in ((1, None), (2, "a part of it (2 devices)")):
        patched(made, 65536 + 0x88, struct.pack("<Q", count))
        assert filesystem.part_elsewhere(made, "btrfs") == elsewhere


def test_that_a_file_system_lies_elsewhere_too_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = patched(image(tmp_path / "btrfs", MIB), 65536 + 0x88, struct.pack("<Q", 2))
    device = BlockDevice(made, 0, MIB, 512, read_only=False)
    with caplog.at_level(logging.WARNING):
        admission.warn_of_parts(device, None)
        admission.warn_of_parts(device, Signature("vfat"))
        assert caplog.text == ""
        admission.warn_of_parts(device, Signature("btrfs"))
    assert "lies on another device" in caplog.text


def test_a_multipath_device_is_recorded_by_what_it_is(tmp_path: Path) -> None:
    """multipathd may give its name (mpatha) to another LUN, in a boot without its bindings."""
    (tmp_path / "by-id").mkdir()
    map_, lv, part = tmp_path / "dm-0", tmp_path / "dm-1", tmp_path / "dm-2"
    links = {
        "dm-name-mpatha": map_,
        "dm-uuid-mpath-3600140": map_,
        "scsi-3600140": map_,
        "dm-name-vg-srv": lv,
        "dm-uuid-LVM-abc": lv,
        "dm-name-mpatha-part1": part,
        "dm-uuid-part1-mpath-3600140": part,
    }
    for name, leads_to in links.items():
        leads_to.touch()
        (tmp_path / "by-id" / name).symlink_to(leads_to)
    for device, name in (
        (map_, "dm-uuid-mpath-3600140"),
        (part, "dm-uuid-part1-mpath-3600140"),
        (lv, "dm-name-vg-srv"),
    ):
        assert admission.stable_path(device, links=tmp_path) == f"{tmp_path}/by-id/{name}"
