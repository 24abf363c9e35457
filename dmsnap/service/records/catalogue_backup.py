"""Backing the catalogue up when it is asked for; else that is done as commands end."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from dmsnap.catalogue.model import Volume
from dmsnap.errors import DeadlineError, DmsnapError, ExitCode
from dmsnap.host import lun, reach
from dmsnap.recovery import replica
from dmsnap.service.reaper import held
from dmsnap.service.records import backup
from dmsnap.service.session import Session

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BackupResult:
    """How one volume fared. What was backed up before stays as it is: ``written_ns`` says when.

    Of a dry run nothing was written, and ``packed_bytes`` is what would be.
    """

    volume: str
    device: str | None
    generation: int | None
    written_ns: int | None
    packed_bytes: int | None
    error: str | None
    exit_code: ExitCode = ExitCode.OK


def back_up(session: Session, names: Sequence[str], *, dry_run: bool = False) -> list[BackupResult]:
    """Back up what is recorded of the volumes named, or of all. Needs root."""
    volumes = [session.catalogue.volume(name) for name in names] or session.catalogue.volumes()
    do = forecast_one if dry_run else back_up_one
    return [do(session, volume) for volume in volumes]


def back_up_one(session: Session, volume: Volume) -> BackupResult:
    """One volume that fails keeps no other from it."""
    try:
        with held(session, volume.name) as current:
            return written(session, current)
    except DmsnapError as error:
        return failed(volume, str(error), error.exit_code)


def forecast_one(session: Session, volume: Volume) -> BackupResult:
    """What would be written, and to which recovery volume; it is looked at, and not held."""
    try:
        if not backup.has_backup(volume):
            return without(volume)
        packed_bytes = backup.measured(session.catalogue, volume)
    except DmsnapError as error:
        return failed(volume, str(error), error.exit_code)
    if packed_bytes is None:
        return no_room(volume)
    return BackupResult(volume.name, volume.recovery, None, None, packed_bytes, None)


def written(session: Session, volume: Volume) -> BackupResult:
    if not backup.has_backup(volume):
        return without(volume)
    done = backup.write(session.catalogue, volume)
    if done is None:
        return no_room(volume)
    return BackupResult(
        volume.name, volume.recovery, done.generation, done.time_ns, done.packed_bytes, None
    )


def without(volume: Volume) -> BackupResult:
    return failed(
        volume, f"{volume.name} has no recovery volume to be backed up on", ExitCode.WRONG_STATE
    )


def no_room(volume: Volume) -> BackupResult:
    return failed(
        volume,
        f"{volume.recovery} has no room for a backup of the catalogue: its history is too "
        f"small, or an undo store lies where that would be",
        ExitCode.NO_SPACE,
    )


def failed(volume: Volume, sentence: str, code: ExitCode) -> BackupResult:
    return BackupResult(volume.name, volume.recovery, None, None, None, sentence, code)


def catch_up(session: Session) -> None:
    """Make the backups that a boot put off. One that fails, or whose disk does not answer, is told
    of and keeps nobody waiting.
    """
    run_directory = session.configuration.run_directory
    for name in backup.owed(run_directory):
        try:
            _catch_up(session, name)
        except DmsnapError as error:
            log.warning("the catalogue of %s is not backed up: %s", name, error)
        backup.settle(run_directory, name)


def _catch_up(session: Session, name: str) -> None:
    volume = session.catalogue.find_volume(name)
    if volume is None or not backup.has_backup(volume) or not lun.is_present(str(volume.recovery)):
        return
    require_answer(session, volume)
    with session.locked([name]):
        backup.keep(session.catalogue, name)


def require_answer(session: Session, volume: Volume) -> None:
    """Raise :class:`DeadlineError` when the recovery volume hangs: so would who writes to it."""
    path, seconds = replica.recovery_path(volume), session.configuration.primary_wait_seconds
    if not reach.reads(path, seconds):
        raise DeadlineError(
            f"the recovery volume {volume.recovery} does not answer within {seconds:g} s",
            device=volume.recovery,
        )
