"""A trial's overlay: how full it is, when it will be full, and giving it more room.

dm-snapshot looks at the size of a store whenever it needs another chunk (drivers/md/dm-snap-
persistent.c, persistent_prepare_exception): a piece of the store that has grown is used at once,
with nothing loaded anew.
"""

import logging
from dataclasses import dataclass

from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import Area, Job, Volume
from dmsnap.errors import DmsnapError, PointInvalidError
from dmsnap.host.dm.status import SnapshotState
from dmsnap.service.session import Session
from dmsnap.service.swaps import trial
from dmsnap.units import MIB, PAGE_BYTES, align_up, format_size, to_bytes

log = logging.getLogger(__name__)

FORESEEN_SECONDS = 3600
_PAIR_BYTES = 16


@dataclass(frozen=True, slots=True)
class OverlayStatus:
    """How full it is. ``seconds_left``: until it is full at the rate since the trial began."""

    state: str
    used_bytes: int
    total_bytes: int
    seconds_left: float | None


def status(volume: Volume, last_swap: Job | None) -> OverlayStatus:
    """What the kernel says of the overlay, and its trial's age, which the last swap began."""
    usage = trial.overlay_usage(volume)
    used_bytes, total_bytes = to_bytes(usage.used_sectors), to_bytes(usage.total_sectors)
    began_ns = last_swap.finished_ns if last_swap else None
    left = None
    if usage.state is SnapshotState.OK and began_ns is not None and used_bytes:
        left = (total_bytes - used_bytes) * (now_ns() - began_ns) / 1e9 / used_bytes
    return OverlayStatus(usage.state.value, used_bytes, total_bytes, left)


def problems(volume: Volume, now: OverlayStatus) -> list[str]:
    """What is wrong with an overlay, or soon will be."""
    found = trial.overlay_problems(volume)
    # The first minutes of a trial say little: of an overlay that is half empty nothing is foreseen.
    begun = 2 * now.used_bytes < now.total_bytes
    if found or begun or now.seconds_left is None or now.seconds_left > FORESEEN_SECONDS:
        return found
    minutes = max(1, round(now.seconds_left / 60))
    return [
        f"the overlay of the trial will be full in about {minutes} minutes at the rate so far: "
        f"dmsnap swap extend {volume.name} gives it more room"
    ]


def largest_bytes(volume: Volume) -> int:
    """Room for every chunk of the volume: more is never used."""
    chunks = align_up(volume.size_bytes, trial.OVERLAY_CHUNK_BYTES) // trial.OVERLAY_CHUNK_BYTES
    metadata_bytes = align_up(chunks * _PAIR_BYTES, PAGE_BYTES) + 2 * PAGE_BYTES
    return align_up(volume.size_bytes + metadata_bytes, MIB)


def require_extendable(volume: Volume, area: Area, size_bytes: int) -> None:
    """Raise when more room would be of no use, or cannot be had."""
    state = trial.overlay_usage(volume).state
    if state is not SnapshotState.OK:
        raise PointInvalidError(trial.overlay_problems(volume)[0])
    if size_bytes <= area.size_bytes:
        raise PointInvalidError(
            f"the overlay of {volume.name} has {format_size(area.size_bytes)} already"
        )


def keep_ahead(session: Session, volume: Volume) -> None:
    """Double an overlay that is over the warning level; what that fails of is only said.

    Called by every command that works on a volume in trial, with the volume's lock held.
    """
    try:
        usage = trial.overlay_usage(volume)
        warning = usage.total_sectors * trial.OVERLAY_WARNING_PERCENT
        if usage.state is not SnapshotState.OK or usage.used_sectors * 100 <= warning:
            return
        area = trial.overlay_area(volume, session.catalogue.areas(volume.id))
        size_bytes = min(2 * area.size_bytes, largest_bytes(volume))
        limit_bytes = session.configuration.cow_limit_bytes
        if size_bytes > (limit_bytes or size_bytes) or size_bytes <= area.size_bytes:
            return
        session.extend_area(volume, area, size_bytes)
    except DmsnapError as error:
        log.warning("the overlay of %s could not be extended: %s", volume.name, error)
    else:
        log.warning("the overlay of %s has %s now", volume.name, format_size(size_bytes))
