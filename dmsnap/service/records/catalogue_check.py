"""Whether the catalogue is sound: its file, its rows, and the pieces of stores that it names."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dmsnap.catalogue import consistency
from dmsnap.catalogue.model import Volume
from dmsnap.errors import DmsnapError
from dmsnap.service.session import Session
from dmsnap.snapshot.space import open_space, piece_name


@dataclass(frozen=True, slots=True)
class CheckResult:
    """``problems`` is empty when all is well. ``skipped``: volumes that a command works on now."""

    catalogue: str
    problems: tuple[str, ...]
    skipped: tuple[str, ...]


def check(session: Session) -> CheckResult:
    """Look at everything that is recorded; changes nothing.

    Raises :class:`CorruptError` where the file itself is damaged: what it says is worth nothing.
    """
    session.catalogue.require_sound()
    problems = session.catalogue.loose_rows()
    problems += consistency.contradictions(session.catalogue)
    volumes = session.catalogue.volumes()
    # A command records a piece before it makes it, and forgets it after it is gone.
    skipped = [volume.name for volume in volumes if session.running(volume.name)]
    problems += stores_problems(
        session, [volume for volume in volumes if volume.name not in skipped]
    )
    return CheckResult(session.catalogue.name, tuple(problems), tuple(skipped))


def stores_problems(session: Session, volumes: Sequence[Volume]) -> Iterator[str]:
    """Pieces that are recorded and not there, and those of our volumes that are in no record."""
    for store in sorted({volume.store for volume in volumes}):
        users = {volume.name: volume for volume in volumes if volume.store == store}
        try:
            there = {path for path, _ in open_space(store).pieces()}
        except (DmsnapError, OSError) as error:
            yield f"the store {store} cannot be looked at: {error}"
            continue
        recorded = {
            area.path: name
            for name, volume in users.items()
            for area in session.catalogue.areas(volume.id)
        }
        for path in sorted(set(recorded) - there):
            yield f"the piece {path} of {recorded[path]} is recorded and not there"
        for path in sorted(there - set(recorded)):
            piece = piece_name(path)
            if piece is not None and piece.volume in users:
                yield f"the piece {path} of {piece.volume} is in no record"
