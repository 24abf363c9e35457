"""What systemd is asked."""

import shutil

import pytest

from dmsnap.errors import ProgramError
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


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_says_when_a_timer_elapses_next() -> None:
    after = 1_790_000_000  # Mon 2026-09-21 14:13:20 UTC
    assert systemd.elapses("hourly", after, 2) == [1_790_002_800, 1_790_006_400]
    assert systemd.elapses("*-*-* 18:30:00 UTC", after, 1) == [1_790_015_400]
    assert systemd.elapses("2020-01-01", after, 2) == []
    with pytest.raises(ProgramError):
        systemd.elapses("every day", after, 2)


@pytest.mark.parametrize("second", ["       Iter. #2", "   Iteration #2"])
def test_times_are_read_in_utc(second: str) -> None:
    text = (
        "  Original form: hourly\n    Next elapse: Mon 2026-09-21 17:00:00 CEST\n"
        "       (in UTC): Mon 2026-09-21 15:00:00 UTC\n       From now: 2 months 7 days ago\n"
        f"{second}: Mon 2026-09-21 16:00:00.5 UTC\n"
    )
    assert systemd.elapses_in(text) == [1_790_002_800, 1_790_006_400]
    for wrong in ("Mon 2026-09-21 17:00:00 CEST", "tomorrow", "Mon 2026-99-21 17:00:00 UTC"):
        with pytest.raises(ProgramError, match="not understood"):
            systemd.elapses_in(f"Next elapse: {wrong}\n")
