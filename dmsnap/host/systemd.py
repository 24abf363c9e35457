"""systemd: names of units, and telling it that its files have changed."""

import string
from pathlib import Path

from dmsnap.host.run import run

UNITS = Path("/etc/systemd/system")
UNIT_DIRECTORIES = tuple(
    Path(directory, "systemd", "system")
    for directory in ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib")
)
_RUNNING = Path("/run/systemd/system")

_KEPT = frozenset(string.ascii_letters + string.digits + ":_.")


def is_running() -> bool:
    """Whether systemd is the init of this host: the question that sd_booted(3) asks."""
    return _RUNNING.is_dir()


def reload() -> None:
    """Have systemd read its unit files and fstab again; nothing where it is not the init. Root."""
    if is_running():
        run("systemctl", "daemon-reload")


def escape(text: str) -> str:
    """A word as a part of a unit's name (systemd.unit(5), "String Escaping")."""
    return "".join(_escaped(character, first=not at) for at, character in enumerate(text))


def _escaped(character: str, *, first: bool) -> str:
    if character == "/":
        return "-"
    if character in _KEPT and not (first and character == "."):
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode(errors="surrogateescape"))


def escape_path(path: str) -> str:
    """A path as a unit's name: /srv/a-b is srv-a\\x2db."""
    return escape("/".join(part for part in path.split("/") if part)) or "-"


def mount_unit(mount_point: str) -> str:
    """The name of the mount unit of a mount point."""
    return f"{escape_path(mount_point)}.mount"


def quoted(text: str) -> str:
    """A word of a list in a unit file, taken literally (systemd.syntax(7))."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
