"""Counters that stand still: nobody can say then who writes past a front. Changes nothing."""

from collections.abc import Iterator

from dmsnap.catalogue.model import Volume, VolumeState
from dmsnap.errors import DmsnapError
from dmsnap.service.health.finding import Check, Level
from dmsnap.snapshot import window_count


def problems(volume: Volume) -> list[str]:
    """What ``status`` says of it, with what to do."""
    return [f"{check.sentence}: {check.action}" for check in volume_checks(volume)]


def volume_checks(volume: Volume) -> Iterator[Check]:
    """What ``doctor`` says of it; nothing where all is counted, or is not there to be counted."""
    try:
        error = window_count.uncounted(volume)
    except DmsnapError:  # a device is missing, of which others tell
        return
    if error is not None:
        which = "failback" if volume.state is VolumeState.PROMOTED else "sync"
        yield Check(
            f"write counts of {volume.name}",
            Level.WARNING,
            f"{error}: who writes past /dev/mapper/{volume.name} is not seen, and every {which} "
            f"compares in full",
            error.hint,
        )
