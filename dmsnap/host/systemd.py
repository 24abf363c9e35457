"""systemd: names of units, and telling it that its files have changed."""

import string
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

from dmsnap.errors import ProgramError
from dmsnap.host.run import run

UNITS = Path("/etc/systemd/system")
UNIT_DIRECTORIES = tuple(
    Path(directory, "systemd", "system")
    for directory in ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib")
)
# systemd kills what does not stop after 90 s by default; start-up may take longer for databases.
UNIT_SECONDS = 600.0
# It reads nothing but itself, which may be on a disk that is busy: whoever asks goes on without.
ANALYZE_SECONDS = 10.0

_RUNNING = Path("/run/systemd/system")

_KEPT = frozenset(string.ascii_letters + string.digits + ":_.")


def is_running() -> bool:
    """Whether systemd is the init of this host: the question that sd_booted(3) asks."""
    return _RUNNING.is_dir()


def reload() -> None:
    """Have systemd read its unit files and fstab again; nothing where it is not the init. Root."""
    if is_running():
        run("systemctl", "daemon-reload")


def properties(unit: str, *names: str) -> list[str]:
    """Properties of a unit as text, in the order of ``names`` (systemctl(1), show)."""
    found = run("systemctl", "show", f"--property={','.join(names)}", "--", unit).text
    values = dict(line.partition("=")[::2] for line in found.splitlines())
    return [values.get(name, "") for name in names]


def exists(unit: str) -> bool:
    """Whether systemd knows a unit of that name."""
    return properties(unit, "LoadState") == ["loaded"]


def is_active(unit: str) -> bool:
    """Whether a unit runs, or is on the way to or from that."""
    return properties(unit, "ActiveState")[0] in ("active", "activating", "reloading")


def services_requiring(unit: str) -> list[str]:
    """The services that require a unit, as those with RequiresMountsFor= do a mount unit."""
    names = " ".join(properties(unit, "RequiredBy", "BoundBy")).split()
    return sorted({name for name in names if name.endswith(".service")})


def stop(unit: str) -> None:
    """Stop a unit and wait for it; ``ProgramError`` when it cannot be. Root."""
    run("systemctl", "stop", "--", unit, timeout_seconds=UNIT_SECONDS)


def start(unit: str) -> None:
    """Start a unit and wait for it; ``ProgramError`` when it fails. Root."""
    run("systemctl", "start", "--", unit, timeout_seconds=UNIT_SECONDS)


def enable(units: Collection[str]) -> None:
    """Have units started at boot, and now where systemd runs. Root."""
    run("systemctl", "enable", "--quiet", *_now(), "--", *units)


def disable(units: Collection[str]) -> None:
    """The opposite. Root."""
    run("systemctl", "disable", "--quiet", *_now(), "--", *units)


def restart(units: Collection[str]) -> None:
    """Have units begin anew by what their files say now; nothing where systemd does not run."""
    if is_running():
        run("systemctl", "restart", "--", *units)


def _now() -> list[str]:
    return ["--now"] if is_running() else []


def begin(unit: str) -> None:
    """Start a unit and do not wait for it; one that is under way is left alone. Root."""
    run("systemctl", "start", "--no-block", "--", unit)


def begin_at(unit: str, seconds: int) -> None:
    """Start a service at a moment, seconds of the epoch, in place of one asked for before. Root.

    A timer that is in memory alone: whoever asked for it asks again after a boot.
    """
    timer = f"{unit.removesuffix('.service')}.timer"
    if is_active(timer):
        stop(timer)
    moment = f"--on-calendar=@{seconds}"
    run("systemd-run", "--quiet", "--timer-property=AccuracySec=1s", moment, f"--unit={unit}")


def is_calendar(expression: str) -> bool:
    """Whether systemd takes a text for a calendar expression (systemd.time(7)).

    ``ProgramError`` where systemd-analyze is not installed.
    """
    asked = run("systemd-analyze", "calendar", "--", expression, expected=(0, 1))
    return asked.returncode == 0


def elapses(expression: str, after_seconds: int, count: int) -> list[int]:
    """The first moments of a calendar expression after one, all in seconds of the epoch.

    ``ProgramError`` where systemd-analyze is not installed, or the expression is none.
    """
    base = f"--base-time=@{after_seconds}"
    iterations = f"--iterations={count}"
    asked = run("systemd-analyze", "calendar", base, iterations, "--", expression,
                timeout_seconds=ANALYZE_SECONDS)  # fmt: skip
    return elapses_in(asked.text)


def elapses_in(text: str) -> list[int]:
    """Those in what systemd-analyze prints: in UTC, which is a line more where that is not local.

    There is no other form of it. Seconds are whole, those of expressions may not be. Further ones
    are "Iter. #2" for systemd 252, and "Iteration #2" for 257.
    """
    found: list[str] = []
    for line in text.splitlines():
        name, _, value = line.strip().partition(": ")
        if name == "Next elapse" or name.startswith(("Iter. #", "Iteration #")):
            found.append(value)
        elif name == "(in UTC)":
            found[-1:] = [value]
    return [_seconds(value) for value in found if value != "never"]


def _seconds(text: str) -> int:
    """``Mon 2026-09-21 18:30:00 UTC``."""
    try:
        _, date, time, zone = text.split()
        moment = datetime.fromisoformat(f"{date}T{time}")
    except ValueError:
        zone = ""
    if zone != "UTC":
        raise ProgramError(f"systemd-analyze printed a time that is not understood: {text!r}")
    return int(moment.replace(tzinfo=UTC).timestamp())


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
