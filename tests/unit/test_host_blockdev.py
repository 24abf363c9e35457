"""Opening block devices while udev looks at them, too."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from dmsnap.errors import BusyError, NotFoundError, OperatingSystemError, ProgramError
from dmsnap.host import blockdev, udev
from dmsnap.host.blockdev import BlockDevice


@pytest.fixture
def settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A device that cannot be opened before udev has settled twice."""
    settled: list[int] = []
    (tmp_path / "disk").write_bytes(b"")
    real = os.open

    def opened(path: Path, flags: int, _mode: int = 0) -> int:
        if flags & os.O_EXCL and len(settled) < 2:
            raise OSError(errno.EBUSY, "busy")
        return real(path, flags & ~(os.O_EXCL | os.O_DIRECT))

    device = BlockDevice(tmp_path / "disk", 7, 0, 512, False)
    monkeypatch.setattr("dmsnap.host.blockdev.os.open", opened)
    monkeypatch.setattr(BlockDevice, "probe", lambda _path: device)
    monkeypatch.setattr(blockdev, "describe_users", lambda _device: "held by dm-1")
    monkeypatch.setattr(udev, "is_running", lambda: True)
    monkeypatch.setattr(udev, "settle", lambda _seconds: settled.append(1))
    monkeypatch.setattr(blockdev, "LET_GO_SECONDS", 0)
    return settled


def test_udev_is_waited_for(
    settled: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockdev, "lasting_users", lambda *_of, **_in: [])
    with blockdev.open_exclusive(tmp_path / "disk", write=False):
        pass
    assert len(settled) == 2


def test_udev_that_is_busy_elsewhere_is_not_waited_for(
    settled: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settle(deadline_seconds: float) -> None:
        settled.append(1)
        assert deadline_seconds <= 1
        raise ProgramError("Timed out while waiting for udev queue to empty.")

    monkeypatch.setattr(blockdev, "lasting_users", lambda *_of, **_in: [])
    monkeypatch.setattr(udev, "settle", settle)
    with blockdev.open_exclusive(tmp_path / "disk", write=False):
        pass
    assert len(settled) == 2


def test_others_are_not_waited_for(
    settled: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockdev, "lasting_users", lambda *_of, **_in: ["held by dm-1"])
    with pytest.raises(BusyError, match="held by dm-1"):
        blockdev.open_exclusive(tmp_path / "disk", write=False).__enter__()
    monkeypatch.setattr(blockdev, "lasting_users", lambda *_of, **_in: [])
    monkeypatch.setattr(blockdev, "udev", SimpleNamespace(is_running=lambda: False))
    monkeypatch.setattr(blockdev, "describe_users_of", lambda *_of, **_in: "open in dd (pid 7)")
    with pytest.raises(BusyError):
        blockdev.open_exclusive(tmp_path / "disk", write=False).__enter__()
    assert settled == []


def test_who_is_not_seen_is_waited_for(
    settled: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(*_of: object, **_in: object) -> str:
        settled.append(1)
        return ""

    monkeypatch.setattr(blockdev, "lasting_users", lambda *_of, **_in: [])
    monkeypatch.setattr(blockdev, "udev", SimpleNamespace(is_running=lambda: False))
    monkeypatch.setattr(blockdev, "describe_users_of", nobody)
    with blockdev.open_exclusive(tmp_path / "disk", write=False):
        pass
    assert len(settled) == 2


def test_a_flush_by_a_program_fails_as_one_of_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "disk.img"
    with pytest.raises(NotFoundError):
        blockdev.flush_cache_apart(path)
    path.write_bytes(bytes(4096))
    blockdev.flush_cache_apart(path)

    def failing(*argv: str, **_options: object) -> None:
        assert argv[-1] == str(path)
        raise ProgramError("Input/output error")

    monkeypatch.setattr(blockdev, "run", failing)
    with pytest.raises(OperatingSystemError, match=r"flush .*disk\.img: Input/output error"):
        blockdev.flush_cache_apart(path)
