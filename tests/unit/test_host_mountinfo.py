"""mountinfo, swaps, mount options and the scan of /proc, over recorded texts and trees."""

import errno
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmsnap.errors import BusyError
from dmsnap.host import mount, mountinfo, process
from dmsnap.host.mount import mount_options, submounts
from dmsnap.host.mountinfo import (
    Mount,
    Swap,
    mount_at,
    mounts_of,
    parse_line,
    split_options,
    unescape,
)

RECORDED = r"""21 1 253:1 / / rw,relatime shared:1 - ext4 /dev/mapper/vg-root rw,errors=remount-ro
22 21 0:20 / /proc rw,nosuid,nodev,noexec,relatime shared:12 - proc proc rw
40 21 253:3 / /srv/my\040data rw,noatime shared:3 master:4 - xfs /dev/vg/srv rw,seclabel,noquota
41 40 253:4 / /srv/my\040data/tab\011 rw,relatime - ext4 /dev/mapper/vg-sub rw
42 41 0:50 / /srv/my\040data/tab\011/deep rw - tmpfs tmpfs rw
43 40 253:5 / /srv/my\040data/z ro,relatime - ext4 /dev/mapper/vg-z rw
44 21 253:3 /inside /mnt/bind ro,noatime shared:30 - xfs /dev/mapper/vg-srv rw,attr2
45 21 0:44 /@home /home rw,relatime shared:9 - btrfs /dev/loop99 rw,subvolid=257,subvol=/@home
46 21 253:6 / /mnt/stack rw - ext4 /dev/mapper/vg-below rw
47 46 253:7 / /mnt/stack rw - ext4 /dev/mapper/vg-above rw
49 21 253:8 / /srv/failed rw,noatime - ext4 /dev/mapper/vg-failed ro,errors=remount-ro
48 21 8:1 / /context rw - ext4 /dev/sda1 rw,context="system_u:object_r:tmp_t:s0:c1,c2",nodelalloc
"""


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "mountinfo").write_text(RECORDED)
    return tmp_path


def by_id(proc: Path, mount_id: int) -> Mount:
    return next(entry for entry in mountinfo.mounts(proc=proc) if entry.mount_id == mount_id)


def test_fields(proc: Path) -> None:
    entry = by_id(proc, 40)
    assert entry.parent_id == 21
    assert entry.devno == os.makedev(253, 3)
    assert entry.root == "/"
    assert entry.mount_point == Path("/srv/my data")
    assert entry.options == ("rw", "noatime")
    assert entry.fs_type == "xfs"
    assert entry.source == "/dev/vg/srv"
    assert "noquota" in entry.super_options


def test_read_only_by_either_side(proc: Path) -> None:
    assert by_id(proc, 43).read_only
    assert not by_id(proc, 40).read_only


def test_mounts_of_finds_binds(proc: Path) -> None:
    assert [m.mount_id for m in mounts_of(os.makedev(253, 3), proc=proc)] == [40, 44]


