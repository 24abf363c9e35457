"""Ending processes: those that are meant, and no others."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dmsnap.errors import DeadlineError
from dmsnap.host import ending
from dmsnap.host.process import ProcessUse

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a shell that does something about SIGTERM, and says when it is ready."""
    started: list[subprocess.Popen[str]] = []

    def run(trap: str) -> "subprocess.Popen[str]":
        script = f"{trap}; echo ready; while :; do sleep 0.05; done"
        child = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True)
        started.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        return child

    yield run
    for child in started:
        child.kill()
        child.communicate()


def use(child: "subprocess.Popen[str]") -> ProcessUse:
    return ProcessUse(child.pid, "sh", "open file /srv/log")


def living(*children: "subprocess.Popen[str]") -> list[ProcessUse]:
    return [use(child) for child in children if child.poll() is None]


def test_sigterm_and_then_sigkill(start: Start) -> None:
    bystander = start(":")
    for grace_seconds in (0.3, 3, 30):
        polite, deaf = start(":"), start("trap '' TERM")
        ended = ending.end(lambda: living(polite, deaf), grace_seconds)  # noqa: B023
        assert {process.pid for process in ended} == {polite.pid, deaf.pid}
        assert deaf.wait(60) == -signal.SIGKILL
        assert bystander.poll() is None
        # On a machine that is busy the first may not have had the time to obey.
        if polite.wait(60) == -signal.SIGTERM:
            return
    raise AssertionError("SIGTERM ended nobody")


def test_who_stops_using_it_is_left_alone(start: Start) -> None:
    """Among the users at the first look, and not at the second."""
    child = start(":")
    looks = [[use(child)], [], []]
    assert ending.end(lambda: looks.pop(0), 0.3) == []
    assert child.poll() is None


def test_who_stays_is_told_of_and_lives(start: Start) -> None:
    child = start(":")
    assert ending.staying(lambda: living(child), 0.05) == [use(child)]
    assert child.poll() is None
    child.kill()
    assert ending.staying(lambda: living(child), 60) == []
    assert ending.staying(list, 60) == []


def test_a_process_that_is_gone(start: Start) -> None:
    child = start(":")
    child.kill()
    child.wait()
    assert ending.end(lambda: [use(child)], 0.3) == []


def test_neither_we_nor_who_started_us(start: Start) -> None:
    child = start(":")
    own = [ProcessUse(pid, "x", "y") for pid in (os.getpid(), os.getppid(), 1)]
    ended = ending.end(lambda: [*own, *living(child)], 60)
    assert [process.pid for process in ended] == [child.pid]


def test_ancestors(tmp_path: Path) -> None:
    """The command in a stat line may hold anything."""
    for pid, parent, command in ((50, 40, "a b) S 9 (c"), (40, 1, "x"), (60, 50, ")")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} ({command}) S {parent} 1 1 0\n")
    assert ending.ancestors(60, proc=tmp_path) == {60, 50, 40, 1}
    assert ending.ancestors(70, proc=tmp_path) == {70, 1}


def test_one_process_is_asked_to_end(start: Start) -> None:
    child = start("true")
    ending.terminate(child.pid, lambda: False, 60)
    assert child.poll() is None
    ending.terminate(child.pid, lambda: True, 60)
    assert child.wait() == -signal.SIGTERM
    ending.terminate(child.pid, lambda: True, 60)  # gone, which is as well


def test_one_that_lives_on_is_named(start: Start) -> None:
    child = start("trap '' TERM")
    with pytest.raises(DeadlineError, match=f"process {child.pid} was asked to end"):
        ending.terminate(child.pid, lambda: True, 0.2)


def test_sigterm_is_given_its_time_and_then_comes_sigkill(start: Start) -> None:
    polite, deaf = start("true"), start("trap '' TERM")
    ending.force(polite.pid, lambda: True, 60, 60)
    assert polite.wait() == -signal.SIGTERM
    ending.force(deaf.pid, lambda: True, 0.2, 60)
    assert deaf.wait() == -signal.SIGKILL
    ending.force(deaf.pid, lambda: True, 60, 60)  # gone, which is as well


def test_who_is_through_before_sigkill_is_left_alone(start: Start) -> None:
    for answers in ([False], [True, False]):
        deaf = start("trap '' TERM")
        ending.force(deaf.pid, lambda: answers.pop(0), 0.2, 60)  # noqa: B023
        assert answers == []
        assert deaf.poll() is None


def test_one_that_not_even_sigkill_ends_is_named(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that waits in the kernel, where no signal reaches it."""
    child = start("true")
    monkeypatch.setattr(ending, "_send", lambda *_: None)
    with pytest.raises(DeadlineError, match=f"process {child.pid} was killed, and waits"):
        ending.force(child.pid, lambda: True, 0.1, 0.1)
