"""What outlives a command that was killed: real processes, in sessions of their own."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from test_host_hook import has_ended

from dmsnap.host import orphans, run
from dmsnap.host.hook import run_hook
from dmsnap.host.process import command_of

HOOK = """#!/bin/sh
sleep 300 &
echo $! >{directory}/child
echo $$ >{directory}/pid.new
mv {directory}/pid.new {directory}/pid
wait
"""


class Killed:
    """A command that was killed while its hook ran."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        path = directory / "hook"
        path.write_text(HOOK.format(directory=directory))
        path.chmod(0o755)
        self.pid = os.fork()
        if self.pid == 0:
            run_hook((str(path),), {"VOLUMES": "a srv", "PHASE": "precopy"}, deadline_seconds=300)
            os._exit(0)
        while not (directory / "pid").exists():
            time.sleep(0.01)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def written(self, name: str) -> int:
        return int((self.directory / name).read_text())


@pytest.fixture
def killed(tmp_path: Path) -> Iterator[Killed]:
    tmp_path.chmod(0o755)
    found = Killed(tmp_path)
    yield found
    for name in ("pid", "child"):
        if not has_ended(found.written(name), within=0):
            os.kill(found.written(name), signal.SIGKILL)


def test_a_hook_ends_with_all_that_is_in_its_session(killed: Killed) -> None:
    orphans.end_hooks(killed.pid, "srv", {"precopy", "postcopy"})
    assert has_ended(killed.written("pid"), within=0)
    assert has_ended(killed.written("child"), within=0)


@pytest.mark.parametrize(
    ("command", "volume", "phase"), [(0, "other", "precopy"), (1, "srv", "precopy"), (0, "srv", "")]
)
def test_hooks_of_other_commands_volumes_and_phases_go_on(
    killed: Killed, command: int, volume: str, phase: str
) -> None:
    orphans.end_hooks(killed.pid + command, volume, {phase})
    assert not has_ended(killed.written("pid"), within=0)


@pytest.mark.parametrize("seconds", [0.3, 300])
def test_lvm_is_waited_for_and_not_for_ever(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, seconds: float
) -> None:
    """Killed in between it may leave a volume group that others share as it is."""
    program = tmp_path / "lvm"
    program.symlink_to("/bin/sleep")
    environment = run.environment()
    with subprocess.Popen([program, str(seconds)], env=environment) as process:
        environ = Path(f"/proc/{process.pid}/environ")
        # Popen is back before exec(2) has shown it.
        while process.poll() is None and run.STARTED_BY.encode() not in environ.read_bytes():
            time.sleep(0.001)
        orphans.wait_for_lvm(os.getpid(), wait_seconds=60 if seconds < 1 else 0.1)
        assert (process.poll() is not None) == (seconds < 1)
        process.kill()
    assert ("goes on" in caplog.text) == (seconds > 1)


def test_for_lvm_nobody_elses_environment_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process in a page fault of a suspended device shows it to nobody until that is resumed."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "comm").write_text("mysqld\n")
    os.mkfifo(tmp_path / "7" / "environ")  # opening it to read would wait for a writer
    monkeypatch.setattr(orphans, "PROC", tmp_path)
    monkeypatch.setattr(orphans, "command_of", partial(command_of, proc=tmp_path))
    asking = threading.Thread(target=lambda: orphans.wait_for_lvm(4), daemon=True)
    asking.start()
    asking.join(10)
    assert not asking.is_alive()


MARKS = ("DMSNAP_VOLUMES=srv", "DMSNAP_PHASE=precopy")


def test_of_a_session_that_somebody_else_leads_only_what_is_marked_goes(tmp_path: Path) -> None:
    """It may be that of root's shell."""
    script = f"env DMSNAP_PID=4 {' '.join(MARKS)} sleep 300 & echo $!; exec sleep 300"
    with subprocess.Popen(
        ["/bin/sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as leader:
        assert leader.stdout is not None
        marked = int(leader.stdout.readline())
        environ = Path(f"/proc/{marked}/environ")
        while b"DMSNAP_PHASE" not in environ.read_bytes():
            time.sleep(0.01)
        orphans.end_hooks(4, "srv", {"precopy"})
        assert has_ended(marked, within=0)
        assert leader.poll() is None
        leader.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="starts something as another user")
def test_what_is_root_by_its_files_mode_is_no_hook() -> None:
    """As passwd(1) is, with what whoever runs it has in the environment, and its session's head."""
    words = ["setpriv", "--ruid", "65534", "env", "DMSNAP_PID=4", *MARKS, "sleep", "300"]
    with subprocess.Popen(words, start_new_session=True) as process:
        while command_of(process.pid) != "sleep":
            time.sleep(0.01)
        orphans.end_hooks(4, "srv", {"precopy"})
        assert process.poll() is None
        process.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="starts something as another user")
def test_what_is_called_like_a_line_of_its_status_is_no_hook(tmp_path: Path) -> None:
    """A set-uid program has the name by which it was begun, and that was a link of its user's."""
    name = "a\rUid:\t0"
    (tmp_path / name).symlink_to("/bin/sleep")
    words = [
        "setpriv",
        "--ruid",
        "65534",
        "env",
        "DMSNAP_PID=4",
        *MARKS,
        str(tmp_path / name),
        "300",
    ]
    with subprocess.Popen(words, start_new_session=True) as process:
        while not command_of(process.pid).startswith("a"):
            time.sleep(0.01)
        orphans.end_hooks(4, "srv", {"precopy"})
        assert process.poll() is None
        process.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="starts something as another user")
def test_what_another_user_starts_with_the_same_is_no_hook(killed: Killed) -> None:
    """It may be in the session of root's shell, which would be killed with it."""
    environment = Path(f"/proc/{killed.written('pid')}/environ").read_bytes().split(b"\0")
    copied = dict(entry.split(b"=", 1) for entry in environment if entry)
    with subprocess.Popen(
        ["/bin/sleep", "300"], env=copied, user=65534, start_new_session=True
    ) as process:
        orphans.end_hooks(killed.pid, "srv", {"precopy"})
        assert process.poll() is None
        assert has_ended(killed.written("pid"), within=0)
        process.kill()