def test_btrfs_is_matched_by_its_source(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its st_dev 0:44 is no device's number."""
    loop99 = os.makedev(7, 99)
    monkeypatch.setattr(mountinfo, "source_devno", lambda _mount: loop99)
    assert [m.mount_id for m in mounts_of(loop99, proc=proc)] == [45]


def test_source_that_is_no_path(proc: Path) -> None:
    assert mountinfo.source_devno(by_id(proc, 42)) is None


def test_mount_at_is_the_visible_one(proc: Path) -> None:
    found = mount_at(Path("/mnt/stack"), proc=proc)
    assert found is not None
    assert found.mount_id == 47
    assert mount_at(Path("/srv"), proc=proc) is None


def test_submounts_in_the_order_of_unmounting(proc: Path) -> None:
    below = [m.mount_id for m in submounts(Path("/srv/my data"), proc=proc)]
    assert below == [43, 42, 41]
    assert submounts(Path("/nowhere"), proc=proc) == []


def test_this_hosts_own_table_parses() -> None:
    root = mount_at(Path("/"))
    assert root is not None
    assert root in mountinfo.mounts()


def test_line_that_is_none() -> None:
    with pytest.raises(ValueError, match="is not in list"):
        parse_line("36 35 98:0 /mnt1 /mnt2 rw,noatime ext3 /dev/root rw")


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_unescape_undoes_mangle_path(path: str) -> None:
    mangled = "".join(f"\\{ord(char):03o}" if char in " \t\n\\#" else char for char in path)
    assert unescape(mangled) == path


def test_options_in_quotes_are_not_split() -> None:
    assert split_options('rw,context="a:c1,c2",x') == ("rw", 'context="a:c1,c2"', "x")


@pytest.mark.parametrize(
    ("mount_id", "options"),
    [
        (40, ["rw", "noatime", "noquota"]),
        (43, ["ro", "relatime"]),
        (21, ["rw", "relatime", "errors=remount-ro"]),
        (49, ["ro", "noatime", "errors=remount-ro"]),
        (48, ["rw", "strictatime", 'context="system_u:object_r:tmp_t:s0:c1,c2"', "nodelalloc"]),
    ],
)
def test_mount_options(proc: Path, mount_id: int, options: list[str]) -> None:
    assert mount_options(by_id(proc, mount_id)) == options


@pytest.mark.parametrize(("mount_id", "access"), [(49, "rw"), (43, "ro"), (40, "rw")])
def test_what_was_asked_of_a_mount(proc: Path, mount_id: int, access: str) -> None:
    """An error has the kernel make a file system read-only, and the mount stays what it was."""
    options = mount_options(by_id(proc, mount_id))
    assert mount_options(by_id(proc, mount_id), asked=True) == [access, *options[1:]]


def test_swaps(proc: Path) -> None:
    (proc / "swaps").write_text(
        "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        "/dev/dm-2                               partition\t1048572\t0\t-2\n"
        "/swap\\040file                            file\t\t4\t0\t-3\n"
    )
    found = mountinfo.swaps(proc=proc)
    assert [(swap.path, swap.kind, swap.size_bytes) for swap in found] == [
        (Path("/dev/dm-2"), "partition", 1048572 * 1024),
        (Path("/swap file"), "file", 4096),
    ]


def test_what_users_name_is_in_one_line(proc: Path) -> None:
    """The kernel escapes blanks, tabs and newlines: what else ends a line for Python is a name.

    Of a mount by FUSE, or in a name space of their own, users choose point and source.
    """
    names = ("a\rb", "a\x85b", "a\u2028b", "a\x0cb", "a\u00a0b")
    lines = [
        f"{51 + at} 21 0:51 / /home/{name} rw,relatime - fuse.x {name} rw\n"
        for at, name in enumerate(names)
    ]
    text = (RECORDED + "".join(lines)).encode()
    (proc / "self" / "mountinfo").write_bytes(text)
    found = mounts_of(os.makedev(0, 51), proc=proc)
    assert [each.mount_point for each in found] == [Path("/home", name) for name in names]
    assert [each.source for each in found] == list(names)
    (proc / "7" / "ns").mkdir(parents=True)
    (proc / "7" / "ns" / "mnt").symlink_to("mnt:[7]")
    (proc / "7" / "mountinfo").write_bytes(text)
    assert len(mountinfo.mounts_elsewhere(os.makedev(0, 51), proc=proc)) == len(names)


def test_a_btrfs_in_another_namespace_is_known_by_its_source(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop99 = os.makedev(7, 99)
    monkeypatch.setattr(mountinfo, "source_devno", lambda _mount: loop99)
    (proc / "7" / "ns").mkdir(parents=True)
    (proc / "7" / "ns" / "mnt").symlink_to("mnt:[7]")
    (proc / "7" / "mountinfo").write_text(RECORDED)
    ((pid, found),) = mountinfo.mounts_elsewhere(loop99, proc=proc)
    assert (pid, found.mount_point) == (7, Path("/home"))


def test_a_swap_file_has_any_name(proc: Path) -> None:
    name = "/srv/a\u00a0b\u2028c\rd"
    header = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
    (proc / "swaps").write_bytes(f"{header}{name}  file\t\t4\t\t0\t\t-2\n".encode())
    (found,) = mountinfo.swaps(proc=proc)
    assert found.path == Path(name)


def test_no_swap_in_the_kernel(proc: Path) -> None:
    assert mountinfo.swaps(proc=proc) == []


def test_users_of_finds_a_working_directory_and_an_open_file() -> None:
    """The mount that holds the tests' directory: this process and a child of it use it."""
    here = Path(__file__).resolve()
    mounted = max(
        (m for m in mountinfo.mounts() if here.is_relative_to(m.mount_point)),
        key=lambda m: len(m.mount_point.parts),
    )
    child = subprocess.Popen(["sleep", "infinity"], cwd=here.parent)
    try:
        with here.open():
            users = {use.pid: use for use in process.users_of(mounted.mount_point)}
    finally:
        child.kill()
        child.wait()
    assert os.getpid() in users
    assert users[child.pid].command == "sleep"
    assert users[child.pid].what.startswith("working directory /")


def test_mounts_in_other_namespaces(tmp_path: Path) -> None:
    """One process stands for a namespace; those of ours, and those that are gone, for none."""
    line = "36 35 8:1 / /srv rw,noatime - ext4 /dev/sda1 rw\n"
    for process_name, namespace, table in (
        ("self", "mnt:[1]", line), ("7", "mnt:[1]", line), ("8", "mnt:[2]", line),
        ("9", "mnt:[2]", line), ("10", "mnt:[3]", "36 35 8:2 / /srv rw - ext4 /dev/sda2 rw\n"),
    ):  # fmt: skip
        directory = tmp_path / process_name
        (directory / "ns").mkdir(parents=True)
        (directory / "ns" / "mnt").symlink_to(namespace)
        (directory / "mountinfo").write_text(table)
    (tmp_path / "11").mkdir()
    found = mountinfo.mounts_elsewhere(os.makedev(8, 1), proc=tmp_path)
    assert [(pid, mount.mount_point) for pid, mount in found] == [(8, Path("/srv"))]


def test_btrfs_in_another_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number is no device's there either: a service with mounts of its own keeps it busy."""
    for name, table in (("self", ""), ("8", "45 21 0:44 / /srv rw - btrfs /dev/loop99 rw\n")):
        (tmp_path / name / "ns").mkdir(parents=True)
        (tmp_path / name / "ns" / "mnt").symlink_to(f"mnt:[{name}]")
        (tmp_path / name / "mountinfo").write_text(table)
    monkeypatch.setattr(mountinfo, "source_devno", lambda _: os.makedev(7, 99))
    found = mountinfo.mounts_elsewhere(os.makedev(7, 99), proc=tmp_path)
    assert [(pid, mount.mount_point) for pid, mount in found] == [(8, Path("/srv"))]
    assert mountinfo.mounts_elsewhere(os.makedev(7, 98), proc=tmp_path) == []


def test_users_of_sees_maps(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "mountinfo").write_text(RECORDED)
    (tmp_path / "77").mkdir()
    (tmp_path / "77" / "comm").write_text("postgres\n")
    (tmp_path / "77" / "maps").write_text(
        "7f00-7f01 r--p 00000000 fd:01 12                         /usr/lib/libc.so.6\n"
        "7f02-7f03 rw-s 00000000 fd:03 99                         /srv/my data/base (deleted)\n"
        "7ffc-7ffd rw-p 00000000 00:00 0                          [stack]\n"
    )
    (use,) = process.users_of(Path("/srv/my data"), proc=tmp_path)
    assert str(use) == "postgres (pid 77, mapped file /srv/my data/base (deleted))"
    assert process.users_of(Path("/mnt/stack"), proc=tmp_path) == []


def test_a_mapped_file_has_any_name(tmp_path: Path) -> None:
    """What looks like a line of its own in it is none; nor a device's number beyond all bounds."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "mountinfo").write_text(RECORDED)
    (tmp_path / "77").mkdir()
    (tmp_path / "77" / "comm").write_text("any\n")
    name = f"/home/a\rb c d {'f' * 30}:1 e /srv/my data/base"
    line = f"7f02-7f03 rw-s 00000000 fd:09 99    {name}\n"
    (tmp_path / "77" / "maps").write_bytes(line.encode())
    assert process.users_of(Path("/srv/my data"), proc=tmp_path) == []


def test_what_keeps_a_mount_busy_and_is_no_process_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel itself has a swap file open, and what a loop device stands on."""
    image, other = str(tmp_path / "image"), "/elsewhere/image"
    loops = SimpleNamespace(loops=lambda: {"loop7": image, "loop8": other})
    monkeypatch.setattr(mount, "SYSFS", loops)
    monkeypatch.setattr(mount, "swaps", lambda: [Swap(tmp_path / "swap", "file", 4096)])
    with pytest.raises(BusyError) as raised:
        mount.unmount(tmp_path, 0, lambda _: errno.EBUSY)
    assert f"kept busy by the swap file {tmp_path}/swap, /dev/loop7 over {image}" in str(
        raised.value
    )
    assert other not in str(raised.value)


def test_who_keeps_a_mount_busy_in_another_namespace_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = parse_line(RECORDED.splitlines()[2])
    monkeypatch.setattr(mount, "mount_at", lambda _, **_proc: top)
    monkeypatch.setattr(mount, "mounts_elsewhere", lambda _: [(os.getpid(), top)])
    with pytest.raises(BusyError, match=rf"\(pid {os.getpid()}\), in whose mount namespace"):
        mount.unmount(tmp_path, 0, lambda _: errno.EBUSY)
    monkeypatch.setattr(mount, "mounts_elsewhere", lambda _: [])
    with pytest.raises(BusyError, match="an overlay"):
        mount.unmount(tmp_path, 0, lambda _: errno.EBUSY)


def test_command_of_a_process_that_is_gone(tmp_path: Path) -> None:
    assert process.command_of(1, proc=tmp_path) == "?"


def test_openers_ignore_everything_but_devices() -> None:
    with socket.socket(), Path(sys.executable).open("rb"):
        assert process.openers_of(os.makedev(4095, 4095)) == []


def test_of_who_has_a_device_open_no_maps_are_read(tmp_path: Path) -> None:
    """Of a process that waits for a disk they may wait as well."""
    (tmp_path / "7").mkdir()
    os.mkfifo(tmp_path / "7" / "maps")  # opening it to read would wait for a writer
    asking = threading.Thread(target=lambda: process.openers_of(1, proc=tmp_path), daemon=True)
    asking.start()
    asking.join(10)
    assert not asking.is_alive()


def test_the_mount_that_holds_a_path_is_the_kernels_word(tmp_path: Path) -> None:
    """Whatever the temporary directory lies on: the mount's number is what statx would say."""
    found = mountinfo.mount_holding(tmp_path)
    assert found is not None
    assert tmp_path.is_relative_to(found.mount_point)
    deeper = [m for m in mountinfo.mounts() if tmp_path.is_relative_to(m.mount_point)]
    assert max(len(m.mount_point.parts) for m in deeper) == len(found.mount_point.parts)
