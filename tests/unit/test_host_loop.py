"""Files below loop devices that grow, where no loop device is needed for that."""

import fcntl
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from dmsnap.errors import NoSpaceError
from dmsnap.host import loop
from dmsnap.units import MIB


@pytest.fixture(autouse=True)
def no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "find", lambda _file: None)


def test_what_another_has_added_stays_when_there_is_no_more_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dmsnapd and a command extend one store at once: what the loop device has by then is kept."""
    file, begun, over = tmp_path / "store.img", Event(), Event()
    loop.create_backing_file(file, MIB)

    def full(*_what: object) -> None:
        begun.set()
        over.wait(60)
        raise NoSpaceError("no room")

    with file.open("r+b") as other, ThreadPoolExecutor() as pool:
        fcntl.flock(other, fcntl.LOCK_EX)
        monkeypatch.setattr(loop, "_allocate", full)
        growing = pool.submit(loop.grow, file, 3 * MIB)
        begun.wait(0.3)  # who does not wait for the other is that far by then
        os.ftruncate(other.fileno(), 2 * MIB)
        fcntl.flock(other, fcntl.LOCK_UN)
        over.set()
        with pytest.raises(NoSpaceError):
            growing.result(60)
    assert file.stat().st_size == 2 * MIB


def test_it_is_never_made_smaller(tmp_path: Path) -> None:
    file = tmp_path / "store.img"
    loop.create_backing_file(file, 2 * MIB)
    loop.grow(file, MIB)
    assert file.stat().st_size == 2 * MIB
    loop.grow(file, 3 * MIB)
    assert file.stat().st_size == 3 * MIB
