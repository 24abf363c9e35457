"""The service's unit: what systemd itself thinks of it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "systemd" / "dmsnapd.service"
EXPOSURE = re.compile(r"Overall exposure level for \S+: (\d+\.\d)")


def test_it_is_exposed_little() -> None:
    """Of 10; most services of a distribution have over 9."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    completed = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNIT)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = EXPOSURE.search(completed.stdout)
    if found is None:
        pytest.skip(f"systemd-analyze cannot look at files here: {completed.stderr}")
    assert float(found[1]) < 4.0


def test_each_exception_is_explained() -> None:
    """What is not as tight as it goes has a comment right above it."""
    lines = UNIT.read_text().splitlines()
    for directive in (
        "CapabilityBoundingSet=", "DeviceAllow=block-*", "ProtectSystem=full", "ReadWritePaths=",
        "RestrictAddressFamilies=", "Wants=", "LimitMEMLOCK=",
    ):  # fmt: skip
        at = next(number for number, line in enumerate(lines) if line.startswith(directive))
        assert any(line.startswith("#") for line in lines[at - 3 : at]), directive


def test_what_runs_windows_is_not_killed_with_its_watchdogs() -> None:
    """SIGKILL goes to the whole unit: who is to resume a volume would be gone, too."""
    units = {path.name: path.read_text().splitlines() for path in UNIT.parent.glob("*.service")}
    without = {name for name, lines in units.items() if "SendSIGKILL=no" not in lines}
    assert without == {"dmsnapd.service", "dmsnap-exports.service"}
