"""What a sync that was cut off left on a recovery volume, for who does not sync.

Who began to roll that back, and was cut off as well, leaves the same: the sync is concluded then.
"""

import logging
from uuid import UUID

from dmsnap.catalogue.model import Job, Volume, VolumeState
from dmsnap.errors import DmsnapError
from dmsnap.recovery import replica
from dmsnap.service import operations
from dmsnap.service.session import Session

log = logging.getLogger(__name__)

APPLY = "apply"  # the step of a sync that writes to the replica, and says in its label what it is


def finish(_session: Session, volume: Volume, job: Job) -> bool:
    """Done once its point is on the replica, whether or not that came to be recorded."""
    if operations.has_taken_effect(job):
        return True
    point = job.arguments.get("point")
    if point is None or volume.recovery is None or not job.has_begun(APPLY):
        return False
    try:
        return replica.holds(replica.label_of(volume), UUID(str(point)))
    except DmsnapError as error:
        log.debug("%s is not looked at: %s", volume.recovery, error)
        return False


def settle_replica(volume: Volume) -> None:
    """Bring back the point over which a sync was being applied when it was cut off.

    The next sync would: but until then no point of the recovery volume can be looked at. Raises
    where the device is missing or in use.
    """
    if volume.recovery is not None and volume.state is VolumeState.PROTECTED:
        with replica.opened(volume) as current:
            current.settle()


def bring_back(volume: Volume) -> bool:
    """Have the recovery volume hold a point again; whether it does.

    Where the device is missing or in use, it is left to the next sync.
    """
    try:
        with replica.opened(volume) as current:
            current.settle()
    except DmsnapError as error:
        log.warning(
            "whether the recovery volume of %s holds a point is not known yet: %s",
            volume.name,
            error,
        )
        return False
    return True
