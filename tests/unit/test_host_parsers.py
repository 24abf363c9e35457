"""blkid, LVM and superblocks from recorded texts and images; backing files; the kernel's names."""

import errno
import os
import resource
import struct
import subprocess
from pathlib import Path

import pytest

from dmsnap.errors import (
    CorruptError,
    ForeignDeviceError,
    NoSpaceError,
    NotFoundError,
    OperatingSystemError,
    ProgramError,
    WrongStateError,
)
from dmsnap.host import filesystem, kernel, loop, lvm, signature
from dmsnap.host.fsfreeze import flushed
from dmsnap.host.run import Completed
from dmsnap.host.signature import Signature, parse_export
from dmsnap.units import GIB, MIB

EXPORT_EXT4 = r"""DEVNAME=/dev/loop0
LABEL=my\ disk\ \(1\)
UUID=0b5a4f0e-51a4-4f0c-9a77-5d3ed6d5d4a2
VERSION=1.0
BLOCK_SIZE=4096
TYPE=ext4
USAGE=filesystem
"""


def test_export_of_a_file_system() -> None:
    found = parse_export(EXPORT_EXT4)
    uuid = "0b5a4f0e-51a4-4f0c-9a77-5d3ed6d5d4a2"
    assert found == Signature("ext4", uuid, "my disk (1)", "filesystem")
    assert str(found) == f"ext4 'my disk (1)' (UUID {uuid})"


def test_export_of_a_partition_table() -> None:
    found = parse_export("DEVNAME=/dev/sda\nPTUUID=1c9d\nPTTYPE=gpt\n")
    assert found == Signature(partition_table="gpt")
    assert str(found) == "a gpt partition table"


def test_export_of_nothing() -> None:
    assert parse_export("") is None
    assert parse_export("DEVNAME=/dev/sda\n") is None


def test_probe_of_images(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(8 * MIB))
    assert signature.probe(image) is None
    subprocess.run(["/usr/sbin/mke2fs", "-q", "-t", "ext4", "-L", "a b", image], check=True)
    found = signature.probe(image)
    assert found is not None
    assert (found.fs_type, found.label, found.usage) == ("ext4", "a b", "filesystem")


def test_probe_ambivalent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature, "run", lambda *argv, **_: Completed(argv, 8, b"", b""))
    assert signature.probe(Path("/dev/x")) == Signature(ambivalent=True)


def test_probe_of_nothing_readable(tmp_path: Path) -> None:
    """blkid gives 2 for a device that it cannot open, or read, as for one that is empty."""
    with pytest.raises(NotFoundError):
        signature.probe(tmp_path / "none")


@pytest.mark.parametrize("begin", [0, 5 * MIB])
def test_probe_of_what_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: int
) -> None:
    """At its start, or at its end, where signatures of RAID lie."""
    image = tmp_path / "image"
    image.write_bytes(bytes(6 * MIB))
    pread = os.pread

    def failing(fd: int, length: int, offset: int) -> bytes:
        if offset <= begin < offset + length:
            raise OSError(errno.EIO, "broken")
        return pread(fd, length, offset)

    monkeypatch.setattr(os, "pread", failing)
    with pytest.raises(OperatingSystemError, match=str(image)):
        signature.probe(image)


VGS = {
    "report": [
        {
            "vg": [
                {
                    "vg_name": "vg",
                    "vg_uuid": "Xx-1",
                    "vg_extent_size": "4194304",
                    "vg_size": "2139095040",
                    "vg_free": "1065353216",
                    "pv_name": name,
                }
                for name in ("/dev/loop0", "/dev/loop1")
            ]
        }
    ]
}


def test_volume_group() -> None:
    group = lvm.parse_volume_group(lvm.parse_report(VGS, "vg"))
    assert group is not None
    assert group.extent_bytes == 4 * MIB
    assert group.free_bytes == 1065353216
    assert group.physical_volumes == ("/dev/loop0", "/dev/loop1")
    assert group.complete
    assert lvm.parse_volume_group([]) is None


def test_volume_group_that_misses_a_disk() -> None:
    rows = [row | {"pv_name": "[unknown]"} for row in lvm.parse_report(VGS, "vg")]
    group = lvm.parse_volume_group(rows)
    assert group is not None
    assert not group.complete


