"""The zone of this host, with its changes to and from summer time."""

from datetime import UTC, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

LOCAL_TIME = Path("/etc/localtime")


def zone(path: Path = LOCAL_TIME) -> tzinfo:
    """As localtime(5) says; UTC where it says nothing."""
    try:
        with path.open("rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError):
        return UTC
