"""The host's time zone."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dmsnap.errors import OperatingSystemError
from dmsnap.host import local_time


def test_a_zone_with_summer_time(tmp_path: Path) -> None:
    source = Path("/usr/share/zoneinfo/Europe/Berlin")
    if not source.exists():
        pytest.skip("no zones are installed")
    path = tmp_path / "localtime"
    path.symlink_to(source)
    zone = local_time.zone(path)
    for month, hours in ((1, 1), (7, 2)):
        assert datetime(2026, month, 1, tzinfo=zone).utcoffset() == timedelta(hours=hours)


def test_without_one_it_is_utc(tmp_path: Path) -> None:
    assert local_time.zone(tmp_path / "localtime") is UTC


def test_what_is_no_zone_is_said(tmp_path: Path) -> None:
    path = tmp_path / "localtime"
    path.write_text("CET")
    with pytest.raises(OperatingSystemError, match="localtime is no time zone"):
        local_time.zone(path)