def test_two_volume_groups_of_one_name() -> None:
    first, second = lvm.parse_report(VGS, "vg")
    with pytest.raises(WrongStateError, match="several volume groups named vg"):
        lvm.parse_volume_group([first, second | {"vg_uuid": "Xx-2"}])


def test_a_logical_volume_that_goes_while_it_is_to_be_extended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """dmsnapd extends without the volume's lock; what is large enough by then is left."""
    group = lvm.parse_volume_group(lvm.parse_report(VGS, "vg"))
    there = lvm.LogicalVolume("dmsnap-a", "vg", "uuid", 8 * MIB, (lvm.TAG,))
    monkeypatch.setattr(lvm, "complete_group", lambda _name: group)
    monkeypatch.setattr(lvm, "list_lvs", lambda: [there])
    monkeypatch.setattr(lvm, "change", lambda *_: pytest.fail("it was changed"))
    with pytest.raises(NotFoundError, match="no logical volume vg/dmsnap-b"):
        lvm.extend_lv("vg", "dmsnap-b", 16 * MIB)
    lvm.extend_lv("vg", "dmsnap-a", 8 * MIB)


@pytest.mark.parametrize("document", [None, {}, {"report": [{"lv": []}]}, {"report": 1}, []])
def test_report_of_another_shape(document: object) -> None:
    with pytest.raises(ProgramError, match="unknown shape"):
        lvm.parse_report(document, "vg")


@pytest.mark.parametrize(
    ("text", "patterns"),
    [
        ('global_filter=["a|.*|"]\n', '"a|.*|"'),
        ('global_filter=["r|/dev/sd.*|","a|.*|"]\n', '"r|/dev/sd.*|","a|.*|"'),
        ('global_filter="a|.*|"\n', '"a|.*|"'),
    ],
)
def test_administrators_filter(text: str, patterns: str) -> None:
    assert lvm.parse_filter(text) == patterns


