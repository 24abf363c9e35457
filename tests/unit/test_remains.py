"""What a volume left on a device: known as that until somebody can have used it."""

import os
from pathlib import Path

import pytest

from dmsnap.catalogue.store import Catalogue
from dmsnap.host import inventory
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.signature import Signature
from dmsnap.recovery import remains
from dmsnap.units import MIB

EXT4 = Signature(fs_type="ext4", uuid="3f1c", usage="filesystem")
XFS = Signature(fs_type="xfs", uuid="3f1c", usage="filesystem")


@pytest.fixture(autouse=True)
def identities(monkeypatch: pytest.MonkeyPatch) -> dict[int, str]:
    """Which device has a number."""
    found = {0: "loop:0:/srv/a.img"}
    monkeypatch.setattr(inventory, "device_identity", found.__getitem__)
    return found


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(2 * MIB))
    return path


def device(image: Path) -> BlockDevice:
    return BlockDevice(image, 0, image.stat().st_size, 512, False)


def change(image: Path, offset: int, data: bytes) -> None:
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_it_is_the_volumes_until_a_byte_of_the_start_changes(
    catalogue: Catalogue, image: Path
) -> None:
    assert remains.owner_of(catalogue, "/dev/sdc", device(image), EXT4) is None
    assert remains.note(catalogue, "/dev/sdc", device(image), EXT4, "srv")
    assert remains.owner_of(catalogue, "/dev/sdc", device(image), EXT4) == "srv"
    before = image.read_bytes()
    for offset in (0, 1024 + 52, 64 * 1024, MIB - 1):
        change(image, offset, bytes([before[offset] ^ 1]))
        assert remains.owner_of(catalogue, "/dev/sdc", device(image), EXT4) is None
        change(image, offset, before[offset : offset + 1])
    assert remains.owner_of(catalogue, "/dev/sdc", device(image), EXT4) == "srv"


def test_another_device_or_size_is_somebody_elses(catalogue: Catalogue, image: Path) -> None:
    assert remains.note(catalogue, "/dev/sdc", device(image), EXT4, "srv")
    assert remains.owner_of(catalogue, "/dev/sdd", device(image), EXT4) is None
    with image.open("ab") as file:
        file.write(bytes(512))
    assert remains.owner_of(catalogue, "/dev/sdc", device(image), EXT4) is None


def test_a_twin_that_has_its_name_is_somebody_elses(
    catalogue: Catalogue, image: Path, identities: dict[int, str]
) -> None:
    """As the volume itself, which went to another device, and a boot exchanged the two."""
    assert remains.note(catalogue, "/dev/sdc", device(image), EXT4, "srv")
    identities[0] = "loop:0:/srv/b.img"
    assert remains.owner_of(catalogue, "/dev/sdc", device(image), EXT4) is None


def test_what_is_left_last_counts(catalogue: Catalogue, image: Path) -> None:
    for name in ("srv", "pg"):
        change(image, 0, name.encode())
        assert remains.note(catalogue, "/dev/sdc", device(image), EXT4, name)
        assert remains.owner_of(catalogue, "/dev/sdc", device(image), EXT4) == name


@pytest.mark.parametrize(
    "content",
    [
        None,
        Signature(ambivalent=True),
        Signature(fs_type="LVM2_member", usage="raid"),
        Signature(fs_type="crypto_LUKS", usage="crypto"),
        Signature(fs_type="ntfs", usage="filesystem"),
        Signature(fs_type="swap", usage="other"),
        Signature(partition_table="gpt"),
        Signature(fs_type="ext4", partition_table="dos"),
    ],
)
def test_where_a_use_would_not_be_seen_nothing_is_known(
    catalogue: Catalogue, image: Path, content: Signature | None
) -> None:
    assert not remains.note(catalogue, "/dev/sdc", device(image), content, "srv")
    assert remains.owner_of(catalogue, "/dev/sdc", device(image), content) is None


@pytest.mark.parametrize(("version", "seen"), [(0xB4A5, True), (0xB4A4, False)])
def test_xfs_is_known_by_the_lsn_of_its_superblock(image: Path, version: int, seen: bool) -> None:
    change(image, 100, version.to_bytes(2, "big"))
    assert (remains.mark_of(image, XFS) is not None) is seen


@pytest.mark.parametrize("size_bytes", [0, 4096, MIB - 4096])
def test_a_device_that_ends_before_it_has_no_mark(
    image: Path, size_bytes: int, catalogue: Catalogue
) -> None:
    os.truncate(image, size_bytes)
    for content in (EXT4, XFS):
        assert not remains.note(catalogue, "/dev/sdc", device(image), content, "srv")


@pytest.mark.parametrize("fs_type", ["ext4", "btrfs"])
def test_file_systems_as_they_are_made(image: Path, fs_type: str) -> None:
    assert remains.mark_of(image, Signature(fs_type=fs_type)) is not None
