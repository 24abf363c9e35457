"""sysfs readers and what is built on them, over directory trees."""

import errno
import os
from pathlib import Path

import pytest

from dmsnap.errors import BusyError, NotFoundError, OperatingSystemError
from dmsnap.host import blockdev, sysfs
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.sysfs import Sysfs, format_devno, parse_devno

SDA, SDA1, SDB = os.makedev(8, 0), os.makedev(8, 1), os.makedev(8, 16)
DM0, DM1, DM2 = (os.makedev(253, minor) for minor in range(3))
LOOP0 = os.makedev(7, 0)
MD0 = os.makedev(9, 0)
DISKS = {"sda": SDA, "sdb": SDB, "sdc": os.makedev(8, 32), "sdd": os.makedev(8, 48)}


class Tree:
    """A sysfs with the files that the kernel would show."""

    def __init__(self, root: Path) -> None:
        self.sysfs = Sysfs(root / "sys")
        self.proc = root / "proc"
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "swaps").write_text("Filename\tType\tSize\tUsed\tPriority\n")
        self.mountinfo("")
        for directory in ("dev/block", "block"):
            (self.sysfs.root / directory).mkdir(parents=True)

    def mountinfo(self, text: str) -> None:
        (self.proc / "self" / "mountinfo").write_text(text)

    def device(self, name: str, devno: int, *, parent: str = "", **files: str) -> Path:
        directory = self.sysfs.root / "devices" / parent / name
        directory.mkdir(parents=True)
        values = {"dev": format_devno(devno) + "\n", "size": "2048\n", "ro": "0\n"}
        for path, text in (
            values | {key.replace("__", "/"): v for key, v in files.items()}
        ).items():
            (directory / path).parent.mkdir(exist_ok=True)
            (directory / path).write_text(text)
        (self.sysfs.root / "dev" / "block" / format_devno(devno)).symlink_to(directory)
        if not parent:
            (self.sysfs.root / "block" / name).symlink_to(directory)
        return directory

    def stack(self, upper: Path, lower: Path) -> None:
        for directory, relation, other in ((upper, "slaves", lower), (lower, "holders", upper)):
            (directory / relation).mkdir(exist_ok=True)
            (directory / relation / other.name).symlink_to(other)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_devno_text() -> None:
    assert parse_devno("253:17\n") == os.makedev(253, 17)
    assert format_devno(os.makedev(259, 300)) == "259:300"
    with pytest.raises(ValueError, match="invalid literal"):
        parse_devno("none")


def test_attributes(tree: Tree) -> None:
    tree.device(
        "dm-0", DM0, dm__name="vg-lv\n", dm__uuid="LVM-x\n", queue__discard_max_bytes="4096\n"
    )
    assert tree.sysfs.size_bytes(DM0) == 1024 * 1024
    assert tree.sysfs.dm_name(DM0) == "vg-lv"
    assert tree.sysfs.dm_uuid(DM0) == "LVM-x"
    assert tree.sysfs.display_name(DM0) == "dm-0 (vg-lv)"
    assert tree.sysfs.discard_max_bytes(DM0) == 4096
    assert tree.sysfs.loop_backing_file(DM0) is None
    tree.sysfs.set_discard_max_bytes(DM0, 0)
    assert tree.sysfs.discard_max_bytes(DM0) == 0


def test_any_suspended(tree: Tree) -> None:
    assert not tree.sysfs.any_dm_suspended()
    tree.device("sda", SDA)
    first = tree.device("dm-0", DM0, dm__suspended="0\n")
    assert not tree.sysfs.any_dm_suspended()
    (first / "dm" / "suspended").write_text("1\n")
    assert tree.sysfs.any_dm_suspended()


def test_missing_device_is_a_sentence(tree: Tree) -> None:
    with pytest.raises(NotFoundError, match="there is no block device 253:0"):
        tree.sysfs.read_only(DM0)
    assert not tree.sysfs.exists(DM0)


def test_only_enoent_is_missing(tree: Tree) -> None:
    directory = tree.device("sda", SDA)
    (directory / "dm").write_text("a file where a directory should be")
    with pytest.raises(Exception, match="Not a directory"):
        tree.sysfs.dm_name(SDA)