def test_the_administrators_filter_is_asked_for_when_settings_are_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Changed in place, replaced, one more, one less; and not when nothing was changed."""
    seen: set[tuple[lvm.Setting, ...]] = set()
    main, tag = tmp_path / "lvm.conf", tmp_path / "lvm_tag.conf"
    (tmp_path / "replaced").write_text("devices {}")

    def is_new() -> bool:
        found = lvm.settings(tmp_path)
        assert lvm.settings(tmp_path) == found
        is_new = found not in seen
        seen.add(found)
        return is_new

    assert is_new()
    for change in (
        lambda: main.write_text("devices {}"),
        lambda: os.utime(main, ns=(0, 0)),
        lambda: (tmp_path / "replaced").rename(main),
        lambda: tag.write_text("devices {}"),
    ):
        change()
        assert is_new()
        assert not is_new()
    asked: list[tuple[str, ...]] = []

    def run(*argv: str) -> Completed:
        asked.append(argv)
        return Completed(argv, 0, b'global_filter=["r|/dev/sdx|"]', b"")

    monkeypatch.setattr(lvm, "run", run)
    monkeypatch.setattr(lvm, "_not_to_scan", lambda: [1])
    monkeypatch.setattr(lvm, "_paths", lambda: {1: ["/dev/ours"]})
    for settings, times in ((("a",), 1), (("a",), 1), (("b",), 2), (("a",), 3)):
        monkeypatch.setattr(lvm, "settings", lambda settings=settings: settings)
        expected = 'devices/global_filter=["r|^/dev/ours$|","r|/dev/sdx|"]'
        assert lvm._filter() == expected
        assert len(asked) == times


def test_a_name_that_is_no_vgs_is_not_asked_for() -> None:
    assert lvm.volume_group("a b'; c") is None
    assert lvm.volume_group("-f") is None


def superblock(path: Path, offset: int, content: bytes) -> Path:
    image = bytearray(8192)
    image[offset : offset + len(content)] = content
    path.write_bytes(image)
    return path


@pytest.mark.parametrize("log", [0, 2])
def test_ext4_block_size(tmp_path: Path, log: int) -> None:
    content = struct.pack("<24xI28xH", log, 0xEF53)
    image = superblock(tmp_path / "image", 1024, content)
    assert filesystem.block_size(image, "ext4") == 1024 << log


def test_xfs_sector_size(tmp_path: Path) -> None:
    content = struct.pack(">4s98xH", b"XFSB", 4096)
    image = superblock(tmp_path / "image", 0, content)
    assert filesystem.block_size(image, "xfs") == 4096


@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
@pytest.mark.parametrize("size", [0, 100, 8192])
def test_superblock_that_is_none(tmp_path: Path, fs_type: str, size: int) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"\xff" * size)
    with pytest.raises(CorruptError):
        filesystem.block_size(image, fs_type)


def test_unknown_file_system(tmp_path: Path) -> None:
    image = superblock(tmp_path / "image", 0, b"")
    with pytest.raises(WrongStateError):
        filesystem.block_size(image, "zfs")
    with pytest.raises(WrongStateError):
        filesystem.check(image, "zfs")


def test_check_tells_clean_from_spoiled(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(16 * MIB))
    subprocess.run(["/usr/sbin/mke2fs", "-q", "-t", "ext4", image], check=True)
    assert filesystem.check(image, "ext4").clean
    with image.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)
    result = filesystem.check(image, "ext4")
    assert not result.clean
    assert result.sentence == f"e2fsck finds errors on {image}"
    assert result.output


def test_check_of_no_file_system_is_the_programs_failure(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(MIB))
    with pytest.raises(ProgramError, match="e2fsck -f -n"):
        filesystem.check(image, "ext4")


def test_backing_file_is_allocated_and_private(tmp_path: Path) -> None:
    path = tmp_path / "cow"
    loop.create_backing_file(path, 3 * MIB)
    status = path.stat()
    assert status.st_size == 3 * MIB
    assert status.st_blocks * 512 >= 3 * MIB
    assert status.st_mode & 0o777 == 0o600


def test_what_is_in_use_of_a_backing_file_is_not_allocated_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the kernel cannot, glibc would write into what a loop device writes to."""
    path = tmp_path / "cow"
    loop.create_backing_file(path, MIB)
    seen = []
    allocate = os.posix_fallocate

    def spy(descriptor: int, offset: int, length: int) -> None:
        seen.append((offset, length))
        allocate(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", spy)
    loop.grow(path, 3 * MIB)
    assert seen == [(MIB, 2 * MIB)]
    assert path.stat().st_size == 3 * MIB
    loop.grow(path, 3 * MIB)
    assert len(seen) == 1


def test_a_link_is_no_backing_file(tmp_path: Path) -> None:
    """Whoever owns a store's directory could have root write to any disk or file."""
    precious = tmp_path / "precious"
    precious.write_bytes(bytes(MIB))
    link = tmp_path / "cow"
    link.symlink_to(precious)
    for use in (lambda: loop.attach(link), lambda: loop.grow(link, 2 * MIB)):
        with pytest.raises(OperatingSystemError, match="symbolic links"):
            use()
    assert precious.stat().st_size == MIB
    with pytest.raises(ForeignDeviceError, match="no regular file"):
        loop.attach(Path("/dev/null"))


def test_backing_file_never_replaces_one(tmp_path: Path) -> None:
    path = tmp_path / "cow"
    path.write_text("precious")
    with pytest.raises(OperatingSystemError, match="File exists"):
        loop.create_backing_file(path, MIB)
    assert path.read_text() == "precious"


def test_backing_file_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    """By a limit of the process: a file system that is filled is one for everybody else, too."""
    path = tmp_path / "cow"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, limits[1]))
    try:
        with pytest.raises(NoSpaceError, match="has no room for a file of"):
            loop.create_backing_file(path, GIB)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not path.exists()


@pytest.mark.parametrize(
    ("release", "expected"), [("6.1.176-amd64", (6, 1)), ("6.12.0", (6, 12)), ("7.0-rc1", (7, 0))]
)
def test_kernel_release(release: str, expected: tuple[int, int]) -> None:
    assert kernel.parse_release(release) == expected


def test_kernel_release_without_a_number() -> None:
    with pytest.raises(OperatingSystemError, match="'next'"):
        kernel.parse_release("next")


def test_this_kernel(tmp_path: Path) -> None:
    assert kernel.version() >= (3, 0)
    assert kernel.host_name() == os.uname().nodename
    assert len(kernel.boot_id()) == 36
    with flushed(tmp_path) as descriptor:
        assert os.fstat(descriptor).st_dev == tmp_path.stat().st_dev
