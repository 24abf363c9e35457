"""Undo stores read in full, and held against what was written: what earlier points are made of."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from dmsnap._native.label import Label
from dmsnap.catalogue.model import Volume
from dmsnap.errors import AuditError, CorruptError
from dmsnap.host.blockdev import BlockDevice
from dmsnap.recovery import chain, history, replica
from dmsnap.service.progress import Progress, of_total
from dmsnap.service.session import Session


@dataclass(frozen=True, slots=True)
class HistoryCheck:
    """How many undo stores were read; ``unsealed`` are of earlier versions, which say not what
    they wrote. ``bytes_read`` is of all stores.
    """

    stores: int
    unsealed: int
    bytes_read: int


def check(
    session: Session, volume: Volume, label: Label, progress: Progress | None = None
) -> HistoryCheck:
    """Read every undo store of the label's history; :class:`AuditError` for one that is damaged.

    The points that are read through it count as invalid from then on.
    """
    recovery = BlockDevice.probe(replica.recovery_path(volume))
    total_bytes = sum(entry.store_length_bytes for entry in label.history)
    reported = of_total(progress, total_bytes)
    done_bytes = unsealed = 0
    for position, entry in enumerate(label.history):
        try:
            sealed = chain.holds_what_was_written(recovery, entry, _behind(reported, done_bytes))
        except CorruptError as error:
            raise _condemned(session, volume, label, position, error) from error
        unsealed += not sealed
        done_bytes += entry.store_length_bytes
    return HistoryCheck(len(label.history), unsealed, done_bytes)


def _behind(report: Callable[[int], None] | None, done_bytes: int) -> Callable[[int], None] | None:
    """Progress of a part that begins behind ``done_bytes``."""
    if report is None:
        return None
    return lambda part_bytes: report(done_bytes + part_bytes)


def _condemned(
    session: Session, volume: Volume, label: Label, position: int, error: CorruptError
) -> AuditError:
    """What is read through the store is not shown as good any more."""
    lost = [
        point
        for point in session.catalogue.points(volume.id)
        if (history.position_of(label, point.id) or 0) > position
    ]
    for point in lost:
        session.catalogue.update_point(replace(point, invalid_reason=str(error)))
    entry = label.history[position]
    return AuditError(
        f"{error}: that point of {volume.name} is lost, and with it what is older",
        hint=f"dmsnap point delete takes them out of the history; look into the health of "
        f"{volume.recovery}",
        point=str(entry.point_uuid),
    )
