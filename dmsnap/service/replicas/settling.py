"""What a sync that was cut off left on a recovery volume, for who does not sync.

Who began to roll that back, and was cut off as well, leaves the same: the sync is concluded then.
"""

import logging
from uuid import UUID

from dmsnap._native.label import LabelState
from dmsnap.catalogue.model import Job, Volume, VolumeState
from dmsnap.errors import DmsnapError
from dmsnap.recovery import history, replica
from dmsnap.service import operations
from dmsnap.service.session import Session

log = logging.getLogger(__name__)

APPLY = "apply"  # the step of a sync that writes to the replica, and says in its label what it is

# What the label says of a recovery volume that is one: neither in a commit nor after it.
OF_REPLICAS = (LabelState.CONSISTENT, LabelState.APPLYING)


def finish(session: Session, volume: Volume, job: Job) -> bool:
    """Done while its point is on the replica, whether or not that came to be recorded.

    By what is recorded where no label says so. What was there, and was taken back, an audit may
    have found to be wrong: by what said that nothing else had changed, nobody goes any more.
    """
    recorded = operations.has_taken_effect(job)
    point = job.arguments.get("point")
    if point is None or volume.recovery is None or not job.has_begun(APPLY):
        return recorded
    try:
        label = replica.label_of(volume)
    except DmsnapError as error:
        log.debug("%s is not looked at: %s", volume.recovery, error)
        return recorded
    if label.state not in OF_REPLICAS:
        return recorded
    is_there = history.position_of(label, UUID(str(point))) is not None
    if recorded and not is_there:
        session.distrust(volume)
    return is_there


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
