"""Running programs, and dmsnap as users run it."""

import json
import subprocess
import time
from dataclasses import dataclass
from typing import Any


class FailedError(Exception):
    """Something that the demonstration claims did not hold."""


def run(*argv: object, expected: int | None = 0) -> str:
    """What a program wrote to stdout; any other exit code than ``expected`` is a failure."""
    words = [str(word) for word in argv]
    completed = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    if expected is not None and completed.returncode != expected:
        raise FailedError(
            f"{' '.join(words)}: exit code {completed.returncode}, expected {expected}\n"
            f"{completed.stdout}{completed.stderr}".rstrip()
        )
    return completed.stdout


@dataclass(frozen=True, slots=True)
class Outcome:
    """A command's result as it wrote it, and when it ran (of time.monotonic)."""

    result: Any
    started: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.started


def dmsnap(*argv: object) -> Outcome:
    """Run a dmsnap command, a process of its own, with ``--json``."""
    started = time.monotonic()
    text = run("dmsnap", *argv, "--json")
    return Outcome(json.loads(text), started, time.monotonic())
