"""Which tracker can be trusted for a sync, and why not the better one."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import uuid4

from dmsnap.catalogue.model import Point, Volume
from dmsnap.host import kernel
from dmsnap.units import format_size

# Linux 5.12 has "Recover committed writeset after crash" and "Update in-core bitset after
# committing the metadata"; before them dm-era could lose marks.
OLDEST_KERNEL = (5, 12)


class Tracker(StrEnum):
    """How dirty blocks are found."""

    ERA = "era"
    COMPARE = "compare"


@dataclass(frozen=True, slots=True)
class TrackerChoice:
    """``reason`` says why it is not the era; ``since`` is the first era that counts."""

    tracker: Tracker
    reason: str | None = None
    since: int = 0


def new_tracking_id() -> str:
    """For a volume whose tracking begins anew: no point taken before is trusted with the era."""
    return f"{kernel.boot_id()}:{uuid4()}"


def compare(reason: str) -> TrackerChoice:
    """Read both sides in full: always right."""
    return TrackerChoice(Tracker.COMPARE, reason)


def choose(
    volume: Volume,
    replica_point: Point | None,
    current_era: int,
    kernel_version: tuple[int, int] | None = None,
    *,
    bytes_beside: int | None = 0,
    doubt: str = "",
    copied: Point | None = None,
) -> TrackerChoice:
    """The era, unless anything speaks against it; then ``compare`` with the reason.

    ``doubt`` says why ``bytes_beside`` is not known, where that is known.

    ``copied`` is the point to copy, where that is not one of now: what was written since the
    replica's holds all that they differ in only where it was taken after that.
    """
    if (kernel_version or kernel.version()) < OLDEST_KERNEL:
        return compare("dm-era can lose marks on a crash before Linux 5.12")
    if replica_point is None:
        return compare("the catalogue does not know the replica's point")
    if replica_point.tracking_id != volume.tracking_id:
        return compare(
            "tracking began anew since the replica's point: the stack was built anew or "
            "resized, or an audit failed"
        )
    if current_era < replica_point.era_since:
        return compare(
            f"the front is at era {current_era}, the replica's point began era "
            f"{replica_point.era_since}: the era metadata was replaced"
        )
    if copied is not None and not _is_later(copied, replica_point):
        return compare(
            "the eras do not say that the point was taken after the one that the replica holds"
        )
    if bytes_beside is None:
        return compare(
            f"it is not known whether anything was written to {volume.backing} past "
            f"/dev/mapper/{volume.name}{doubt}"
        )
    if bytes_beside:
        return compare(
            f"{format_size(bytes_beside)} were written to {volume.backing} past "
            f"/dev/mapper/{volume.name}"
        )
    return TrackerChoice(Tracker.ERA, since=replica_point.era_since)


def _is_later(point: Point, other: Point) -> bool:
    """Each window rolls the era at least once."""
    return point.tracking_id == other.tracking_id and point.era_since > other.era_since
