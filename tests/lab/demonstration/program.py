"""Running programs, and dmsnap as users run it."""

import contextlib
import io
import json
import subprocess
import time
from dataclasses import dataclass
from importlib import import_module
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


class Dmsnap:
    """Runs dmsnap with ``--json``: as a process, as users do, or in this one.

    In this process a command does not start Python anew, which takes a guest some seconds.
    """

    def __init__(self, *, in_process: bool = False) -> None:
        self._run = call if in_process else run_dmsnap

    def __call__(self, *argv: object) -> Outcome:
        words = [str(word) for word in argv]
        started = time.monotonic()
        text = self._run(*words, "--json")
        return Outcome(json.loads(text), started, time.monotonic())


def run_dmsnap(*words: str) -> str:
    return run("dmsnap", *words)


def call(*words: str) -> str:
    """Run a command by its entry point; what it wrote to stdout."""
    main = import_module("dmsnap.cli.main").main
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = main(words)
    if code:
        raise FailedError(f"dmsnap {' '.join(words)}: exit code {code}\n{stderr.getvalue()}")
    return stdout.getvalue()
