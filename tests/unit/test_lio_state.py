"""What LIO publishes, read from a directory tree as configfs shows it."""

import os
from pathlib import Path

import pytest

from dmsnap.errors import ForeignDeviceError
from dmsnap.host.lio import state, target
from dmsnap.host.lio.state import Backstore

IQN = f"{state.IQN_PREFIX}srv-0a1b2c3d"
INITIATOR = "iqn.2026-01.org.example:there"
INFO = """Status: ACTIVATED  Max Queue Depth: 128  SectorSize: 512  HwMaxSectors: 2048
        iBlock device: dm-3  UDEV PATH: /dev/dm-3  readonly: {read_only}
        Major: 254 Minor: 3  CLAIMED: IBLOCK
"""
SERIAL = "3f2a9a52-8a4e-4a1f-8a0e-7a9d1c1f2b3c"


@pytest.fixture
def configfs(tmp_path: Path) -> Path:
    return tmp_path / "config"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def backstore(configfs: Path, number: int, name: str, *, read_only: int = 0) -> Path:
    directory = configfs / "target" / "core" / f"iblock_{number}" / name
    write(directory / "enable", "1\n")
    write(directory / "info", INFO.format(read_only=read_only))
    write(directory / "wwn" / "vpd_unit_serial", f"T10 VPD Unit Serial Number: {SERIAL}\n")
    return directory


def group(configfs: Path) -> Path:
    return configfs / "target" / "iscsi" / IQN / "tpgt_1"


def test_nothing_where_lio_is_not_loaded(configfs: Path) -> None:
    assert state.backstores(configfs=configfs) == []
    assert not state.has_target(IQN, configfs=configfs)
    assert not state.is_enabled(IQN, configfs=configfs)
    assert state.backstore_of_lun(IQN, 0, configfs=configfs) is None
    assert state.portals(IQN, configfs=configfs) == []
    assert state.sessions(IQN, configfs=configfs) == []
    assert not state.is_write_protected(IQN, 0, configfs=configfs)


def test_backstores_are_told_apart_by_device_and_mark(configfs: Path) -> None:
    backstore(configfs, 0, "dmsnap-0a1b2c3d4e5f-1", read_only=1)
    backstore(configfs, 7, "somebody-elses")
    ours, others = state.backstores(configfs=configfs)
    devno = os.makedev(254, 3)
    assert ours == Backstore("dmsnap-0a1b2c3d4e5f-1", devno, SERIAL, True)
    assert ours.is_ours
    assert not others.is_ours
    assert state.backstores_on(devno, configfs=configfs) == [ours, others]
    assert state.backstores_on(os.makedev(254, 4), configfs=configfs) == []
    assert state.find_backstore("somebody-elses", configfs=configfs) == others


def test_a_backstore_that_was_cut_off_has_no_device(configfs: Path) -> None:
    directory = configfs / "target" / "core" / "iblock_0" / "dmsnap-0a1b2c3d4e5f-1"
    write(directory / "enable", "0\n")
    assert state.backstores(configfs=configfs) == [Backstore(directory.name, None, "", False)]
    (directory / "enable").unlink()  # it goes away while it is read
    assert state.backstores(configfs=configfs) == []


def test_a_target_its_lun_its_portal_and_who_is_logged_in(configfs: Path) -> None:
    store = backstore(configfs, 0, "dmsnap-0a1b2c3d4e5f-2")
    write(group(configfs) / "enable", "1\n")
    (group(configfs) / "np" / "[::1]:3260").mkdir(parents=True)
    (group(configfs) / "lun" / "lun_0").mkdir(parents=True)
    (group(configfs) / "lun" / "lun_0" / "alias").symlink_to(store)
    acl = group(configfs) / "acls" / INITIATOR
    write(acl / "lun_0" / "write_protect", "1\n")
    write(acl / "info", "No active iSCSI Session for Initiator Endpoint: there\n")
    assert state.is_enabled(IQN, configfs=configfs)
    assert state.portals(IQN, configfs=configfs) == ["[::1]:3260"]
    assert state.backstore_of_lun(IQN, 0, configfs=configfs) == "dmsnap-0a1b2c3d4e5f-2"
    assert state.backstore_of_lun(IQN, 1, configfs=configfs) is None
    assert state.is_write_protected(IQN, 0, configfs=configfs)
    assert state.sessions(IQN, configfs=configfs) == []
    write(acl / "info", f"InitiatorName: {INITIATOR}\n")
    assert state.sessions(IQN, configfs=configfs) == [INITIATOR]


def test_one_initiator_that_may_write_is_enough(configfs: Path) -> None:
    for name, text in (("a", "1\n"), ("b", "0\n")):
        write(group(configfs) / "acls" / name / "lun_0" / "write_protect", text)
    assert not state.is_write_protected(IQN, 0, configfs=configfs)


def test_what_is_not_ours_is_never_removed() -> None:
    with pytest.raises(ForeignDeviceError, match="does not begin with dmsnap-"):
        target.remove_backstore("somebody-elses")
    with pytest.raises(ForeignDeviceError, match="is not dmsnap's"):
        target.remove_target("iqn.2003-01.org.linux-iscsi.host:sn.1")
    with pytest.raises(ForeignDeviceError):
        target.enable("iqn.2003-01.org.linux-iscsi.host:sn.1")
