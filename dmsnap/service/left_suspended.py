"""What a job that failed has left suspended: recorded in its outcome, since nothing else tells.

The kernel does not say who suspended a device. An administrator may have, before a job that failed
for it or at any time after; what such a job has left is what was not suspended when it began. As
long as that stays so the next jobs say it, too, and those that are done.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self
from uuid import UUID

from dmsnap.catalogue import jobs
from dmsnap.catalogue.model import Job, JobState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import DmsnapError
from dmsnap.host.dm import device as dm

log = logging.getLogger(__name__)

# A window that could not resume a device leaves it to its watchdog, and its job fails.
NOT_DONE = (JobState.FAILED, JobState.UNDONE)
LEFT = "left suspended: "
RESUMED = "left suspended, and resumed since: "


def suspended(volume_ids: Sequence[UUID]) -> frozenset[str]:
    """The DM UUIDs of volumes' devices that are suspended now, but for logical volumes.

    None where device-mapper does not answer: nothing can have been suspended by us there.
    """
    try:
        found = [
            info for each in volume_ids for info in dm.list_devices(f"{dm.UUID_PREFIX}{each}-")
        ]
    except DmsnapError as error:
        log.debug("which devices are suspended is not known: %s", error)
        return frozenset()
    return frozenset(info.uuid for info in found if info.suspended and info.live_table)


@dataclass(frozen=True, slots=True)
class Before:
    """What was suspended as a job began: ``ours``, which the one before has left, and others'."""

    ours: frozenset[str] = frozenset()
    theirs: frozenset[str] = frozenset()

    @classmethod
    def of(cls, catalogue: Catalogue, volume_ids: Sequence[UUID]) -> Self:
        """Asked right before it begins."""
        found = suspended(volume_ids)
        if not found:
            return cls()
        left = [named(jobs.last(catalogue, each)) for each in volume_ids]
        ours = found & frozenset().union(*left)
        return cls(ours, found - ours)

    def left(self, state: JobState, volume_ids: Sequence[UUID]) -> frozenset[str]:
        """What is ours of what is suspended as the job ends.

        One that was done has resumed what it suspended: what came since is somebody else's.
        """
        if state in NOT_DONE:
            return suspended(volume_ids) - self.theirs
        return suspended(volume_ids) & self.ours if self.ours else frozenset()


def told(outcome: str, left: frozenset[str]) -> str:
    """The outcome of a job, with what it has left suspended."""
    return f"{outcome}; {LEFT}{', '.join(sorted(left))}" if left else outcome


def named(job: Job | None) -> frozenset[str]:
    """What a job has left suspended, by its outcome; nothing, once that was resumed."""
    if job is None or not job.outcome:
        return frozenset()
    _, found, names = job.outcome.rpartition(LEFT)
    return frozenset(names.split(", ")) if found else frozenset()


def note_resumed(catalogue: Catalogue, volume_id: UUID) -> None:
    """From now on nothing is left of the last job: who suspends such a device now means to."""
    job = jobs.last(catalogue, volume_id)
    if job is not None and named(job):
        before, _, names = (job.outcome or "").rpartition(LEFT)
        jobs.note(catalogue, job.id, f"{before}{RESUMED}{names}")
