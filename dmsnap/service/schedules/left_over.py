"""Copies that a boot called off: a timer in memory went with it, or a run that was under way.

What a schedule slept through its own timer begins again (``Persistent=``). A run that had begun
counts as done for that; so does one that left its copies for a later hour.
"""

import logging

from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import Volume, VolumeState
from dmsnap.errors import DmsnapError
from dmsnap.host import local_time, reach, systemd
from dmsnap.policy.copying import next_copy
from dmsnap.recovery import replica
from dmsnap.service.configuration import configuration
from dmsnap.service.configuration.declaration import CopyTable, Make, Policy
from dmsnap.service.points import waiting
from dmsnap.service.schedules.policy_run import COPY_UNIT, groups
from dmsnap.service.session import Session
from dmsnap.service.volumes.membership import declared_now

log = logging.getLogger(__name__)


def begin(session: Session) -> list[str]:
    """Begin the copies of each policy of which some wait and none is begun or has a time.

    Returns the policies. What is not due yet gets its time again. One that cannot be begun keeps
    no other from it.
    """
    begun = []
    for name in policies(session):
        try:
            if _begin(name):
                begun.append(name)
        except DmsnapError as error:
            log.warning("copies under the policy %s were not begun: %s", name, error)
    return begun


def _begin(name: str) -> bool:
    """Begin the copies of a policy, unless they are begun or have a time."""
    unit = COPY_UNIT.format(systemd.escape(name))
    timer = f"{unit.removesuffix('.service')}.timer"
    if systemd.is_active(timer) or systemd.is_active(unit):
        return False
    systemd.begin(unit)
    return True


def policies(session: Session) -> list[str]:
    """The policies with a schedule of which something waits to be copied."""
    if not configuration.declares(session.configuration.iscsi_secrets, "policy"):
        return []
    declared = declared_now(session)
    volumes = {each.name: each for each in session.catalogue.volumes()}
    return [
        name
        for name, policy in declared.policy.items()
        if policy.schedule
        and any(
            each in volumes and _waits(session, policy, volumes[each])
            for _, names in groups(declared, name)
            for each in names
        )
    ]


def _waits(session: Session, policy: Policy, volume: Volume) -> bool:
    """Whether a volume has something to be copied, now or later."""
    if volume.state is not VolumeState.PROTECTED or policy.make is Make.SNAPSHOT:
        return False
    table = policy.copy or CopyTable()
    if policy.make is Make.RECOVERY_VOLUME:
        # No point says whether a run waits for its hours. A copy too many does no harm.
        return table.hours is not None
    try:
        # By a program: the service is not to be left with a thread that cannot be ended.
        if not reach.reads(replica.recovery_path(volume), reach.ANSWER_SECONDS):
            return True  # the run says so
        points = waiting.waiting_points(session, volume)
    except DmsnapError as error:
        # Its LUN may not be attached yet, which the run sees to; or the run says what is wrong.
        log.debug("whether points of %s wait is not known: %s", volume.name, error)
        return True
    return next_copy(points, table.copying, now_ns(), local_time.zone()) is not None
