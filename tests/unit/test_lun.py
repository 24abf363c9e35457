"""LUNs by name, and finding their disks in a tree like sysfs."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from catalogue_samples import a_volume

from dmsnap.catalogue.model import VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import (
    BusyError,
    ForeignDeviceError,
    NotFoundError,
    UnreachableError,
    WrongWordError,
)
from dmsnap.host import blockdev, iscsi, iscsi_session, lun, lun_path, scsi, udev
from dmsnap.host import sysfs as sysfs_module
from dmsnap.host.lun import LunName
from dmsnap.host.portal import Portal
from dmsnap.host.sysfs import Sysfs
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.luns import luns, session_use
from dmsnap.service.luns.luns import Wanted
from dmsnap.service.session import Session

TARGET = "iqn.2003-01.org.example:store"
WWID = "naa.60014056223671984464ef99a019d710"
NAME = f"iscsi://192.0.2.7/{TARGET}/1"


@pytest.mark.parametrize(
    ("text", "portal", "number"),
    [
        (NAME, Portal("192.0.2.7", 3260), 1),
        (f"iscsi://192.0.2.7:3261/{TARGET}/0", Portal("192.0.2.7", 3261), 0),
        (f"iscsi://[2001:DB8::1]:860/{TARGET}/255", Portal("2001:db8::1", 860), 255),
    ],
)
def test_a_name_is_read_and_written(text: str, portal: Portal, number: int) -> None:
    name = LunName.parse(text)
    assert (name.portal, name.target, name.lun, name.wwid) == (portal, TARGET, number, "")
    assert LunName.parse(str(name)) == name


@pytest.mark.parametrize("wwid", [WWID, "t10.ATA     a disk #1 / 100%", "eui.0123456789abcdef"])
def test_an_identity_survives_being_written(wwid: str) -> None:
    name = LunName.parse(NAME).identified(wwid)
    assert LunName.parse(str(name)).wwid == wwid
    assert str(name).count("/") == 4


@pytest.mark.parametrize(
    "text",
    [
        "/dev/sda",
        "iscsi://",
        f"iscsi://192.0.2.7/{TARGET}",
        f"iscsi://192.0.2.7/{TARGET}/1/2",
        f"iscsi://192.0.2.7/{TARGET}/-1",
        f"iscsi://192.0.2.7/{TARGET}/99999",
        f"iscsi://192.0.2.7:0/{TARGET}/1",
        f"iscsi://192.0.2.7:70000/{TARGET}/1",
        f"iscsi://192.0.2/{TARGET}/1",
        f"iscsi://store.example/{TARGET}/1",
        f"iscsi://2001:db8::1/{TARGET}/1",
        "iscsi://192.0.2.7/../1",
        "iscsi://192.0.2.7/iqn.2003-01.org.example:*/1",
        "iscsi://192.0.2.7/IQN.2003-01.org.example:x/1",
    ],
)
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(WrongWordError):
        LunName.parse(text)


class Tree:
    """sysfs with iSCSI sessions, as the kernel lays it out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sysfs = Sysfs(root)
        for directory in ("class/iscsi_session", "class/scsi_device", "dev/block", "block"):
            (root / directory).mkdir(parents=True)

    def session(self, number: int, address: str = "192.0.2.7", state: str = "LOGGED_IN") -> Path:
        device = self.root / f"devices/platform/host{number}/session{number}"
        connection = device / f"connection{number}:0/iscsi_connection/connection{number}:0"
        write(connection, persistent_address=address, persistent_port="3260")
        session = device / f"iscsi_session/session{number}"
        write(session, targetname=TARGET, state=state)
        (session / "device").symlink_to(device)
        (self.root / f"class/iscsi_session/session{number}").symlink_to(session)
        return device

    def disk(
        self, session: Path, minor: int, *, wwid: str = WWID, size: int = 8, state: str = "running"
    ) -> Path:
        host = session.parent.name.removeprefix("host")
        device = session / f"target{host}:0:0" / f"{host}:0:0:1"
        write(device, wwid=wwid, state=state)
        block = device / f"block/sd{chr(97 + minor)}"
        write(block, dev=f"8:{minor}", size=str(size))
        (block / "holders").mkdir()
        (self.root / f"dev/block/8:{minor}").symlink_to(block)
        scsi = self.root / f"class/scsi_device/{device.name}"
        scsi.mkdir()
        (scsi / "device").symlink_to(device)
        return block

    def multipath(self, *paths: Path) -> None:
        block = self.root / "block/dm-0"
        write(block, dev="253:0", size="8")
        write(block / "dm", uuid="mpath-3600140562236719844", name="mpatha")
        (self.root / "dev/block/253:0").symlink_to(block)
        for name in ("holders", "slaves"):
            (block / name).mkdir(exist_ok=True)
        for path in paths:
            (path / "holders/dm-0").symlink_to(block)
            (block / "slaves" / path.name).symlink_to(path)


