"""LVM on a real kernel: tags, wiping, twins of physical volumes, suspended devices."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from dmsnap.errors import (
    BlockSizeError,
    ForeignDeviceError,
    NoSpaceError,
    NotFoundError,
    ProgramError,
    WrongStateError,
)
from dmsnap.host import loop, lvm, signature, udev
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device
from dmsnap.host.dm.target import Linear, single
from dmsnap.units import MIB

VG = "t_vg"
SIZE = 64 * MIB


def administrator(*argv: str) -> None:
    """Run an LVM command; it makes the nodes itself where udev does not run."""
    environment = os.environ | ({} if udev.is_running() else {"DM_DISABLE_UDEV": "1"})
    subprocess.run([*argv, "-q"], check=True, env=environment)


@pytest.fixture
def physical_volumes() -> Iterator[list[BlockDevice]]:
    """The volume group ``t_vg`` over two loop devices."""
    files = [Path("/scratch", str(uuid4())) for _ in range(2)]
    for file in files:
        loop.create_backing_file(file, SIZE)
    disks = [loop.attach(file) for file in files]
    administrator("vgcreate", VG, *[str(disk.path) for disk in disks])
    yield disks
    for state in device.list_devices():
        device.resume(state.name)
        device.remove(state.name)
    administrator("vgremove", "--force", "--yes", VG)
    for disk, file in zip(disks, files, strict=True):
        loop.detach(disk.path)
        file.unlink()


def test_volume_group(physical_volumes: list[BlockDevice]) -> None:
    group = lvm.volume_group(VG)
    assert group is not None
    assert group.extent_bytes == 4 * MIB
    assert group.size_bytes == group.free_bytes == 2 * (SIZE - 4 * MIB)
    assert set(group.physical_volumes) == {str(disk.path) for disk in physical_volumes}
    assert group.complete
    assert lvm.volume_group("t_none") is None


@pytest.mark.usefixtures("physical_volumes")
def test_create_list_remove() -> None:
    path = lvm.create_lv(VG, "t_cow", 8 * MIB)
    assert BlockDevice.probe(path).size_bytes == 8 * MIB
    (volume,) = lvm.list_lvs()
    assert (volume.name, volume.vg, volume.tags) == ("t_cow", VG, ("dmsnap",))
    assert volume.path == path
    assert lvm.remove_lv(VG, "t_cow")
    assert not lvm.remove_lv(VG, "t_cow")
    assert lvm.list_lvs() == []
    assert not path.exists()


@pytest.mark.usefixtures("physical_volumes")
def test_old_signatures_are_wiped() -> None:
    path = lvm.create_lv(VG, "t_cow", 32 * MIB)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", path], check=True)
    assert signature.probe(path) is not None
    lvm.remove_lv(VG, "t_cow")
    path = lvm.create_lv(VG, "t_cow", 32 * MIB)
    assert signature.probe(path) is None
    assert path.read_bytes()[:4096] == bytes(4096)


@pytest.mark.usefixtures("physical_volumes")
def test_only_tagged_volumes_are_removed() -> None:
    administrator("lvcreate", "-y", "-n", "t_theirs", "-L", "8m", VG)
    with pytest.raises(ForeignDeviceError, match="t_vg/t_theirs does not carry the tag dmsnap"):
        lvm.remove_lv(VG, "t_theirs")
    assert lvm.list_lvs() == []
    assert Path("/dev", VG, "t_theirs").exists()


@pytest.mark.usefixtures("physical_volumes")
def test_refusals() -> None:
    with pytest.raises(BlockSizeError, match="no whole number of t_vg's extents of 4 MiB"):
        lvm.create_lv(VG, "t_odd", 5 * MIB)
    with pytest.raises(NoSpaceError, match="has 120 MiB free, t_large needs 128 MiB"):
        lvm.create_lv(VG, "t_large", 128 * MIB)
    with pytest.raises(NotFoundError, match="no volume group t_none"):
        lvm.create_lv("t_none", "t_cow", 8 * MIB)
    lvm.create_lv(VG, "t_cow", 8 * MIB)
    with pytest.raises(ProgramError, match="already exists"):
        lvm.create_lv(VG, "t_cow", 8 * MIB)


def test_a_volume_in_use_is_not_removed(physical_volumes: list[BlockDevice]) -> None:
    del physical_volumes
    path = lvm.create_lv(VG, "t_cow", 8 * MIB)
    with path.open("rb"), pytest.raises(ProgramError, match="in use"):
        lvm.remove_lv(VG, "t_cow")
    assert lvm.remove_lv(VG, "t_cow")


def test_a_group_that_misses_a_disk(physical_volumes: list[BlockDevice]) -> None:
    missing = physical_volumes[1]
    with missing.path.open("r+b", buffering=0) as disk:
        kept = disk.read(MIB)
        disk.seek(0)
        disk.write(bytes(MIB))
    try:
        group = lvm.volume_group(VG)
        assert group is not None
        assert not group.complete
        with pytest.raises(WrongStateError, match="misses physical volumes"):
            lvm.create_lv(VG, "t_cow", 8 * MIB)
    finally:
        missing.path.write_bytes(kept)


def twin_of(disk: BlockDevice) -> str:
    uuid = f"DMSNAP-{uuid4()}-point-1"
    device.create("t-twin", uuid, single(SIZE, Linear(disk.devno)))
    return "t-twin"


def test_a_suspended_device_does_not_hang_a_report(physical_volumes: list[BlockDevice]) -> None:
    name = twin_of(physical_volumes[0])
    started = time.monotonic()
    with device.suspended(name):
        lvm.list_lvs()
    assert time.monotonic() - started < 60


def test_a_twin_of_a_physical_volume_is_not_used(physical_volumes: list[BlockDevice]) -> None:
    """The twin carries the PV's label: a volume made meanwhile must not lie on it."""
    name = twin_of(physical_volumes[0])
    path = lvm.create_lv(VG, "t_cow", 100 * MIB)
    state = device.existing(f"{VG}-t_cow")
    assert set(device.deps(state.name)) == {disk.devno for disk in physical_volumes}
    assert lvm.remove_lv(VG, "t_cow")
    assert not path.exists()
    assert device.remove(name)
