"""What is to be recorded of a volume whose swap, or revert, was taken back without the catalogue.

The front shows what it showed before, and is written to; the record says otherwise. In the same
boot the tables tell. A boot that went by the record would show something else, and what was written
since would be in nobody's sight, or, of a trial, be dropped with its overlay. So it is noted in the
state directory, and recorded before anything is built by it.

The note is written before the record can be wrong, and becomes valid by a rename: the disk that the
catalogue is on may be full by then.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from dmsnap.catalogue import jobs
from dmsnap.catalogue.model import AreaRole, Volume, VolumeState
from dmsnap.errors import DmsnapError
from dmsnap.host.replacement import remove_file, sync_directory
from dmsnap.host.system_call import system_call
from dmsnap.service import note
from dmsnap.service.session import Session
from dmsnap.snapshot import stack
from dmsnap.snapshot.space import open_space

log = logging.getLogger(__name__)

DIRECTORY = "records-owed"


@dataclass(frozen=True, slots=True)
class Owed:
    """What is to be recorded of a volume, in place of that state and generation."""

    state: str
    generation: int
    trial_point: str | None
    trial_live: bool
    tracking_id: str
    instead_of: list[str | int]

    def __post_init__(self) -> None:
        """Refuse what no volume has, by :class:`ValueError`."""
        VolumeState(self.state)
        if self.trial_point is not None:
            UUID(self.trial_point)
        if not isinstance(self.generation, int):
            raise ValueError(f"{self.generation!r} is no generation")

    @classmethod
    def of(cls, before: Volume, after: Volume) -> "Owed":
        return cls(
            state=before.state,
            generation=before.generation,
            trial_point=str(before.trial_point) if before.trial_point else None,
            trial_live=before.trial_live,
            tracking_id=before.tracking_id,
            instead_of=[after.state, after.generation],
        )

    def applied(self, volume: Volume) -> Volume:
        """A note that is about another record than the one there is says nothing."""
        if [volume.state, volume.generation] != self.instead_of:
            return volume
        return replace(
            volume,
            state=VolumeState(self.state),
            generation=self.generation,
            trial_point=UUID(self.trial_point) if self.trial_point else None,
            trial_live=self.trial_live,
            tracking_id=self.tracking_id,
        )


def record(session: Session, before: Volume, after: Volume) -> None:
    """Record what a volume is about to show, so that :func:`take_back` can be sure of its note.

    Recovery goes on where that cannot be written.
    """
    directory = session.configuration.state_directory
    _remove(_path(directory, before.id))  # generations come again
    try:
        note.write(_prepared(directory, before.id), Owed.of(before, after))
    except DmsnapError as error:
        log.warning("a boot will go by the record of %s alone: %s", before.name, error)
    session.catalogue.update_volume(after)


def take_back(session: Session, before: Volume) -> None:
    """Record a volume as it was before, or see to it that whoever comes next does."""
    directory = session.configuration.state_directory
    try:
        session.catalogue.update_volume(before)
    except DmsnapError:
        _owe(directory, before)
        raise
    is_recorded(session, before.id)


def is_recorded(session: Session, volume_id: UUID) -> None:
    """What was prepared is not needed. Nothing fails of it: whoever comes next takes it away."""
    try:
        _remove(_prepared(session.configuration.state_directory, volume_id))
    except DmsnapError as error:
        log.debug("%s", error)


def expected(session: Session, volume: Volume) -> Volume:
    """The volume as it will be found after :func:`settle`."""
    owed = _noted(session.configuration.state_directory, volume.id)
    if owed is not None:
        return owed.applied(volume)
    return before_swap(volume) if _was_taken_back(session, volume) else volume


def settle(session: Session, volume: Volume) -> Volume:
    """Record what is owed. Called with the volume's lock held: nobody is about to owe anything."""
    after = expected(session, volume)
    if after != volume:
        session.catalogue.update_volume(after)
        log.warning(
            "%s is recorded as %s, to which it was taken back while the catalogue took nothing",
            volume.name,
            after.state,
        )
    _remove(_path(session.configuration.state_directory, volume.id))
    is_recorded(session, volume.id)
    return after


def before_swap(volume: Volume) -> Volume:
    """What a volume in trial was before it."""
    return replace(
        volume,
        state=VolumeState.PROTECTED,
        generation=volume.generation - 1,
        trial_point=None,
        trial_live=False,
    )


def _was_taken_back(session: Session, volume: Volume) -> bool:
    """Whether a boot finds a trial without its overlay, of a swap that did not come to its end.

    Taking it back has removed the overlay, and could neither record nor note anything. Nobody else
    removes that while the volume is in trial; a store that is not mounted lacks the rest as well.
    """
    if volume.state is not VolumeState.TRIAL or not volume.backing:
        return False
    if stack.exists(stack.front(volume)):
        return False
    unfinished = jobs.unfinished(session.catalogue, volume.id)
    if not any(job.operation == "swap" for job in unfinished):
        return False
    space = open_space(volume.store)
    try:
        space.require()
        there = {path for path, _ in space.pieces()}
    except DmsnapError as error:
        log.debug("whether the trial of %s is one is not known: %s", volume.name, error)
        return False
    areas = session.catalogue.areas(volume.id)
    pieces = {(area.role, area.generation) for area in areas if area.path in there}
    return (AreaRole.ERA_METADATA, volume.generation - 1) in pieces and (
        AreaRole.OVERLAY,
        volume.generation,
    ) not in pieces


def _noted(directory: Path, volume_id: UUID) -> Owed | None:
    return note.read(
        _path(directory, volume_id),
        Owed,
        says="whether a volume is in trial",
        hint="dmsnap status shows what is recorded of it; if that is so, remove the file",
    )


def _owe(directory: Path, before: Volume) -> None:
    path = _path(directory, before.id)
    try:
        with system_call(f"rename {_prepared(directory, before.id)}"):
            _prepared(directory, before.id).replace(path)
        sync_directory(path.parent)
    except DmsnapError as error:
        log.warning(
            "%s is %s again, and that can be noted nowhere: no boot knows of it: %s",
            before.name,
            before.state,
            error,
        )


def _remove(path: Path) -> None:
    with system_call(f"look at {path}"):
        is_there = path.exists()
    if is_there:
        remove_file(path)


def _path(directory: Path, volume_id: UUID) -> Path:
    return directory / DIRECTORY / f"{volume_id}.json"


def _prepared(directory: Path, volume_id: UUID) -> Path:
    return directory / DIRECTORY / f"{volume_id}.prepared"
