"""Hooks: real scripts that fail, hang, write megabytes, and start what outlives them."""

import os
import select
import signal
import time
from pathlib import Path

import pytest

from dmsnap.errors import InterruptedBySignal, NotPermittedError, ProgramError
from dmsnap.host.hook import KEPT_BYTES, HookRun, run_hook
from dmsnap.host.signals import held_back, interruptible


@pytest.fixture
def hook(tmp_path: Path) -> "Hook":
    tmp_path.chmod(0o755)
    return Hook(tmp_path)


class Hook:
    """A script, and the files that it leaves."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "a hook; $(false)"

    def run(self, text: str, *arguments: str, seconds: float = 120) -> HookRun:
        self.path.write_text(f"#!/bin/sh\n{text}\n")
        self.path.chmod(0o755)
        variables = {"PHASE": "presnapshot", "DIRECTORY": str(self.directory)}
        return run_hook((str(self.path), *arguments), variables, deadline_seconds=seconds)

    def hang(self, text: str) -> HookRun:
        """Run what writes something and does not end, until its deadline.

        Where a busy machine does not let it begin in time, it has another, longer one.
        """
        for seconds in (0.5, 5, 50):
            started = time.monotonic()
            done = self.run(text, seconds=seconds)
            assert done.overdue
            assert time.monotonic() - started >= seconds
            if done.output:
                return done
        raise AssertionError("it never began")

    def pid(self) -> int:
        """The process whose number a script wrote down."""
        return int((self.directory / "pid").read_text())


def has_ended(pid: int, *, within: float = 120) -> bool:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(within * 1000))
    finally:
        os.close(descriptor)


def test_one_that_goes_well(hook: Hook) -> None:
    done = hook.run("echo out; echo err >&2")
    assert (done.returncode, done.output, done.overdue, done.failed) == (
        0,
        b"out\nerr\n",
        False,
        False,
    )


def test_what_it_wrote_at_its_very_end_is_read(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    ends_before_we_look(monkeypatch)
    assert hook.run("head -c 60000 /dev/zero").output == bytes(60000)


def ends_before_we_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has ended, and all is in the pipe, before anybody looks."""
    real = os.pidfd_open

    def late(pid: int) -> int:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return real(pid)

    monkeypatch.setattr(os, "pidfd_open", late)


