"""dmsnap.host.run: deadlines, reaping, sentences. Real programs, no root."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dmsnap.errors import DeadlineError, InterruptedBySignal, ProgramError
from dmsnap.host import run as run_module
from dmsnap.host import signals
from dmsnap.host.run import Completed, run, which


def children() -> set[str]:
    """The processes, zombies too, whose parent we are."""
    listed = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    return set(listed.read_text().split())


def has_ended(pid: int) -> bool:
    """Whether it ends within seconds: SIGKILL was sent, but a grandchild is not ours to reap."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(120_000))
    finally:
        os.close(descriptor)


def test_output_and_environment() -> None:
    completed = run("env")
    lines = set(completed.text.splitlines())
    assert "LC_ALL=C" in lines
    assert "HOME=/" in lines
    names = {line.partition("=")[0] for line in lines}
    assert names <= {"LC_ALL", "HOME", "PATH", "DMSNAP_PID", "PWD", "_"}
    assert f"DMSNAP_PID={os.getpid()}" in lines


def test_stdin_is_empty_or_fed() -> None:
    assert run("cat").stdout == b""
    assert run("cat", input=b"fed").stdout == b"fed"


def test_starts_in_the_root_directory() -> None:
    assert run("pwd").text == "/\n"


def test_unexpected_code_quotes_command_and_first_line() -> None:
    with pytest.raises(ProgramError) as caught:
        run("sh", "-c", "echo; echo first >&2; echo second >&2; exit 3")
    assert str(caught.value).endswith("failed with 3: first")
    assert str(caught.value).startswith("sh -c ")
    assert caught.value.fields["returncode"] == 3
    assert caught.value.fields["stderr"] == "first\nsecond\n"


def test_expected_code_is_no_failure() -> None:
    assert run("sh", "-c", "exit 3", expected=(0, 3)).returncode == 3


def test_death_by_signal_is_named() -> None:
    with pytest.raises(ProgramError, match="killed by signal 9"):
        run("sh", "-c", "kill -9 $$")


def test_missing_program_names_its_package() -> None:
    with pytest.raises(ProgramError) as caught:
        run("dmsnap-no-such-program")
    assert "is not installed" in str(caught.value)
    assert caught.value.hint is None


def test_missing_program_has_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmsnap.host.run.SEARCH_PATH", ())
    with pytest.raises(ProgramError) as caught:
        run("xfs_repair", "-n", "/dev/null")
    assert caught.value.hint == "install the package xfsprogs"


def test_which_ignores_the_callers_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "dmsnap-only-here"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert which("dmsnap-only-here") is None
    assert which("sh") is not None


def test_json_or_a_sentence() -> None:
    assert run("echo", '{"a": [1]}').json() == {"a": [1]}
    with pytest.raises(ProgramError, match="did not write JSON but 'none"):
        run("echo", "none").json()


def test_text_keeps_bytes_that_are_no_utf8() -> None:
    completed = Completed(("x",), 0, b"a\xff", b"")
    assert completed.text.encode(errors="surrogateescape") == b"a\xff"


def test_timeout_kills_the_program_and_its_children(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    for seconds in (0.5, 5, 50):
        with pytest.raises(DeadlineError, match=f"did not end within {seconds:g} s"):
            run("sh", "-c", f"sleep 1000 & echo $! > {note}; wait", timeout_seconds=seconds)
        if note.exists() and note.read_text():  # a busy machine let it begin
            break
    assert has_ended(int(note.read_text()))
    assert children() == set()


def test_a_program_that_ended_in_time_is_not_overdue_when_we_are_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = run_module._start

    def late(*arguments: Any) -> "subprocess.Popen[bytes]":
        process = start(*arguments)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        return process

    monkeypatch.setattr(run_module, "_start", late)
    for stalled in (None, lambda: True):
        assert run("echo", "done", timeout_seconds=0, stalled=stalled).text == "done\n"
    assert children() == set()


def test_a_program_that_has_stalled_is_not_waited_for() -> None:
    asked: list[int] = []

    def stalled() -> bool:
        asked.append(len(asked))
        return len(asked) == 3

    with pytest.raises(DeadlineError, match=r"did not end within [\d.]+ s"):
        run("sleep", "1000", timeout_seconds=900, stalled=stalled)
    assert len(asked) == 3
    assert children() == set()
    completed = run("sh", "-c", "cat; sleep 0.5; echo end", input=b"x" * 99, stalled=lambda: False)
    assert completed.text == "x" * 99 + "end\n"


def test_signal_ends_the_program() -> None:
    before = children()
    with pytest.raises(InterruptedBySignal) as caught, signals.interruptible():
        run("sh", "-c", "kill -TERM $PPID; exec sleep 1000", timeout_seconds=900)
    assert caught.value.signal_number == signal.SIGTERM
    assert children() == before


def test_a_terminals_interrupt_does_not_reach_the_program() -> None:
    group = run("cut", "-d", " ", "-f", "5", "/proc/self/stat").text.strip()
    assert int(group) != os.getpgrp()


def test_descriptors_are_inherited_only_when_named(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+") as file:
        number = file.fileno()
        os.set_inheritable(number, True)
        inside = [sys.executable, "-c", f"import os; os.fstat({number})"]
        assert run(*inside, expected=(0, 1)).returncode == 1
        assert run(*inside, descriptors=(number,)).returncode == 0


def test_a_signal_while_a_program_starts_does_not_leave_it_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python's own Popen forgets the child when its constructor is torn apart."""
    started: list[int] = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[call-overload]
            started.append(self.pid)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("dmsnap.host.run.subprocess.Popen", Interrupted)
    before = children()
    with pytest.raises(InterruptedBySignal), signals.interruptible():
        run("sleep", "1000", timeout_seconds=900)
    assert children() == before
    assert [has_ended(pid) for pid in started] == [True]
