"""The runner of guests: COMMAND's status is its own; a guest that dies or hangs is a failure."""

import subprocess
from pathlib import Path

from harness.errors import LAB_FAILED
from harness.kernels import everyday

RUN = Path(__file__).resolve().parents[1] / "run"
BEGIN, END = "--- console of the guest\n", "--- end of the console\n"


def guest(*words: str) -> subprocess.CompletedProcess[str]:
    """One run, from options to its end."""
    return subprocess.run(
        [str(RUN), "--kernel", everyday().name, *words],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip


def failure(ended: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    """What the lab says of a guest that came to no end of its own: the console, the sentence."""
    assert ended.returncode == LAB_FAILED, ended
    console, end, sentence = ended.stderr.partition(BEGIN)[2].partition(END)
    assert end, ended.stderr
    return console, sentence


def test_the_status_is_the_commands_own() -> None:
    ended = guest("sh", "-c", "echo said; echo told >&2; exit 7")
    assert ended.returncode == 7, ended
    assert sorted(ended.stdout.splitlines()) == ["said", "told"]
    assert BEGIN not in ended.stderr


def test_a_guest_that_hangs_is_a_failure_with_its_console() -> None:
    """It is ended when its time is up: the command's own status would have been 0."""
    console, sentence = failure(guest("--timeout", "15", "sleep", "600"))
    assert sentence == "lab: The guest was ended: it ran longer than 15 seconds.\n"
    assert "Linux version" in console, console


def test_a_guest_that_dies_is_a_failure_with_its_console() -> None:
    """A panic of its kernel: a command is under way, and there is nobody to report its status."""
    script = "echo begun; echo c >/proc/sysrq-trigger; exit 0"
    ended = guest("--timeout", "600", "sh", "-c", script)
    console, sentence = failure(ended)
    assert sentence == "lab: The guest died without reporting the command's status.\n"
    assert "Kernel panic" in console, console