def test_a_dm_device_that_is_being_removed_has_no_name(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are there, and cannot be read (dm_attr_show); of others that is an error."""
    tree.device("dm-0", DM0)

    def refused(_path: str) -> bytes:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(sysfs, "_content", refused)
    assert tree.sysfs.dm_name(DM0) is None
    assert tree.sysfs.dm_uuid(DM0) is None
    with pytest.raises(OperatingSystemError, match="Invalid argument"):
        tree.sysfs.attribute(DM0, "queue/rotational")


def test_writing_a_missing_attribute_creates_no_file(tree: Tree) -> None:
    directory = tree.device("sda", SDA)
    with pytest.raises(NotFoundError):
        tree.sysfs.write(SDA, "nothing", 1)
    assert not (directory / "nothing").exists()


def test_partition_has_its_disks_queue(tree: Tree) -> None:
    tree.device("sda", SDA, queue__logical_block_size="4096\n")
    tree.device("sda1", SDA1, parent="sda", partition="1\n")
    assert tree.sysfs.logical_block_bytes(SDA1) == 4096
    assert tree.sysfs.partition_parent(SDA1) == SDA
    assert tree.sysfs.partition_parent(SDA) is None


def test_kernel_name_with_a_slash(tree: Tree) -> None:
    tree.device("cciss!c0d0", SDB)
    assert tree.sysfs.device_path(SDB) == Path("/dev/cciss/c0d0")


def test_disks(tree: Tree) -> None:
    tree.device("loop0", LOOP0)
    tree.device("sda", SDA)
    assert tree.sysfs.disks("loop") == {"loop0": LOOP0}
    assert set(tree.sysfs.disks()) == {"loop0", "sda"}


def test_neighbours(tree: Tree) -> None:
    tree.stack(tree.device("dm-0", DM0), tree.device("sda", SDA))
    assert blockdev.slaves(DM0, tree.sysfs) == ["sda"]
    assert blockdev.holders(SDA, tree.sysfs) == ["dm-0"]
    assert blockdev.holders(DM0, tree.sysfs) == []


def test_a_neighbour_that_goes_while_it_is_read_is_none(tree: Tree) -> None:
    """A snapshot that another command removes just then, a loop device that udev has open."""
    sda = tree.device("sda", SDA)
    tree.stack(tree.device("dm-0", DM0), sda)
    listed, named = tree.device("dm-1", DM1), tree.device("dm-2", DM2)
    tree.stack(listed, sda)
    (listed / "dev").unlink()
    assert tree.sysfs.holders(SDA) == [DM0]
    tree.stack(named, sda)
    (tree.sysfs.root / "dev" / "block" / format_devno(DM2)).unlink()
    assert blockdev.holders(SDA, tree.sysfs) == ["dm-0"]
    assert blockdev.lasting_users(SDA, sysfs=tree.sysfs, proc=tree.proc) == ["held by dm-0"]


def test_depends_on_through_every_layer(tree: Tree, tmp_path: Path) -> None:
    """dm-1 over loop0 over a file on dm-0 over sda1 of sda; the file system is faked."""
    image = tmp_path / "image"
    image.touch()
    sda1 = tree.device("sda1", SDA1, parent="sda", partition="1\n")
    (sda1.parent / "dev").write_text("8:0\n")
    (tree.sysfs.root / "dev" / "block" / "8:0").symlink_to(sda1.parent)
    dm0 = tree.device("dm-0", DM0)
    tree.stack(dm0, sda1)
    holding = image.stat().st_dev
    # The file system that really holds tmp_path plays the one on dm-0.
    (tree.sysfs.root / "dev" / "block" / format_devno(holding)).symlink_to(dm0)
    loop0 = tree.device("loop0", LOOP0, loop__backing_file=f"{image}\n")
    dm1 = tree.device("dm-1", DM1)
    tree.stack(dm1, loop0)
    if os.major(holding) == 0:
        pytest.skip("the temporary directory lies on no block device")

    def depends(devno: int, other: int) -> bool:
        return blockdev.depends_on(devno, other, sysfs=tree.sysfs, proc=tree.proc)

    assert depends(DM1, DM1)
    assert depends(DM1, LOOP0)
    assert depends(DM1, holding)
    assert depends(DM1, SDA1)
    assert depends(DM1, SDA)
    assert not depends(DM0, DM1)
    assert not depends(SDA, SDA1)
    assert not depends(DM1, SDB)
    assert blockdev.file_depends_on(image, SDA, sysfs=tree.sysfs, proc=tree.proc)


def test_depends_on_every_device_of_a_btrfs(tree: Tree) -> None:
    tree.device("dm-0", DM0)
    sda, sdb = tree.device("sda", SDA), tree.device("sdb", SDB)
    devices = tree.sysfs.root / "fs" / "btrfs" / "5b5f" / "devices"
    devices.mkdir(parents=True)
    for device in (sda, sdb):
        (devices / device.name).symlink_to(device)
    (sda / "dev").write_text("8:0\n")
    (sdb / "dev").write_text("8:16\n")
    assert sorted(tree.sysfs.btrfs_siblings(SDA)) == [SDA, SDB]
    assert tree.sysfs.btrfs_siblings(DM0) == []
    assert blockdev.depends_on(SDA, SDB, sysfs=tree.sysfs, proc=tree.proc)
    assert not blockdev.depends_on(SDA, DM0, sysfs=tree.sysfs, proc=tree.proc)


def test_disks_below(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies between is none: partitions, volumes, arrays, multipath, loop devices on files."""
    disks = {name: tree.device(name, devno) for name, devno in DISKS.items()}
    sda1 = tree.device("sda1", SDA1, parent="sda", partition="1\n")
    lv = tree.device("dm-0", DM0, dm__name="vg-lv\n")
    tree.stack(lv, sda1)
    tree.stack(lv, disks["sdb"])
    array = tree.device("md0", MD0)
    tree.stack(array, disks["sdb"])
    tree.stack(array, disks["sdc"])
    multipath = tree.device("dm-1", DM1, dm__uuid="mpath-3600\n")
    tree.stack(multipath, disks["sdc"])
    tree.stack(multipath, disks["sdd"])
    image = tmp_path / "image"
    image.touch()
    loop0 = tree.device("loop0", LOOP0, loop__backing_file=f"{image}\n")
    above = tree.device("dm-2", DM2)
    tree.stack(above, array)
    tree.stack(above, loop0)
    holding = {image: DM0}
    monkeypatch.setattr(blockdev, "file_system_devno", lambda path, **_: holding[path])

    def below(devno: int) -> set[str]:
        found = blockdev.disks_below(devno, sysfs=tree.sysfs, proc=tree.proc)
        return {tree.sysfs.kernel_name(each) for each in found}

    assert below(SDA) == below(SDA1) == {"sda"}
    assert below(DM0) == {"sda", "sdb"}
    assert below(MD0) == {"sdb", "sdc"}
    assert below(DM1) == {"sdc", "sdd"}  # the paths of one LUN: who uses it, uses all of them
    assert below(LOOP0) == {"sda", "sdb"}
    assert below(DM2) == {"sda", "sdb", "sdc"}
    holding[image] = os.makedev(0, 45)  # a file system without a device
    assert below(LOOP0) == {"loop0"}


def test_a_number_of_no_device_depends_on_nothing(tree: Tree) -> None:
    tree.device("sda", SDA)
    assert not blockdev.depends_on(os.makedev(0, 45), SDA, sysfs=tree.sysfs, proc=tree.proc)


def test_depends_on_ends_on_a_cycle(tree: Tree) -> None:
    one, two = tree.device("dm-0", DM0), tree.device("dm-1", DM1)
    tree.stack(one, two)
    tree.stack(two, one)
    assert not blockdev.depends_on(DM0, SDA, sysfs=tree.sysfs, proc=tree.proc)


def test_describe_users(tree: Tree) -> None:
    sda = tree.device("sda", SDA)
    tree.stack(tree.device("dm-0", DM0, dm__name="vg-lv\n"), sda)
    tree.mountinfo("22 1 8:0 / /srv\\040data rw,noatime - ext4 /dev/sda rw\n")
    device = BlockDevice(Path("/dev/sda"), SDA, 1 << 20, 512, read_only=False)
    users = blockdev.describe_users(device, sysfs=tree.sysfs, proc=tree.proc)
    assert users == "mounted on /srv data, held by dm-0 (vg-lv)"


def test_a_disk_and_its_partitions_are_used_by_each_others_users(tree: Tree) -> None:
    """The kernel gives nobody the one while somebody has the other."""
    sda1 = tree.device("sda1", SDA1, parent="sda", partition="1\n")
    (sda1.parent / "dev").write_text("8:0\n")
    (tree.sysfs.root / "dev" / "block" / "8:0").symlink_to(sda1.parent)

    def users(devno: int) -> list[str]:
        return blockdev.lasting_users(devno, sysfs=tree.sysfs, proc=tree.proc)

    assert (users(SDA), users(SDA1)) == ([], [])
    tree.stack(tree.device("dm-0", DM0, dm__name="vg-lv\n"), sda1)
    assert (users(SDA), users(SDA1)) == (["held by dm-0 (vg-lv) (sda1)"], ["held by dm-0 (vg-lv)"])
    (sda1 / "holders" / "dm-0").unlink()
    tree.mountinfo("22 1 8:0 / /srv rw,noatime - ext4 /dev/sda rw\n")
    assert (users(SDA), users(SDA1)) == (["mounted on /srv"], ["mounted on /srv (sda)"])


def test_describe_users_of_an_idle_device(tree: Tree) -> None:
    tree.device("sda", SDA)
    assert blockdev.describe_users_of(SDA, sysfs=tree.sysfs, proc=tree.proc) == ""


def test_probe_refuses_what_is_no_block_device(tmp_path: Path) -> None:
    file = tmp_path / "image"
    file.write_bytes(b"x" * 700)
    with pytest.raises(NotFoundError, match="is no block device"):
        BlockDevice.probe(file)
    with pytest.raises(NotFoundError, match="No such file"):
        BlockDevice.probe(tmp_path / "none")
    assert blockdev.device_or_file_size(file) == 700


def test_open_shared_closes(tmp_path: Path) -> None:
    file = tmp_path / "image"
    file.write_bytes(b"x")
    with blockdev.open_shared(file, direct=False) as descriptor:
        assert os.read(descriptor, 1) == b"x"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_busy_is_its_own_error() -> None:
    assert BusyError("x").exit_code != NotFoundError("x").exit_code


def test_writes_are_counted_from_the_statistics(tree: Tree) -> None:
    tree.device(
        "sda",
        SDA,
        stat="     117    5   9304  12   46   3  1112  30  0  52  42  0 0 8 0 0 0\n",
        inflight="       1        2\n",
    )
    assert tree.sysfs.sectors_written(SDA) == 1112 + 8
    assert tree.sysfs.in_flight(SDA) == 3
    assert tree.sysfs.requests_completed(SDA) == 117 + 46 + 0 + 0


def test_requests_are_counted_by_old_and_new_kernels(tree: Tree) -> None:
    """Discards came with Linux 4.18, flushes with 5.5."""
    tree.device("sda", SDA, stat="1 0 0 0 20 0 0 0 0 0 0\n")
    assert tree.sysfs.requests_completed(SDA) == 21
    tree.device("sdb", SDB, stat="1 0 0 0 20 0 0 0 0 0 0 300 0 0 0 4000 7\n")
    assert tree.sysfs.requests_completed(SDB) == 4321


def test_a_host_has_a_clock_of_its_own_where_one_set_the_wall_clock(tmp_path: Path) -> None:
    """One that was found later, or lost its time, did not."""
    sysfs = Sysfs(tmp_path)
    assert not sysfs.has_own_clock()
    assert sysfs.own_clock_ns() is None
    clocks = tmp_path / "class" / "rtc"
    clocks.mkdir(parents=True)
    assert not sysfs.has_own_clock()
    for name, text in (("rtc0", "0\n"), ("rtc1", None), ("rtc2", "1\n")):
        assert not sysfs.has_own_clock()
        (clocks / name).mkdir()
        if text is not None:
            (clocks / name / "hctosys").write_text(text)
            (clocks / name / "since_epoch").write_text(text)
    assert sysfs.has_own_clock()
    assert sysfs.own_clock_ns() == 10**9
    for text in ("", "?\n"):
        (clocks / "rtc2" / "since_epoch").write_text(text)
        assert sysfs.own_clock_ns() is None
    (clocks / "rtc2" / "since_epoch").unlink()
    assert sysfs.own_clock_ns() is None
