"""What is a volume of the host, and what is a part of one, over directory trees."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from test_host_sysfs import DM0, DM1, LOOP0, SDA, SDA1, SDB, Tree

from dmsnap.errors import ProgramError
from dmsnap.host import inventory, udev
from dmsnap.host.inventory import HostVolume, VolumeKind
from dmsnap.host.signature import Signature

EXT4 = Signature(fs_type="ext4", uuid="1234", usage="filesystem")
LV_UUID = "LVM-" + "a" * 32 + "b" * 32


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path)
    (made.sysfs.root / "class" / "block").mkdir(parents=True)
    return made


def everybody_answers(_devices: Sequence[Path]) -> list[Path]:
    return []


def listed(tree: Tree, **contents: Signature | None) -> list[HostVolume]:
    """Every device of the tree, with ext4 on what is not said otherwise."""
    for link in (tree.sysfs.root / "dev" / "block").iterdir():
        place = tree.sysfs.root / "class" / "block" / link.resolve().name
        place.symlink_to(link.resolve())

    def probe(path: Path) -> Signature | None:
        return contents.get(path.name, EXT4)

    taken = inventory.take(sysfs=tree.sysfs, proc=tree.proc, probe=probe, ask=everybody_answers)
    return list(taken.volumes)


def names(tree: Tree, **contents: Signature | None) -> list[str]:
    return sorted(each.path.name for each in listed(tree, **contents))


def test_a_disk_is_a_volume_and_one_with_partitions_is_not(tree: Tree) -> None:
    tree.device("sdb", SDB, wwid="naa.5000\n")
    tree.device("sda", SDA)
    tree.device("sda1", SDA1, parent="sda", partition="1\n")
    by_name = {each.path.name: each for each in listed(tree)}
    assert set(by_name) == {"sda1", "sdb"}
    assert (by_name["sdb"].kind, by_name["sdb"].holder) == (VolumeKind.DISK, "wwid:naa.5000")
    assert by_name["sda1"].kind is VolumeKind.PARTITION
    assert by_name["sdb"].identity == "1234@wwid:naa.5000"
    assert by_name["sdb"].size_bytes == 2048 * 512


def test_components_are_none(tree: Tree) -> None:
    """A physical volume, a path of a multipath disk: by what lies above, or by what is on it."""
    disk = tree.device("sda", SDA)
    other = tree.device("sdb", SDB)
    upper = tree.device("dm-0", DM0, dm__uuid="mpath-3600\n", dm__name="disk\n", dm__suspended="0")
    tree.stack(upper, disk)
    tree.stack(upper, other)
    assert names(tree) == ["disk"]


def test_what_multipathd_is_to_have_is_none(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its map is not there yet, or not there any more: a path is the volume in no case."""
    tree.device("sda", SDA)
    tree.device("sdb", SDB)
    claim = ("DM_MULTIPATH_DEVICE_PATH=1", SDB)
    monkeypatch.setattr(udev, "has_property", lambda devno, line: (line, devno) == claim)
    assert names(tree) == ["sda"]


@pytest.mark.parametrize(
    "content",
    [
        None,
        Signature(fs_type="LVM2_member", uuid="x", usage="raid"),
        Signature(fs_type="linux_raid_member", uuid="x", usage="raid"),
        Signature(fs_type="swap", uuid="x", usage="other"),
        Signature(fs_type="crypto_LUKS", uuid="x", usage="crypto"),
        Signature(partition_table="gpt"),
        Signature(ambivalent=True),
        Signature(fs_type="squashfs", usage="filesystem"),
    ],
)
def test_what_holds_no_file_system_of_its_own_is_none(
    tree: Tree, content: Signature | None
) -> None:
    tree.device("sda", SDA)
    assert names(tree, sda=content) == []


def test_an_lv_is_known_by_its_uuid_and_its_layers_are_none(tree: Tree) -> None:
    tree.device("dm-0", DM0, dm__uuid=LV_UUID + "\n", dm__name="vg-data\n", dm__suspended="0\n")
    tree.device("dm-1", DM1, dm__uuid=LV_UUID + "-real\n", dm__name="x\n", dm__suspended="0\n")
    (found,) = listed(tree)
    assert (found.path, found.kind) == (Path("/dev/mapper/vg-data"), VolumeKind.LOGICAL_VOLUME)
    assert found.holder.startswith("lv:bbbbbb-bbbb-")


def test_a_thick_snapshot_of_lvm_is_none_and_its_origin_is_one(tree: Tree) -> None:
    names_of = {"dm-0": ("vg-data", ""), "dm-1": ("vg-data-real", "-real")}
    made = {
        name: tree.device(name, devno, dm__uuid=LV_UUID + suffix, dm__name=dm_name)
        for (name, (dm_name, suffix)), devno in zip(names_of.items(), (DM0, DM1), strict=True)
    }
    cow_devno, snap_devno = os.makedev(253, 2), os.makedev(253, 3)
    cow = tree.device("dm-2", cow_devno, dm__uuid=LV_UUID + "-cow", dm__name="vg-snap-cow")
    other = "LVM-" + "a" * 32 + "c" * 32
    snap = tree.device("dm-3", snap_devno, dm__uuid=other, dm__name="vg-snap")
    tree.stack(made["dm-0"], made["dm-1"])
    tree.stack(snap, cow)
    assert names(tree) == ["vg-data"]


