"""Volumes whose newest point or replica is older than their policies promise: what to do."""

from dataclasses import replace
from typing import TYPE_CHECKING

from dmsnap.catalogue.clock import is_to_come, now_ns
from dmsnap.catalogue.model import Volume, VolumeState
from dmsnap.errors import ConfigurationError
from dmsnap.host import systemd
from dmsnap.report.content import NOTHING_PROMISED, Punctuality, Verdict
from dmsnap.report.punctuality import sentence
from dmsnap.service.configuration import configuration
from dmsnap.service.session import Session
from dmsnap.service.volumes.membership import declared_with_joined

if TYPE_CHECKING:
    from dmsnap.service.schedules.promises import Promises


def promises(session: Session) -> "Promises | None":
    """What policies promise; None where none is declared, and then none of this costs anything."""
    try:
        if not configuration.declares(session.configuration.iscsi_secrets, "policy"):
            return None
    except ConfigurationError:
        pass  # a mistake like any other: nothing can be judged
    # Imported where there are policies: pydantic takes a third of a command's start.
    from dmsnap.service.schedules.promises import Promises

    promised = Promises.read()
    return replace(promised, declared=declared_with_joined(session, promised.declared))


def judged(promised: "Promises | None", volume: Volume, newest_ns: int | None) -> Punctuality:
    """The age of a volume's newest point, None where there is none, against what is promised."""
    if promised is None:
        return NOTHING_PROMISED
    return promised.judged(volume.name, newest_ns, now_ns())


def replica_judged(
    promised: "Promises | None", volume: Volume, replica_ns: int | None
) -> Punctuality:
    """The age of what the recovery volume holds; nothing where it is not synced now, or where
    nobody knows how old it is.
    """
    if promised is None or volume.state is not VolumeState.PROTECTED or replica_ns is None:
        return NOTHING_PROMISED
    if is_to_come(replica_ns):
        return NOTHING_PROMISED
    return promised.replica_judged(volume.name, replica_ns, now_ns())


def replica_problems(volume: Volume, found: Punctuality) -> list[str]:
    """What is wrong with the replica's age, which no live point on the same disk makes up for."""
    if found.verdict is not Verdict.LATE:
        return []
    return [f"the recovery volume is {sentence(found)}: {_way_out(volume, found)}"]


def problems(volume: Volume, found: Punctuality) -> list[str]:
    """What is wrong with an age. The sentence stays the same while it is."""
    if found.verdict in (Verdict.LATE, Verdict.MISSING):
        return [f"{sentence(found)}: {_way_out(volume, found)}"]
    if found.is_doubtful:
        # Runs fail of the same mistakes, so that there will be no newer point.
        return [f"its age is {sentence(found)}"]
    return []


def _way_out(volume: Volume, found: Punctuality) -> str:
    if volume.state is VolumeState.TRIAL:
        return (
            f"none is taken during a trial, which dmsnap swap commit {volume.name} or dmsnap swap "
            f"revert {volume.name} ends"
        )
    first = found.policies[0]
    units = f"-u dmsnap-policy@{systemd.escape(first)} -u dmsnap-copy@{systemd.escape(first)}"
    return f"dmsnap run {first} takes one now, journalctl {units} says what became of its runs"
