"""The one way in which the lab runs programs on the host."""

import os
import subprocess
from collections.abc import Mapping, Sequence

from harness.errors import LabError

DEADLINE_SECONDS = 1200
TAIL_LINES = 40

BOUND_TO_US = ("setpriv", "--pdeathsig", "KILL", "--")
"""Prefix of programs that must not outlive the runner, however that ends."""

PRIVATE_NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--")
"""Prefix that gives a program mounts and processes of its own, which vanish with it."""


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return a scrubbed environment: what programs need to find each other, and `extra`."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return {**kept, "LC_ALL": "C", **extra}


def output(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    text: str = "",
    named: str | None = None,
) -> str:
    """Run a program to its end and return what it wrote on stdout.

    The error of one that fails calls it `named` (if not given, by its argument list) and quotes its
    last words.
    """
    try:
        done = subprocess.run(
            argv,
            input=text,
            env=environment(env or {}),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=DEADLINE_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise LabError(
            f"The program {argv[0]} is not installed.", hint="Run tests/lab/install-host-packages."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{argv[0]} did not end within {DEADLINE_SECONDS} seconds.") from error
    if done.returncode != 0:
        last_words = "\n".join((done.stdout + done.stderr).splitlines()[-TAIL_LINES:])
        raise LabError(
            f"{named or ' '.join(argv)} ended with status {done.returncode}:\n{last_words}"
        )
    return done.stdout