def test_our_own_are_none_and_what_lies_below_them_is_one(tree: Tree) -> None:
    disk = tree.device("sda", SDA)
    ours = tree.device("dm-0", DM0, dm__uuid="DMSNAP-x-origin-1\n", dm__name="o\n")
    tree.stack(ours, disk)
    assert names(tree) == ["sda"]


def test_what_is_suspended_read_only_or_empty_is_not_read(tree: Tree) -> None:
    tree.device("dm-0", DM0, dm__uuid="CRYPT-x\n", dm__name="open\n", dm__suspended="1\n")
    tree.device("sda", SDA, ro="1\n")
    tree.device("loop0", LOOP0, size="0\n")
    tree.device("zram0", os.makedev(252, 0))
    assert names(tree, open=None, sda=None, loop0=None, zram0=EXT4) == []


def test_swap_space_in_use_is_none(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on it may be read as a file system that was there before."""
    tree.device("sda", SDA)
    tree.device("sdb", SDB)
    monkeypatch.setattr(inventory, "is_swap_space", lambda devno, **_: devno == SDA)
    assert names(tree) == ["sdb"]


def test_what_cannot_be_read_keeps_nobody_from_being_found(tree: Tree) -> None:
    tree.device("sda", SDA)
    tree.device("sdb", SDB)
    (tree.sysfs.root / "class" / "block" / "sda").symlink_to(tree.sysfs.directory(SDA))
    (tree.sysfs.root / "class" / "block" / "sdb").symlink_to(tree.sysfs.directory(SDB))

    def probe(path: Path) -> Signature | None:
        if path.name == "sda":
            raise ProgramError("blkid: input/output error")
        return EXT4

    taken = inventory.take(sysfs=tree.sysfs, proc=tree.proc, probe=probe, ask=everybody_answers)
    assert [each.path.name for each in taken.volumes] == ["sdb"]
    assert taken.unread == []


def test_what_does_not_answer_or_is_suspended_is_not_read(tree: Tree) -> None:
    tree.device("sda", SDA, wwid="naa.5000\n")
    tree.device("sdb", SDB)
    tree.device("dm-0", DM0, dm__uuid="CRYPT-x\n", dm__name="open\n", dm__suspended="1\n")
    for name, devno in (("sda", SDA), ("sdb", SDB), ("dm-0", DM0)):
        place = tree.sysfs.root / "class" / "block" / name
        place.symlink_to(tree.sysfs.directory(devno))
    asked: list[str] = []
    read: list[str] = []

    def ask(devices: Sequence[Path]) -> list[Path]:
        asked.extend(each.name for each in devices)
        return [each for each in devices if each.name == "sda"]

    def probe(path: Path) -> Signature:
        read.append(path.name)
        return EXT4

    taken = inventory.take(sysfs=tree.sysfs, proc=tree.proc, probe=probe, ask=ask)
    assert (sorted(asked), read) == (["sda", "sdb"], ["sdb"])
    assert [each.path.name for each in taken.volumes] == ["sdb"]
    by_name = {each.path.name: each for each in taken.unread}
    assert {name: each.suspended for name, each in by_name.items()} == {"sda": False, "open": True}
    sda, opened = by_name["sda"], by_name["open"]
    assert sda.may_be("1234@wwid:naa.5000", "/dev/sdx")
    assert not sda.may_be("1234@wwid:naa.6000", "/dev/sda")
    assert opened.may_be("1234@dm:CRYPT-x", "/dev/mapper/other")


def test_a_loop_device_has_its_file(tree: Tree) -> None:
    tree.device("loop0", LOOP0, loop__backing_file="/srv/disk.img\n")
    (found,) = listed(tree)
    assert (found.kind, found.backing_file) == (VolumeKind.LOOP, "/srv/disk.img")
    assert found.identity == "1234@"


def test_what_tells_a_device_from_another_with_its_name(tree: Tree, tmp_path: Path) -> None:
    links = tmp_path / "by-partuuid"

    def identity(devno: int) -> str:
        return inventory.device_identity(devno, sysfs=tree.sysfs, links=links)

    tree.device("sda", SDA, device__wwid="naa.5000\n", serial="7\n")
    tree.device("sdb", SDB, serial="7\n")
    tree.device("sda1", SDA1, parent="sda", partition="1\n")
    tree.device("dm-0", DM0, dm__uuid=f"{LV_UUID}\n")
    tree.device("loop0", LOOP0, loop__backing_file="/srv/a.img\n", loop__offset="0\n")
    first = os.makedev(7, 1)
    tree.device("loop1", first, loop__backing_file="/srv/a.img\n", loop__offset="512\n")
    assert identity(SDA) == "wwid:naa.5000"
    assert identity(SDB) == "serial:7"
    assert identity(SDA1) == f"size:{2048 * 512}"
    assert identity(DM0).startswith("lv:bbbbbb-")
    assert identity(LOOP0) == "loop:0:/srv/a.img"
    assert identity(first) == "loop:512:/srv/a.img"
