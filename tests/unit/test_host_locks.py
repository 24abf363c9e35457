"""The volume lock, with two processes."""

import errno
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dmsnap.errors import LockedError
from dmsnap.host.locks import read_holder, volume_lock

HOLD = """
import sys
from pathlib import Path
from dmsnap.host.locks import volume_lock
with volume_lock(Path(sys.argv[1]), "data", 0, command="dmsnap sync data"):
    print("locked", flush=True)
    sys.stdin.read()
"""


class Holding:
    """Another process that holds the lock until told to end."""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"locked\n"

    def end(self) -> None:
        self.process.communicate()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.mark.parametrize("was_there", [False, True])
def test_nobody_else_can_open_a_lock(tmp_path: Path, was_there: bool) -> None:
    """Who can could hold it, and keep every command from the volume."""
    path = tmp_path / "data.lock"
    if was_there:
        path.touch(0o644)
    with volume_lock(tmp_path, "data", 0, command="dmsnap swap data"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_lock_is_written_and_cleared(tmp_path: Path) -> None:
    with volume_lock(tmp_path / "new", "data", 0, command="dmsnap swap data"):
        holder = read_holder(tmp_path / "new" / "data.lock")
        assert holder is not None
        assert holder.command == "dmsnap swap data"
    assert read_holder(tmp_path / "new" / "data.lock") is None


def test_a_lock_that_nothing_can_be_written_to_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_what: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("dmsnap.host.locks.os.pwrite", full)
    first, second = (volume_lock(tmp_path, "data", 0) for _ in range(2))
    with first, pytest.raises(LockedError), second:
        pass
    assert "No space left" in caplog.text


def test_the_second_says_who_holds_it(tmp_path: Path) -> None:
    holding = Holding(tmp_path)
    try:
        started = time.monotonic()
        with pytest.raises(LockedError) as caught, volume_lock(tmp_path, "data", 0.5):
            pytest.fail("two held the lock")
        assert time.monotonic() - started > 0.4
        sentence = f"data is locked by 'dmsnap sync data' (pid {holding.process.pid}, since "
        assert str(caught.value).startswith(sentence)
        assert json.dumps(caught.value.fields)
        with volume_lock(tmp_path, "other", 0):
            pass
    finally:
        holding.end()


def test_the_second_waits(tmp_path: Path) -> None:
    holding = Holding(tmp_path)
    ender = subprocess.Popen(["sh", "-c", f"sleep 0.5; kill {holding.process.pid}"])
    with volume_lock(tmp_path, "data", 300):
        holder = read_holder(tmp_path / "data.lock")
        assert holder is not None
        assert holder.pid != holding.process.pid
    ender.wait()
    holding.kill()


def test_the_lock_of_a_killed_holder_is_free(tmp_path: Path) -> None:
    holding = Holding(tmp_path)
    holding.kill()
    assert read_holder(tmp_path / "data.lock") is not None
    with volume_lock(tmp_path, "data", 0):
        pass


def test_an_error_inside_lets_go(tmp_path: Path) -> None:
    with pytest.raises(KeyError), volume_lock(tmp_path, "data", 0):
        raise KeyError
    with volume_lock(tmp_path, "data", 0):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"pid": "x", "command": 1}'])
def test_a_lock_file_with_anything_in_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.lock").write_text(text)
    assert read_holder(tmp_path / "data.lock") is None
    with volume_lock(tmp_path, "data", 0):
        pass