def write(directory: Path, **attributes: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in attributes.items():
        (directory / name).write_text(f"{text}\n")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def node(tree: Tree, name: str = f"{NAME}#{WWID}") -> Path:
    return lun.node(name, sysfs=tree.sysfs)


def test_a_path_names_itself(tree: Tree) -> None:
    assert node(tree, "/dev/disk/by-id/x") == Path("/dev/disk/by-id/x")


def test_a_disk_is_found_from_its_session(tree: Tree) -> None:
    tree.disk(tree.session(3, address="192.0.2.8"), 0, wwid="naa.2")
    tree.disk(tree.session(4), 1)
    assert node(tree) == Path("/dev/sdb")
    assert node(tree, NAME) == Path("/dev/sdb")


def test_a_disk_is_named_by_its_target(tree: Tree) -> None:
    """Also where multipath lies over it; a disk of the host itself has no such name."""
    first, second = tree.disk(tree.session(3), 0), tree.disk(tree.session(4, "192.0.2.8"), 1)
    named = lun.name_of(os.makedev(8, 0), sysfs=tree.sysfs)
    assert named == LunName.parse(NAME).identified(WWID)
    assert lun.name_of(os.makedev(8, 16), sysfs=tree.sysfs) is None
    tree.multipath(first, second)
    assert lun.name_of(os.makedev(253, 0), sysfs=tree.sysfs) == named


def test_a_disk_that_does_not_say_who_it_is_is_in_nobodys_way(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel has no file for it to read: a USB stick, or a virtual disk."""
    tree.disk(tree.session(1), 1)
    stick = tree.disk(tree.session(2, address="192.0.2.8"), 0)
    content = sysfs_module._content

    def read(path: str) -> bytes:
        if path == f"{stick.parents[1]}/wwid":
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return content(path)

    monkeypatch.setattr(sysfs_module, "_content", read)
    assert node(tree) == Path("/dev/sdb")
    assert [disk.wwid() for disk in scsi.disks(sysfs=tree.sysfs)] == [WWID, ""]


@pytest.mark.parametrize("below", ["disk", "partition"])
def test_a_session_is_used_by_whoever_uses_a_partition_of_its_disks(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    session = tree.session(1)
    disk = tree.disk(session, 0)
    write(disk / "sda1", dev="8:1", partition="1", size="4")
    (disk / "sda1/holders").mkdir()
    (tree.root / "dev/block/8:1").symlink_to(disk / "sda1")
    used = os.makedev(8, int(below == "partition"))
    monkeypatch.setattr(session_use, "SYSFS", tree.sysfs)
    monkeypatch.setattr(udev, "settle", lambda: None)
    for name in ("describe_users_of", "lasting_users"):
        monkeypatch.setattr(blockdev, name, lambda devno: "x" * (devno == used))
    (current,) = iscsi_session.sessions(sysfs=tree.sysfs)
    assert session_use.is_used(current)
    assert session_use.is_held(current)
    used = os.makedev(8, 16)
    assert not session_use.is_used(current)
    assert not session_use.is_held(current)


def test_a_session_is_used_by_whoever_uses_the_map_over_its_disks(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The map alone is nobody's use of it; multipathd, which has each path open, is none either."""
    disk = tree.disk(tree.session(1), 0)
    tree.multipath(disk)
    path, over = os.makedev(8, 0), os.makedev(253, 0)
    users = {path: ["held by dm-0 (mpatha)"], over: list[str]()}
    monkeypatch.setattr(session_use, "SYSFS", tree.sysfs)
    monkeypatch.setattr(udev, "settle", lambda: None)
    for name in ("describe_users_of", "lasting_users"):
        monkeypatch.setattr(blockdev, name, lambda devno: users[devno])
    (current,) = iscsi_session.sessions(sysfs=tree.sysfs)
    assert not session_use.is_used(current)
    assert not session_use.is_held(current)
    users[over].append("mounted on /srv")
    assert session_use.is_used(current)
    assert session_use.is_held(current)


def test_a_session_that_is_up_comes_first(tree: Tree) -> None:
    tree.disk(tree.session(1, state="FAILED"), 0, state="transport-offline")
    tree.disk(tree.session(2), 1)
    assert node(tree) == Path("/dev/sdb")


@pytest.mark.parametrize("name", ["default", "(null)", None])
def test_of_two_that_are_up_the_one_by_our_interface_comes_first(
    tree: Tree, name: str | None
) -> None:
    for number, interface in ((1, "offload"), (2, name)):
        tree.disk(tree.session(number), number)
        session = tree.root / f"class/iscsi_session/session{number}"
        if interface is not None:
            write(session, ifacename=interface)
    found = iscsi_session.find(Portal("192.0.2.7", 3260), TARGET, sysfs=tree.sysfs)
    assert [each.interface for each in found] == ["default", "offload"]
    assert [luns.may_be_ours(each) for each in found] == [True, False]
    assert node(tree) == Path("/dev/sdc")


def test_sessions_of_other_interfaces_are_not_ended(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, interface in ((1, "offload"), (2, "default")):
        tree.session(number)
        write(tree.root / f"class/iscsi_session/session{number}", ifacename=interface)
    name, ended = LunName.parse(NAME), list[int]()
    sessions = iscsi_session.sessions(sysfs=tree.sysfs)
    monkeypatch.setattr(iscsi_session, "find", lambda *_: sessions)
    monkeypatch.setattr(luns, "is_needed", lambda *_: False)
    monkeypatch.setattr(iscsi, "logout", ended.append)
    monkeypatch.setattr(iscsi, "delete_record", lambda *_: None)
    session = Session(Configuration(state_directory=tmp_path), cast(Catalogue, None))
    luns.marks(session).mkdir()
    luns.mark_of(session, name).write_text("srv")
    luns.release(session, name)
    assert ended == [2]


def test_who_mounts_a_disk_while_another_session_is_waited_for_keeps_both(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two by one record, of which the first was in nobody's use when that was asked."""
    for number in (1, 2):
        tree.session(number)
    name, ended, given = LunName.parse(NAME), list[int](), list[LunName]()
    sessions = iscsi_session.sessions(sysfs=tree.sysfs)
    mounted, looked_at = set[int](), [2]

    def is_used(found: iscsi_session.IscsiSession) -> bool:
        if found.number in looked_at:
            looked_at.clear()
            mounted.add(1)
            return True
        return found.number in mounted

    monkeypatch.setattr(iscsi_session, "find", lambda *_: sessions)
    monkeypatch.setattr(luns, "is_needed", lambda *_: False)
    monkeypatch.setattr(luns, "may_be_ours", lambda _: True)
    monkeypatch.setattr(session_use, "is_used", is_used)
    monkeypatch.setattr(session_use, "is_held", lambda found: found.number in mounted)
    monkeypatch.setattr(luns, "give_away", lambda _session, lun_name: given.append(lun_name))
    monkeypatch.setattr(iscsi, "logout", ended.append)
    monkeypatch.setattr(iscsi, "delete_record", lambda *_: None)
    session = Session(Configuration(state_directory=tmp_path), cast(Catalogue, None))
    luns.marks(session).mkdir()
    luns.mark_of(session, name).write_text("srv")
    luns.release(session, name)
    assert (ended, given) == ([], [name])


def test_a_lost_path_is_not_what_a_map_is_used_by(tree: Tree) -> None:
    """Nor is one whose session has ended; with every path lost, there is nothing to be read."""
    known = f"{NAME}#{WWID}"
    first = tree.disk(tree.session(1, state="FAILED"), 0, state="transport-offline")
    second = tree.disk(tree.session(2, address="192.0.2.8"), 1)
    with pytest.raises(UnreachableError):
        lun.node(known, sysfs=tree.sysfs)
    tree.multipath(first, second)
    assert lun.node(known, sysfs=tree.sysfs) == Path("/dev/dm-0")
    gone = LunName.parse(f"iscsi://192.0.2.9/{TARGET}/1#{WWID}")
    assert lun.node(str(gone), sysfs=tree.sysfs) == Path("/dev/dm-0")
    with pytest.raises(NotFoundError):  # it might be any LUN
        lun.node(str(replace(gone, wwid="")), sysfs=tree.sysfs)
    write(second.parents[1], state="blocked")
    with pytest.raises(UnreachableError):
        lun.node(known, sysfs=tree.sysfs)


def test_a_path_of_a_map_is_refused_and_the_map_named(tree: Tree) -> None:
    """Also one that it has not claimed, and a partition of one."""
    first, second = tree.disk(tree.session(1), 0), tree.disk(tree.session(2, "192.0.2.8"), 1)
    other = tree.disk(tree.session(3, "192.0.2.9"), 3, wwid="naa.6001405ffff")
    write(second / "sdb1", dev="8:17", partition="1", size="4")
    (tree.root / "dev/block/8:17").symlink_to(second / "sdb1")
    for minor in (0, 1, 17, 3):
        lun_path.require_no_path(os.makedev(8, minor), sysfs=tree.sysfs)
    tree.multipath(first)
    for minor, name in ((0, "sda"), (1, "sdb"), (17, "sdb1")):
        with pytest.raises(BusyError, match=f"{name} is a path of .*/dev/mapper/mpatha") as refusal:
            lun_path.require_no_path(os.makedev(8, minor), sysfs=tree.sysfs)
        assert refusal.value.hint == "use /dev/mapper/mpatha"
    assert other.name == "sdd"
    for free in (os.makedev(8, 3), os.makedev(253, 0)):
        lun_path.require_no_path(free, sysfs=tree.sysfs)


def test_without_a_session_or_a_disk_there_is_none(tree: Tree) -> None:
    with pytest.raises(NotFoundError, match="no session"):
        node(tree)
    session = tree.session(1)
    with pytest.raises(NotFoundError, match="has no LUN 1"):
        node(tree)
    tree.disk(session, 0, size=0)
    with pytest.raises(NotFoundError, match="not mapped any more"):
        node(tree)


def test_another_device_is_refused(tree: Tree) -> None:
    tree.disk(tree.session(1), 0, wwid="naa.other")
    with pytest.raises(ForeignDeviceError, match=f"is naa.other now, expected {WWID}"):
        node(tree)


@pytest.mark.parametrize("state", ["blocked", "transport-offline", "offline"])
def test_a_disk_that_would_hang_is_not_touched(tree: Tree, state: str) -> None:
    tree.disk(tree.session(1), 0, state=state)
    with pytest.raises(UnreachableError, match=state):
        node(tree)


def test_dm_multipath_is_used_in_place_of_its_paths(tree: Tree) -> None:
    first, second = tree.disk(tree.session(1), 0), tree.disk(tree.session(2), 1)
    assert os.fspath(node(tree)) == "/dev/sda"
    tree.multipath(first, second)
    assert node(tree) == Path("/dev/dm-0")


def test_a_path_beside_dm_multipath_is_refused(tree: Tree) -> None:
    first = tree.disk(tree.session(1), 0)
    tree.disk(tree.session(2), 1)
    tree.multipath(first)
    with pytest.raises(BusyError, match=r"not sdb$"):
        node(tree)


def test_a_map_that_leads_to_another_device_as_well_is_refused(tree: Tree) -> None:
    """A LUN was mapped to something else, and one path says so already: the map has it still."""
    first, second = tree.disk(tree.session(1), 0), tree.disk(tree.session(2, "192.0.2.8"), 1)
    tree.multipath(first, second)
    assert node(tree) == Path("/dev/dm-0")
    write(first.parents[1], wwid="naa.6001405ffff")
    for name in (f"{NAME}#{WWID}", f"iscsi://192.0.2.8/{TARGET}/1#{WWID}"):
        with pytest.raises(ForeignDeviceError, match=r"mpatha has paths to other devices: sda$"):
            lun.node(name, sysfs=tree.sysfs)


def test_a_path_whose_map_is_not_there_is_refused(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """multipathd is to have it: it may make its map in any moment."""
    disk = tree.disk(tree.session(1), 0)
    write(disk / "sda1", dev="8:1", partition="1", size="4")
    (tree.root / "dev/block/8:1").symlink_to(disk / "sda1")
    claimed = {os.makedev(8, 0), os.makedev(8, 1)}
    monkeypatch.setattr(udev, "has_property", lambda devno, _: devno in claimed)
    for devno in sorted(claimed):
        with pytest.raises(BusyError, match="multipathd is to have"):
            lun_path.require_no_path(devno, sysfs=tree.sysfs)
    claimed.clear()
    lun_path.require_no_path(os.makedev(8, 0), sysfs=tree.sysfs)


def test_every_path_to_a_lun_is_found_from_any(tree: Tree) -> None:
    first, second = tree.disk(tree.session(1), 0), tree.disk(tree.session(2, "192.0.2.8"), 1)
    tree.disk(tree.session(3, "192.0.2.9"), 3, wwid="naa.6001405ffff")
    paths = [os.makedev(8, 0), os.makedev(8, 1)]
    for devno in paths:
        assert lun_path.to_same(devno, sysfs=tree.sysfs) == paths
    tree.multipath(first, second)
    assert lun_path.to_same(os.makedev(253, 0), sysfs=tree.sysfs) == paths
    assert lun_path.to_same(os.makedev(8, 3), sysfs=tree.sysfs) == [os.makedev(8, 3)]
    write(second.parents[1], state="blocked")  # whoever looks at it would hang
    assert lun_path.to_same(os.makedev(253, 0), sysfs=tree.sysfs) == paths[:1]


def test_the_path_that_names_a_lun_at_boot(tree: Tree) -> None:
    """Where dm-multipath has it, a path cannot be mounted."""
    name = LunName.parse(f"{NAME}#{WWID}")
    first, second = tree.disk(tree.session(1), 0), tree.disk(tree.session(2, "192.0.2.8"), 1)
    assert lun.lasting_path(name, sysfs=tree.sysfs) == name.link
    tree.multipath(first, second)
    assert lun.lasting_path(name, sysfs=tree.sysfs) == Path(
        "/dev/disk/by-id/dm-uuid-mpath-3600140562236719844"
    )
    write(first.parents[1], wwid="naa.6001405ffff")
    assert lun.lasting_path(name, sysfs=tree.sysfs) == name.link


# attaching what a command needs


@pytest.mark.parametrize("wanted", list(Wanted))
def test_a_lost_recovery_volume_keeps_nobody_from_the_primary(
    monkeypatch: pytest.MonkeyPatch, wanted: Wanted
) -> None:
    """In a trial the front lies over it: what goes back to the volume itself does without."""

    def attach(*_: object) -> LunName:
        raise UnreachableError("the session is lost")

    monkeypatch.setattr(luns, "attach", attach)
    session = cast(Session, None)
    name = str(LunName.parse(f"{NAME}#{WWID}"))
    volume = replace(a_volume(), state=VolumeState.TRIAL, recovery=name)
    if wanted in (Wanted.PRIMARY, Wanted.THERE, Wanted.NONE):
        luns.attach_all(session, volume, wanted)
    else:
        with pytest.raises(UnreachableError):
            luns.attach_all(session, volume, wanted)
    promoted = replace(volume, state=VolumeState.PROMOTED, backing=name, recovery=None)
    if wanted in (Wanted.RECOVERY, Wanted.REPLICA, Wanted.THERE, Wanted.NONE):
        luns.attach_all(session, promoted, wanted)
    else:
        with pytest.raises(UnreachableError):
            luns.attach_all(session, promoted, wanted)


def test_what_a_killed_writer_left_is_no_mark(tmp_path: Path) -> None:
    """Whoever holds any volume looks through the marks."""
    session = Session(Configuration(state_directory=tmp_path), cast(Catalogue, None))
    luns.marks(session).mkdir()
    (luns.marks(session) / f".{TARGET},192.0.2.7:3260.dmsnap-0123abcd").write_text("srv\n")
    luns.release_strays(session, "srv")


def test_a_mark_that_another_command_removes_just_then_is_none(tmp_path: Path) -> None:
    session = Session(Configuration(state_directory=tmp_path), cast(Catalogue, None))
    luns.marks(session).mkdir()
    # Listed, and not to be read: as one that went in between.
    (luns.marks(session) / f"{TARGET},192.0.2.7:3260").symlink_to("gone")
    luns.release_strays(session, "srv")


def test_a_lost_primary_is_not_even_asked_for_by_what_recovers_the_volume(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor by the commit of what was recovered; by that of a trial over a live point it is."""
    asked: list[str] = []
    monkeypatch.setattr(luns, "attach", lambda _session, name, _owner: asked.append(str(name)))
    session = cast(Session, None)
    primary, recovery = (str(LunName.parse(f"{NAME[:-1]}{lun}#{WWID}")) for lun in (1, 2))
    volume = replace(a_volume(), backing=primary, recovery=recovery)
    trial = replace(volume, state=VolumeState.TRIAL)
    luns.attach_all(session, volume, Wanted.RECOVERY)
    luns.attach_all(session, trial, Wanted.SERVING_ALONE)
    assert asked == [recovery, recovery]
    luns.attach_all(session, replace(trial, trial_live=True), Wanted.SERVING_ALONE)
    assert asked[2:] == [primary]


@pytest.mark.parametrize("is_path", [True, False])
def test_multipathd_is_waited_for_where_it_is_to_have_the_disk(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, is_path: bool
) -> None:
    asked: list[tuple[str, bool]] = []

    def has_property(devno: int, line: str) -> bool:
        asked.append((line, devno == os.makedev(8, 0)))
        return is_path

    def wait(done: Callable[[], bool], seconds: float) -> bool:
        assert seconds < 60
        assert not done()
        tree.multipath(block)
        assert done()
        return True

    block = tree.disk(tree.session(1), 0)
    monkeypatch.setattr(udev, "has_property", has_property)
    monkeypatch.setattr(udev, "wait_for_uevent", wait)
    lun_path.await_map(scsi.disks(sysfs=tree.sysfs)[0], sysfs=tree.sysfs)
    assert asked == [("DM_MULTIPATH_DEVICE_PATH=1", True)]
    assert (tree.root / "block/dm-0").exists() == is_path


def test_a_path_that_multipathd_has_not_taken_yet_is_waited_for(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has just logged in by another portal: that is no reason to refuse a command."""
    first, second = tree.disk(tree.session(1), 0), tree.disk(tree.session(2, "192.0.2.8"), 1)
    disk = scsi.disks(sysfs=tree.sysfs)[0]
    assert not lun_path.is_partly_mapped(disk, sysfs=tree.sysfs)
    tree.multipath(first)
    assert lun_path.is_partly_mapped(disk, sysfs=tree.sysfs)

    def wait(done: Callable[[], bool], _seconds: float) -> bool:
        assert not done()
        (second / "holders/dm-0").symlink_to(tree.root / "block/dm-0")
        assert done()
        return True

    monkeypatch.setattr(udev, "has_property", lambda *_: True)
    monkeypatch.setattr(udev, "wait_for_uevent", wait)
    lun_path.await_map(disk, sysfs=tree.sysfs)
    assert not lun_path.is_partly_mapped(disk, sysfs=tree.sysfs)


def test_what_udev_says_of_a_disk(tmp_path: Path) -> None:
    (tmp_path / "b8:16").write_text("S:disk/by-id/x\nE:DM_MULTIPATH_DEVICE_PATH=1\nG:systemd\n")
    for minor, line, says in ((16, "=1", True), (16, "=", False), (0, "=1", False)):
        known = f"DM_MULTIPATH_DEVICE_PATH{line}"
        assert udev.has_property(os.makedev(8, minor), known, database=tmp_path) == says
