"""Schedules of policies as timers of systemd: which there should be, and putting them there.

They are in /etc, not in /run: only what is there when the host boots catches up on what it slept
through (``Persistent=``), and a generator, the other way to that, would start Python early in every
boot. ``dmsnap config apply`` is the only one that writes them.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path

from dmsnap.host import replacement, systemd
from dmsnap.host.system_call import system_call
from dmsnap.service.configuration import configuration_check, mistake
from dmsnap.service.configuration.declaration import Declarations, Policy

log = logging.getLogger(__name__)

PREFIX = "dmsnap-policy@"
HEADING = "# Written by dmsnap config apply for the policy {name}; the next one overwrites it.\n"


@dataclass(frozen=True, slots=True)
class Change:
    """A timer that is not what it should be; ``after`` is None where there should be none."""

    unit: str
    before: str | None
    after: str | None

    @property
    def action(self) -> str:
        if self.after is None:
            return "remove"
        return "add" if self.before is None else "change"

    def difference(self) -> list[str]:
        """Line by line, as ``diff -u`` has it."""
        before, after = (self.before or "").splitlines(), (self.after or "").splitlines()
        lines = unified_diff(before, after, _side(self.unit, self.before),
                             _side(self.unit, self.after), lineterm="")  # fmt: skip
        return list(lines)


def _side(unit: str, text: str | None) -> str:
    return "/dev/null" if text is None else unit


def pending(directory: Path = systemd.UNITS) -> list[Change]:
    """What ``config apply`` would do. ``ConfigurationError`` where anything is wrong with it."""
    checked = configuration_check.check()
    if not checked.ok:
        raise mistake.configuration_error(checked.mistakes)
    return changes(timers(checked.declared), directory)


def timers(declared: Declarations) -> dict[str, str]:
    """The names and texts of the timers that a configuration asks for.

    A policy that no sub-client is under has none: there would be nothing to do.
    """
    used = {subclient.policy for subclient in declared.subclient.values()}
    return {
        f"{PREFIX}{systemd.escape(name)}.timer": timer_text(name, policy)
        for name, policy in declared.policy.items()
        if policy.schedule and name in used
    }


def timer_text(name: str, policy: Policy) -> str:
    """A timer file. Expressions were judged by systemd; ``%`` would be a specifier."""
    calendar = "".join(f"OnCalendar={each.replace('%', '%%')}\n" for each in policy.schedule)
    return (
        f"{HEADING.format(name=name)}[Unit]\nDescription=Schedule of the dmsnap policy {name}\n\n"
        f"[Timer]\n{calendar}Persistent=true\nRandomizedDelaySec={int(policy.spread)}\n"
        "AccuracySec=1s\n\n[Install]\nWantedBy=timers.target\n"
    )


def changes(wanted: Mapping[str, str], directory: Path = systemd.UNITS) -> list[Change]:
    """What differs from what is there, by unit. Ours is whatever bears the name.

    What the administrator masked is nobody's to change; that is told.
    """
    there = {path.name: _text(path) for path in present(directory)}
    masked = {path.name for path in _timers(directory)} - there.keys()
    for name in sorted(masked):
        log.warning("%s is masked: it is left as it is", name)
    return [
        Change(unit, there.get(unit), wanted.get(unit))
        for unit in sorted({*there, *wanted} - masked)
        if there.get(unit) != wanted.get(unit)
    ]


def present(directory: Path = systemd.UNITS) -> list[Path]:
    """The timers that are there, but for those that the administrator masked."""
    return [path for path in _timers(directory) if not replacement.is_masked(path)]


def _timers(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"{PREFIX}*.timer"))


def _text(path: Path) -> str:
    """Empty for a link that leads nowhere."""
    with system_call(f"read {path}"):
        try:
            return path.read_text(errors="replace")
        except FileNotFoundError:
            return ""


def apply(found: list[Change], directory: Path = systemd.UNITS) -> None:
    """Write, remove, enable and start timers. Cut off, the next time does what is left. Root.

    One that goes is stopped while systemd still knows its file.
    """
    gone = [change.unit for change in found if change.after is None]
    if gone:
        systemd.disable(gone)
    for change in found:
        if change.after is None:
            replacement.remove_file(directory / change.unit)
        else:
            replacement.replace_file(directory / change.unit, change.after)
    if found:
        systemd.reload()
    # Of all, not only what changed: a run that was cut off wrote files and enabled nothing.
    there = [path.name for path in present(directory)]
    if there:
        systemd.enable(there)
    changed = [change.unit for change in found if change.action == "change"]
    if changed:
        systemd.restart(changed)
