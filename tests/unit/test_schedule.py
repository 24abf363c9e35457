"""Timers made of policies: their texts, and what differs from what is there."""

import io
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from dmsnap.cli.actions import config
from dmsnap.cli.output import Output
from dmsnap.errors import NotPermittedError
from dmsnap.host import replacement, systemd
from dmsnap.service.configuration.configuration_check import check
from dmsnap.service.configuration.declaration import Declarations
from dmsnap.service.schedules import policy_run, schedule

TEXT = """
[policy.daily]
schedule = ["hourly", "Mon..Fri 18:30"]
spread = "5min"
[policy.a-b]
schedule = "*:0/10"
make = "snapshot"
[policy.unused]
schedule = "daily"
[policy.by-hand]
make = "snapshot"
[subclient.one]
volumes = ["pg", "wal"]
policy = "daily"
[subclient.two]
volumes = ["home", "wal"]
policy = "daily"
[subclient.three]
include = ["two"]
policy = "a-b"
[subclient.four]
volumes = ["x"]
policy = "by-hand"
"""


@pytest.fixture
def declared(tmp_path: Path) -> Declarations:
    (tmp_path / "dmsnap.toml").write_text(TEXT)
    return check(tmp_path, calendars=False).declared


def test_a_timer_for_each_policy_that_has_something_to_do(declared: Declarations) -> None:
    found = schedule.timers(declared)
    assert list(found) == ["dmsnap-policy@daily.timer", "dmsnap-policy@a\\x2db.timer"]
    lines = found["dmsnap-policy@daily.timer"].splitlines()
    assert [line for line in lines if line.startswith("On")] == [
        "OnCalendar=hourly",
        "OnCalendar=Mon..Fri 18:30",
    ]
    assert {"Persistent=true", "RandomizedDelaySec=300", "WantedBy=timers.target"} < set(lines)


def test_systemd_takes_them(declared: Declarations, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    place = tmp_path / "units"
    place.mkdir()
    (place / "dmsnap-policy@.service").write_text("[Service]\nType=oneshot\nExecStart=/bin/true\n")
    for name, text in schedule.timers(declared).items():
        (place / name).write_text(text)
        asked = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", name],
            cwd=place, env={**os.environ, "SYSTEMD_UNIT_PATH": f"{place}:"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert name not in asked.stderr, asked.stderr


def test_changes_and_their_differences(declared: Declarations, tmp_path: Path) -> None:
    wanted = schedule.timers(declared)
    (tmp_path / "dmsnap-policy@daily.timer").write_text("old\n")
    (tmp_path / "dmsnap-policy@gone.timer").write_text("[Timer]\n")
    (tmp_path / "other.timer").write_text("[Timer]\n")
    found = {each.unit: each for each in schedule.changes(wanted, tmp_path)}
    assert {name: each.action for name, each in found.items()} == {
        "dmsnap-policy@a\\x2db.timer": "add",
        "dmsnap-policy@daily.timer": "change",
        "dmsnap-policy@gone.timer": "remove",
    }
    assert "-[Timer]" in found["dmsnap-policy@gone.timer"].difference()
    assert "+OnCalendar=hourly" in found["dmsnap-policy@daily.timer"].difference()


def test_apply_writes_and_removes(
    declared: Declarations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, list[str]]] = []
    for verb in ("enable", "disable", "restart"):
        monkeypatch.setattr(
            systemd, verb, lambda units, verb=verb: told.append((verb, list(units)))
        )
    monkeypatch.setattr(systemd, "reload", lambda: told.append(("reload", [])))
    (tmp_path / "dmsnap-policy@gone.timer").write_text("[Timer]\n")
    wanted = schedule.timers(declared)
    schedule.apply(schedule.changes(wanted, tmp_path), tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.glob("*.timer")} == wanted
    assert told == [
        ("disable", ["dmsnap-policy@gone.timer"]),
        ("reload", []),
        ("enable", sorted(wanted)),
    ]
    assert schedule.changes(wanted, tmp_path) == []


def test_what_is_masked_is_left_and_a_link_to_nothing_replaced(
    declared: Declarations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the tests stands for /dev/null."""
    null = tmp_path / "null"
    null.touch()
    monkeypatch.setattr(replacement, "NULL", null)
    wanted = schedule.timers(declared)
    masked, dangling = sorted(wanted)
    (tmp_path / masked).symlink_to(null)
    (tmp_path / dangling).symlink_to(tmp_path / "nowhere")
    (tmp_path / "dmsnap-policy@gone.timer").symlink_to(tmp_path / "nowhere")
    found = schedule.changes(wanted, tmp_path)
    assert {each.unit: each.action for each in found} == {
        dangling: "change",
        "dmsnap-policy@gone.timer": "remove",
    }
    enabled: list[str] = []
    for verb in ("disable", "restart"):
        monkeypatch.setattr(systemd, verb, lambda _units: None)
    monkeypatch.setattr(systemd, "enable", enabled.extend)
    monkeypatch.setattr(systemd, "reload", lambda: None)
    schedule.apply(found, tmp_path)
    assert enabled == [dangling]
    assert (tmp_path / masked).is_symlink()
    assert not (tmp_path / dangling).is_symlink()
    assert null.read_text() == ""


@pytest.mark.parametrize("as_json", [True, False])
def test_a_program_is_told_what_was_done_and_people_what_will_be(
    as_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_found: list[schedule.Change]) -> None:
        raise NotPermittedError("no")

    out = io.StringIO()
    change = schedule.Change("x.timer", None, "new\nlines\n")
    monkeypatch.setattr(schedule, "pending", lambda: [change])
    monkeypatch.setattr(schedule, "apply", fails)
    with pytest.raises(NotPermittedError):
        config.apply(Output(json=as_json, stdout=out), dry_run=False)
    shown = [] if as_json else ["--- /dev/null", "+++ x.timer", "@@ -0,0 +1,2 @@", "+new", "+lines"]
    assert out.getvalue().splitlines() == shown


def test_each_volume_once(declared: Declarations) -> None:
    assert policy_run.groups(declared, "daily") == [("one", ["pg", "wal"]), ("two", ["home"])]
    assert policy_run.groups(declared, "a-b") == [("three", ["home", "wal"])]
    assert policy_run.groups(declared, "unused") == []
