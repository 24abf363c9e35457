"""The watchdog beside what takes longer than a window: one that hangs holds nobody up."""

import os
import signal
import sys
from pathlib import Path

import pytest

from dmsnap.errors import NotFoundError, OperatingSystemError
from dmsnap.host import watchdog

HANGING = """#!{python}
import os, socket, struct, time
link = socket.socket(fileno=0)
with open({pid!r}, "w") as file:
    file.write(str(os.getpid()))
link.send(struct.pack("=IiQ", {kind}, 5, 0))
time.sleep(300)
"""


class Hanging:
    """A program that says one thing, and then does not end."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "watchdog"
        self._pid = directory / "pid"

    def says(self, kind: int) -> None:
        text = HANGING.format(python=sys.executable, pid=str(self._pid), kind=kind)
        self.path.write_text(text)
        self.path.chmod(0o755)

    def end(self) -> None:
        pid = int(self._pid.read_text())
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hanging:
    # As long as it may take a machine that is busy to start the program: waited for once.
    monkeypatch.setattr(watchdog, "END_SECONDS", 0.05)
    return Hanging(tmp_path)


def test_what_went_wrong_is_said_whatever_the_watchdog_does(
    hanging: Hanging, caplog: pytest.LogCaptureFixture
) -> None:
    hanging.says(1)
    with (
        pytest.raises(NotFoundError, match="the cause"),
        watchdog.watched(hanging.path, "DMSNAP-x", 1000),
    ):
        raise NotFoundError("the cause")
    assert "it is left behind" in caplog.text
    hanging.end()


def test_one_that_cannot_begin_and_does_not_end(hanging: Hanging) -> None:
    hanging.says(2)
    with (
        pytest.raises(OperatingSystemError, match="cannot begin"),
        watchdog.watched(hanging.path, "DMSNAP-x", 1000),
    ):
        raise AssertionError
    hanging.end()
