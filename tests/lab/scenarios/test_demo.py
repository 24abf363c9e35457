"""The demonstration in small: it ends well, and it fails when a recovery volume is not right."""

import subprocess
import sys
from pathlib import Path

from conftest import Lab

DEMO = Path(__file__).resolve().parents[1] / "demo"


def demo(lab: Lab, *options: str) -> "subprocess.CompletedProcess[str]":
    lab.mounts += [lab.directory / "orders", lab.directory / "archive"]
    return subprocess.run(
        [sys.executable, DEMO, "--quick", "--directory", lab.directory, *options],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def test_the_demonstration_ends_well(lab: Lab) -> None:
    completed = demo(lab)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert completed.stdout.endswith("every check held\n")
    assert max(len(line) for line in completed.stdout.splitlines()) <= 100


def test_the_demonstration_fails_when_a_file_was_not_recovered(lab: Lab) -> None:
    completed = demo(lab, "--spoil-replica")
    assert completed.returncode == 1, completed.stdout + completed.stderr
    last = completed.stdout.splitlines()[-1]
    assert last.startswith("FAILED: orders: "), last
    assert "1 have another checksum (000000.bin)" in last
