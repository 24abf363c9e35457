"""The host's time zone: that of /etc/localtime, whoever asks. Needs no privileges."""

from datetime import UTC, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

from dmsnap.errors import OperatingSystemError
from dmsnap.host.system_call import system_call

LOCALTIME = Path("/etc/localtime")


def zone(path: Path = LOCALTIME) -> tzinfo:
    """In which hours and days are counted; UTC where none is set (localtime(5))."""
    with system_call(f"read {path}"):
        try:
            with path.open("rb") as file:
                return ZoneInfo.from_file(file)
        except FileNotFoundError:
            return UTC
        except ValueError as error:
            raise OperatingSystemError(f"{path} is no time zone: {error}") from error
