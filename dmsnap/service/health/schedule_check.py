"""Whether what policies declare happens: the timers, and the service. Changes nothing."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dmsnap.errors import DmsnapError
from dmsnap.host import systemd
from dmsnap.service.health.finding import Check, Level

if TYPE_CHECKING:
    from dmsnap.service.configuration.configuration_check import Checked

NAME = "schedules"
SERVICE = "dmsnapd.service"
APPLY = "dmsnap config apply"


def configuration_check(checked: "Checked", directory: Path = systemd.UNITS) -> Check:
    """Mistakes in what is declared. All runs fail of them, where there are any."""
    # Imported where it is needed: pydantic takes a third of a command's start.
    from dmsnap.service.schedules import schedule

    name = "configuration"
    mistakes = checked.mistakes
    if not mistakes:
        return Check(name, Level.OK, "read without mistakes")
    others = f", and {len(mistakes) - 1} more" if len(mistakes) > 1 else ""
    sentence = f"{mistakes[0]}{others}"
    if checked.is_scheduled or schedule.present(directory):
        sentence += ": every run of a policy fails, no point is taken, copied or pruned"
        return Check(name, Level.MISSING, sentence, "dmsnap config check")
    return Check(name, Level.WARNING, sentence, "dmsnap config check")


def clock_check(checked: "Checked", state_directory: Path) -> Iterator[Check]:
    """Whether anything goes by its age, where policies say that something is to."""
    if not any(each.primary or each.history for each in checked.declared.policy.values()):
        return
    # Imported where something is declared.
    from dmsnap.policy.retention import SENTENCES, Rule
    from dmsnap.service.points import clock_record

    name = "clock"
    try:
        if clock_record.trusted_now(state_directory, recording=False) is not None:
            yield Check(name, Level.OK, "ages are told by it")
            return
    except DmsnapError as error:
        yield Check(name, Level.WARNING, f"not checked: {error}", error.hint)
        return
    sentence = f"nothing is pruned: {SENTENCES[Rule.CLOCK]}"
    action = "have the kernel told the time by NTP (timedatectl set-ntp true)"
    yield Check(name, Level.WARNING, sentence, action)


def checks(
    checked: "Checked", directory: Path = systemd.UNITS, *, with_systemd: bool
) -> Iterator[Check]:
    """The timers of what is declared without mistakes; nothing where there are to be none."""
    from dmsnap.service.schedules import schedule

    wanted = schedule.timers(checked.declared) if checked.ok else {}
    if not with_systemd:
        if wanted:
            what = "systemd is not the init: nothing of dmsnap's begins the runs of policies"
            yield Check(NAME, Level.WARNING, what, "have dmsnap run POLICY run by cron")
        return
    changes = schedule.changes(wanted, directory) if checked.ok else []
    if changes:
        first = changes[0]
        others = f", and {len(changes) - 1} more" if len(changes) > 1 else ""
        sentence = f"{first.unit} is not as it is declared ({first.action}){others}"
        yield Check(NAME, Level.MISSING, sentence, APPLY)
        return
    try:
        idle = [unit for unit in wanted if not _is_in_force(unit)]
    except DmsnapError as error:
        yield Check(NAME, Level.WARNING, f"not checked: {error}", error.hint)
        return
    if idle:
        sentence = f"{_listed(idle)}: not enabled, or not started"
        yield Check(NAME, Level.MISSING, sentence, APPLY)
    elif wanted:
        yield Check(NAME, Level.OK, f"{_listed(wanted)}: in force")


def service_check() -> Check:
    """The service, without which nothing watches: commands and timers do the same without it."""
    name = "dmsnapd"
    try:
        if systemd.is_active(SERVICE):
            return Check(name, Level.OK, "is running")
    except DmsnapError as error:
        return Check(name, Level.WARNING, f"not checked: {error}", error.hint)
    return Check(
        name,
        Level.WARNING,
        "is not running: stores that fill are not extended, and nothing says what goes wrong",
        "systemctl enable --now dmsnapd",
    )


def _is_in_force(unit: str) -> bool:
    enabled, active = systemd.properties(unit, "UnitFileState", "ActiveState")
    return enabled == "enabled" and active == "active"


def _listed(units: Collection[str]) -> str:
    return ", ".join(sorted(units))
