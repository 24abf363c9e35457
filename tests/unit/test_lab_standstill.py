"""Scenarios that stand still are ended, those that only follow each other slowly are not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

LAB = Path(__file__).resolve().parents[1] / "lab"


def scenario(seconds: float, code: str) -> "subprocess.CompletedProcess[str]":
    """A process that is watched for some seconds at a time, and what it ends with."""
    watched = f"import time\nfrom guest.standstill import Watch\nwatch = Watch({seconds})\n{code}"
    return subprocess.run(
        [sys.executable, "-c", watched],
        env=os.environ | {"PYTHONPATH": str(LAB)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_one_that_stands_still_is_ended_and_everybody_is_looked_at() -> None:
    ended = scenario(0.5, "watch.begins()\ntime.sleep(60)")
    assert ended.returncode == -signal.SIGABRT
    first, *told = ended.stderr.splitlines()
    assert first == "the scenario stands still:"
    assert any("guest.standstill import Watch" in line for line in told)


def test_each_that_begins_has_its_time_and_nobody_stays() -> None:
    begun = time.monotonic()
    ended = scenario(4, "for _ in range(6): watch.begins(); time.sleep(1)")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert time.monotonic() - begun < 30
