"""Where what a label describes is mounted: labels come from other hosts, and from anybody."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from test_apply import first_label

from dmsnap._native.label import HistoryEntry, HistoryFlag, Label, LabelState
from dmsnap.errors import (
    BusyError,
    CorruptError,
    ForeignDeviceError,
    NotFoundError,
    WrongStateError,
)
from dmsnap.extent import Extent
from dmsnap.host import kernel, lun, mount, reach, signature
from dmsnap.host.blockdev import BlockDevice
from dmsnap.recovery import replica
from dmsnap.service.swaps import from_label, label_admission
from dmsnap.service.swaps.label_admission import LabelRequest

HERE, THERE = uuid4(), uuid4()


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "machine_id", lambda: HERE)


def described(place: Path) -> Label:
    label = first_label(Extent(0, 1))
    return replace(label, host_uuid=THERE, fs_type="ext4", mount_point=str(place))


def asked(mount_point: Path | None = None) -> LabelRequest:
    return LabelRequest(Path("/dev/null"), "store", mount=mount_point)


def test_a_label_of_another_host_covers_no_directory_with_something_in_it(tmp_path: Path) -> None:
    found = described(tmp_path)
    (record,) = label_admission.mounts_for(asked(), found)
    assert record.mount_point == str(tmp_path)
    (tmp_path / "shadow").write_text("precious")
    with pytest.raises(WrongStateError, match="has something in it"):
        label_admission.mounts_for(asked(), found)
    assert label_admission.mounts_for(asked(tmp_path), found) == (record,)
    assert label_admission.mounts_for(asked(), replace(found, host_uuid=HERE)) == (record,)


@pytest.mark.parametrize("fs_type", ["fuse.bash", "", "ext4 -o", "../ext4", "ext4\n"])
def test_a_type_that_is_none_reaches_no_program(fs_type: str, tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match="no type of a file system"):
        mount.mount(Path("/dev/null"), tmp_path, fs_type)


# a label that is looked at again


def test_what_was_planned_for_is_claimed_and_nothing_else() -> None:
    """Whoever is given up by force may go on writing until the claim: what is shown would be a
    mixture, by undo stores that are others by then.
    """
    found = replace(first_label(Extent(0, 1)), state=LabelState.CONSISTENT)
    label_admission.require_same(Path("/dev/x"), found, found)
    entry = HistoryEntry(uuid4(), 1, 0, 4096, 8, HistoryFlag(0))
    changes: list[dict[str, Any]] = [
        {"state": LabelState.APPLYING, "history": (entry,)},  # settled it would be the same again
        {"point_uuid": uuid4()},
        {"generation": found.generation + 1},  # a sign of life of who was taken as dead
        {"history": (entry,)},
    ]
    for change in changes:
        with pytest.raises(BusyError, match="was written to since"):
            label_admission.require_same(Path("/dev/x"), found, replace(found, **change))


def test_a_job_is_begun_anew_with_what_it_was_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its device may have another disk's name after a boot."""
    found = first_label(Extent(0, 1))
    reached: list[str] = []

    def locked(_names: object) -> None:
        reached.append("locked")
        raise StopIteration

    session: Any = SimpleNamespace(locked=locked)
    monkeypatch.setattr(replica, "read_label", lambda _: found)
    words: dict[str, Any] = {
        "device": "/dev/sdb", "mount": None, "store": "s", "to": None, "force": True,
        "name": found.name, "dry_run": False,
    }  # fmt: skip
    for other in ({"recovery_id": str(uuid4())}, {"name": "another"}):
        with pytest.raises(ForeignDeviceError, match="/dev/sdb is recovery volume"):
            from_label.again(session, **words | other)
    assert reached == []
    for same in ({}, {"recovery_id": str(found.recovery_uuid)}):
        with pytest.raises(StopIteration):
            from_label.again(session, **words | same)
    assert reached == ["locked"] * 2


# the volume's own device


@pytest.fixture
def primary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Label:
    """The label of a volume whose device is a LUN, and there."""
    node = tmp_path / "node"
    found = first_label(Extent(0, 1))
    device = BlockDevice(node, 0x800, found.size_bytes, 512, False)
    nodes = {"iscsi://192.0.2.7:3260/iqn.2003-01.org.example:a/1#naa.6": node}
    monkeypatch.setattr(lun, "node", lambda name: nodes[name])
    monkeypatch.setattr(BlockDevice, "probe", lambda path: {node: device}[path])
    monkeypatch.setattr(replica, "read_label", lambda _: None)
    monkeypatch.setattr(signature, "probe", lambda _: None)
    monkeypatch.setattr(reach, "reads", lambda path, _: path == node)
    return replace(found, host_uuid=HERE, device=next(iter(nodes)))


def test_a_lun_is_known_as_the_volumes_device(primary: Label) -> None:
    assert label_admission.primary_of(primary, 1.0) == (primary.device, None)


def test_a_device_that_hangs_is_given_up(
    primary: Label, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reach, "reads", lambda *_: False)
    monkeypatch.setattr(replica, "read_label", lambda _: pytest.fail("it is read"))
    assert label_admission.primary_of(primary, 1.0) == ("", None)
    assert "does not answer" in caplog.text


def test_what_is_no_block_device_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A label names what it likes: who opens a pipe hangs, who opens a watchdog is rebooted."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    opened: list[object] = []

    def reads(path: Path, _patience_seconds: float) -> bool:
        opened.append(path)
        return False

    monkeypatch.setattr(reach, "reads", reads)
    found = replace(first_label(Extent(0, 1)), host_uuid=HERE, device=str(pipe))
    assert label_admission.primary_of(found, 1.0) == ("", None)
    link = tmp_path / "link"
    link.symlink_to(pipe)
    for device in (link, Path("/dev/null"), tmp_path, tmp_path / "missing"):
        named = replace(found, device=str(device))
        assert label_admission.primary_of(named, 1.0) == ("", None)
    assert opened == []
    assert caplog.text == ""


def test_a_lun_that_is_not_there_is_given_up(
    primary: Label, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_name: str) -> Path:
        raise NotFoundError("there is no session")

    monkeypatch.setattr(lun, "node", missing)
    assert label_admission.primary_of(primary, 1.0) == ("", None)
