"""The service's unit: what systemd itself thinks of it."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

UNIT = Path(__file__).parents[2] / "systemd" / "dmsnapd.service"
EXPOSURE = re.compile(r"Overall exposure level for \S+: (\d+\.\d)")


def judged(*options: str) -> str:
    """What ``systemd-analyze security`` says of the unit; skips where it cannot say anything."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    completed = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", *options, str(UNIT)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if not completed.stdout:
        pytest.skip(f"systemd-analyze cannot look at files here: {completed.stderr}")
    return completed.stdout


def test_it_is_exposed_little() -> None:
    """Of 10; most services of a distribution have over 9."""
    report = judged()
    found = EXPOSURE.search(report)
    assert found, report
    assert float(found[1]) <= 3.0


def test_each_exception_is_explained() -> None:
    """Whatever systemd holds against the unit is named in a comment."""
    lines = UNIT.read_text().splitlines()
    comments = " ".join(line.removeprefix("# ") for line in lines if line.startswith("#"))
    rows: list[dict[str, Any]] = json.loads(judged("--json=short"))
    exposed = [str(row["name"]) for row in rows if float(row["exposure"] or 0) > 0]
    assert "PrivateNetwork=" in exposed  # the table is read as it is meant
    assert [name for name in exposed if not re.search(pattern_of(name), comments)] == []


def pattern_of(name: str) -> str:
    """How a comment names a setting: ``PrivateUsers=``, of a list what it should have left out."""
    setting, _, member = name.partition("=~")
    # "CAP_(DAC_*|FOWNER)" is one of several; "User=/DynamicUser=" is either.
    return member.replace("*", r"\w+") if member else re.escape(setting.split("/")[0])


def test_what_runs_windows_is_not_killed_with_its_watchdogs() -> None:
    """SIGKILL goes to the whole unit: who is to resume a volume would be gone, too."""
    units = {path.name: path.read_text().splitlines() for path in UNIT.parent.glob("*.service")}
    without = {name for name, lines in units.items() if "SendSIGKILL=no" not in lines}
    assert without == {"dmsnapd.service"}


def test_what_concludes_volumes_one_after_the_other_comes_last() -> None:
    """Else one volume whose disk hangs would keep all others waiting behind it."""
    lines = (UNIT.parent / "dmsnap-exports.service").read_text().splitlines()
    (after,) = [line for line in lines if line.startswith("After=")]
    assert "dmsnap-resume.service" in after.removeprefix("After=").split()


def test_no_boot_waits_for_a_disk_for_good() -> None:
    """The mounts of a boot wait for the one, policies and dmsnapd for the other."""
    for name in ("dmsnap-assemble@.service", "dmsnap-resume.service"):
        lines = (UNIT.parent / name).read_text().splitlines()
        assert "TimeoutStartSec=30min" in lines
        assert "KillMode=process" in lines
