"""Labels on all devices, of which one may hang: who reads that one could not be ended."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from test_history import a_label

from dmsnap._native.label import Label
from dmsnap.errors import CorruptError, NotFoundError
from dmsnap.host import asker, reach
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.sysfs import Sysfs
from dmsnap.recovery import replica, search

A_MINUTE = 60.0


@pytest.fixture
def devices(tmp_path: Path) -> list[Path]:
    """One that can be read, one that cannot, one that is not there."""
    (tmp_path / "disk").write_bytes(bytes(8192))
    (tmp_path / "directory").mkdir()
    return [tmp_path / name for name in ("disk", "directory", "missing")]


def test_what_fails_answers(devices: list[Path]) -> None:
    assert reach.silent([], A_MINUTE) == []
    assert reach.silent(devices * 40, A_MINUTE) == []
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_what_hangs_keeps_nobody_waiting(devices: list[Path], tmp_path: Path) -> None:
    """As opening a pipe does that nobody writes to."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert pipe in reach.silent([pipe, *devices, pipe], 0.3)
    os.waitpid(-1, 0)  # who was left behind was killed


def test_nobody_joins_who_waits_still(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    device = tmp_path / "disk"
    device.write_bytes(bytes(8192))
    monkeypatch.setattr(reach, "_asker", lambda _device: "ask-801")
    monkeypatch.setattr(asker, "waiting", lambda seconds: {"ask-801"} if seconds > 1 else set())
    assert reach.silent([device], A_MINUTE) == [device]
    monkeypatch.setattr(asker, "waiting", lambda _seconds: {"ask-802"})
    assert reach.silent([device], A_MINUTE) == []


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes disks."""
    root = tmp_path / "sys"
    (root / "class" / "block").mkdir(parents=True)
    (root / "dev" / "block").mkdir(parents=True)
    monkeypatch.setattr(search, "SYSFS", Sysfs(root))

    def add(name: str, devno: str, **attributes: str) -> None:
        disk = root / "class" / "block" / name
        disk.mkdir()
        (disk / "dev").write_text(devno)
        (disk / "size").write_text("64")
        for key, value in attributes.items():
            path = disk / key.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(value)
        (root / "dev" / "block" / devno).symlink_to(disk)

    return add


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Which devices' labels are read; each has one of its own."""
    found: list[Path] = []

    def read_label(path: Path) -> Label:
        found.append(path)
        if path.name == "sdc":
            raise CorruptError("the label of /dev/sdc is torn")
        if path.name == "sdd":
            raise NotFoundError("it has gone since")
        return a_label()

    monkeypatch.setattr(replica, "read_label", read_label)
    monkeypatch.setattr(
        BlockDevice, "probe", lambda path: BlockDevice(path, hash(path.name), 32768, 512, False)
    )
    return found


def test_a_device_that_hangs_is_left_out_and_told_of(
    sysfs: Callable[..., None],
    read: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sysfs("sda", "8:0")
    sysfs("sdb", "8:16")
    sysfs("sdc", "8:32")
    sysfs("sdd", "8:48", device__state="running")
    for number, state in enumerate(("blocked", "offline", "transport-offline")):
        sysfs(f"sdx{number}", f"8:{64 + 16 * number}", device__state=state)
    sysfs("dm-0", "252:0", dm__name="held", dm__suspended="1", dm__uuid="LVM-1")
    sysfs("dm-1", "252:1", dm__name="ours", dm__suspended="0", dm__uuid="DMSNAP-1-front")
    asked: list[Path] = []

    def silent(paths: list[Path], patience_seconds: float) -> list[Path]:
        assert patience_seconds == A_MINUTE
        asked.extend(paths)
        return [path for path in paths if path.name == "sdb"]

    monkeypatch.setattr(reach, "silent", silent)
    found = search.search(A_MINUTE)
    assert {path.name for path in asked} == {"sda", "sdb", "sdc", "sdd"}
    assert {path.name for path in read} == {"sda", "sdc", "sdd"}
    assert [each.device.path.name for each in found.found] == ["sda"]
    assert found.damaged == ("the label of /dev/sdc is torn",)
    assert [record.getMessage() for record in caplog.records] == [
        "/dev/sdb does not answer: whether it carries a label is not known"
    ]
