"""What systemd is asked."""

import shutil

import pytest

from dmsnap.host import systemd


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize(
    ("expression", "taken"),
    [
        ("hourly", True), ("Mon..Fri *-*-* 22:00 Europe/Berlin", True), ("*:0/15", True),
        ("every day", False), ("", False), ("--version", False), ("25:00", False),
    ],
)  # fmt: skip
def test_systemd_says_what_a_calendar_expression_is(expression: str, taken: bool) -> None:
    assert systemd.is_calendar(expression) is taken
