"""What is remembered of the kernel's counters: a number of sectors, and of which devices it is.

The counters begin anew at every boot, and of a device that was made anew, so the files lie in the
run directory and say whose counters were read.
"""

import json
from pathlib import Path

from dmsnap.host.system_call import system_call


def write(path: Path, devices: str, sectors: int) -> None:
    """Remember ``sectors`` of ``devices``, as a whole or not at all."""
    with system_call(f"write {path}"):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.new")
        new.write_text(json.dumps({"devices": devices, "sectors": sectors}))
        new.replace(path)


def read(path: Path, devices: str) -> int | None:
    """The sectors remembered of ``devices``; None where nothing is, or of others."""
    try:
        known = json.loads(path.read_text())
        return int(known["sectors"]) if known["devices"] == devices else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remove(path: Path) -> None:
    """Know nothing any more."""
    with system_call(f"remove {path}"):
        path.unlink(missing_ok=True)