def test_its_environment_is_known(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/nowhere")
    lines = hook.run("env; pwd").output.decode().splitlines()
    names = {line.partition("=")[0] for line in lines[:-1]}
    ours = {"DMSNAP_PID", "DMSNAP_PHASE", "DMSNAP_DIRECTORY"}
    assert names <= {"LC_ALL", "HOME", "PATH", "PWD", "_"} | ours
    assert "DMSNAP_PHASE=presnapshot" in lines
    assert lines[-1] == "/"


def test_no_shell_reads_its_arguments(hook: Hook) -> None:
    words = ("a b", "$(id)", "; rm -rf /", "'\"", "*", "")
    done = hook.run('for word; do printf "%s\\n" "$word"; done', *words)
    assert done.output.decode().split("\n")[:-1] == list(words)


def test_nothing_is_on_its_standard_input(hook: Hook) -> None:
    assert hook.run("cat; tty").output == b"not a tty\n"


@pytest.mark.parametrize(
    ("text", "returncode"), [("exit 3", 3), ("kill -TERM $$", -signal.SIGTERM)]
)
def test_one_that_fails(hook: Hook, text: str, returncode: int) -> None:
    done = hook.run(f"echo why; {text}")
    assert (done.returncode, done.failed, done.overdue) == (returncode, True, False)
    assert done.output == b"why\n"


@pytest.mark.parametrize("hanging", ["sleep 1000", "trap '' TERM INT; sleep 1000", "kill -STOP $$"])
def test_one_that_hangs_is_killed_at_its_deadline(hook: Hook, hanging: str) -> None:
    done = hook.hang(f"echo before; {hanging}")
    assert done.failed
    assert done.returncode == -signal.SIGKILL
    assert done.output == b"before\n"


def test_one_that_ended_in_time_is_not_overdue_when_we_are_late(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends_before_we_look(monkeypatch)
    done = hook.run("echo done", seconds=0)
    assert (done.returncode, done.output, done.overdue) == (0, b"done\n", False)


def test_what_hangs_with_it_is_killed_with_it(hook: Hook) -> None:
    hook.hang('sleep 1000 & echo $! >"$DMSNAP_DIRECTORY/pid"; echo begun; wait')
    assert has_ended(hook.pid())


def test_of_megabytes_the_beginning_and_the_end_are_kept(hook: Hook) -> None:
    done = hook.run("echo first; head -c 50000000 /dev/zero | tr '\\0' x; echo; echo last; exit 1")
    assert done.returncode == 1
    assert done.output.startswith(b"first\nxxx")
    assert done.output.endswith(b"xxx\nlast\n")
    written = 50_000_000 + len("first\n\nlast\n")
    assert done.dropped_bytes == written - 2 * KEPT_BYTES
    assert f"… {done.dropped_bytes} bytes left out …".encode() in done.output
    assert len(done.output) < 2 * KEPT_BYTES + 100


def test_one_that_writes_without_end_ends_at_its_deadline(hook: Hook) -> None:
    done = hook.run("yes", seconds=0.5)
    assert done.overdue
    assert len(done.output) < 2 * KEPT_BYTES + 100


@pytest.mark.parametrize("size", [KEPT_BYTES, 2 * KEPT_BYTES, 2 * KEPT_BYTES + 1])
def test_what_fits_is_kept_whole(hook: Hook, size: int) -> None:
    done = hook.run(f"head -c {size} /dev/zero")
    assert done.dropped_bytes == max(0, size - 2 * KEPT_BYTES)
    assert done.output.count(b"\0") == min(size, 2 * KEPT_BYTES)


def test_a_child_that_would_outlive_it_is_killed(hook: Hook) -> None:
    done = hook.run('sleep 1000 & echo $! >"$DMSNAP_DIRECTORY/pid"; echo done', seconds=300)
    assert (done.returncode, done.output, done.overdue) == (0, b"done\n", False)
    assert has_ended(hook.pid())


def test_a_child_that_left_its_group_is_not_waited_for(hook: Hook) -> None:
    """It holds the pipe open and writes to it."""
    text = "setsid sh -c 'echo $$ >\"$DMSNAP_DIRECTORY/pid\"; exec yes' & "
    text += 'while [ ! -s "$DMSNAP_DIRECTORY/pid" ]; do :; done; exit 4'
    done = hook.run(text, seconds=300)
    try:
        assert (done.returncode, done.overdue) == (4, False)
        # Nobody reads any more what it writes.
        assert has_ended(hook.pid())
    finally:
        if not has_ended(hook.pid(), within=0):
            os.kill(hook.pid(), signal.SIGKILL)


def test_what_others_can_write_to_is_not_run(hook: Hook) -> None:
    hook.run("true")
    hook.path.chmod(0o777)
    with pytest.raises(NotPermittedError, match="has the mode 0777"):
        run_hook((str(hook.path),), {}, deadline_seconds=1)
    hook.path.chmod(0o755)
    hook.directory.chmod(0o777)
    with pytest.raises(NotPermittedError, match="has the mode 0777"):
        run_hook((str(hook.path),), {}, deadline_seconds=1)


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_what_others_can_write_to_is_not_run_by_an_interpreter(hook: Hook, kind: str) -> None:
    script = hook.directory / "script"
    if kind == "file":
        script.write_text("exit 3\n")
        assert run_hook(("/bin/sh", str(script)), {}, deadline_seconds=60).returncode == 3
    else:
        os.mkfifo(script)
    script.chmod(0o666)
    with pytest.raises(NotPermittedError, match="has the mode 0666"):
        run_hook(("/bin/sh", str(script)), {}, deadline_seconds=60)
    # What is no file of theirs is an argument like any other.
    for other in ("/dev/null", str(hook.directory / "none"), "script", str(hook.directory)):
        assert run_hook(("/bin/true", other), {}, deadline_seconds=60).returncode == 0


def test_what_cannot_be_run_is_said(hook: Hook) -> None:
    hook.path.write_text("no script")
    hook.path.chmod(0o755)
    with pytest.raises(ProgramError, match="Exec format error") as caught:
        run_hook((str(hook.path),), {}, deadline_seconds=1)
    assert caught.value.hint is not None
    hook.path.chmod(0o644)
    with pytest.raises(ProgramError, match="Permission denied"):
        run_hook((str(hook.path),), {}, deadline_seconds=1)


def test_ctrl_c_ends_the_hook_with_us(hook: Hook) -> None:
    with pytest.raises(InterruptedBySignal), interruptible():
        hook.run('echo $$ >"$DMSNAP_DIRECTORY/pid"; kill -INT $PPID; sleep 1000', seconds=300)
    assert has_ended(hook.pid())


def test_in_a_final_step_no_signal_is_blocked_in_it(hook: Hook) -> None:
    with interruptible(), held_back():
        done = hook.run("kill -TERM $$; sleep 1000", seconds=300)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) >= {signal.SIGINT, signal.SIGTERM}
    assert done.returncode == -signal.SIGTERM
