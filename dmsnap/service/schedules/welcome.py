"""What runs of the default sub-client's policy do for volumes that joined it: one of them, at most,
is protected by each run, behind everything else.

A first copy reads a whole volume. So no run begins several, and a host with many new volumes gets
them under protection one after the other.
"""

import logging
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path

from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import VolumeState
from dmsnap.errors import DmsnapError
from dmsnap.host.locks import directory_lock
from dmsnap.service.configuration.declaration import CopyTable, Declarations, Policy
from dmsnap.service.luns.luns import Wanted
from dmsnap.service.reaper import reap
from dmsnap.service.schedules.turn import turn_on
from dmsnap.service.session import Session
from dmsnap.service.volumes import assignment, discovery, discovery_record, newcomer, protect
from dmsnap.service.volumes.admission import ProtectRequest
from dmsnap.service.volumes.discovery import Discovered
from dmsnap.service.volumes.protect import ProtectResult
from dmsnap.service.volumes.wanted_recovery import WantedRecovery
from dmsnap.units import PAGE_BYTES

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Welcome:
    """What came of it: a volume that was protected, or the moment from which on one may be."""

    protected: ProtectResult | None = None
    due_ns: int | None = None


NOBODY = Welcome()


def welcome(session: Session, declared: Declarations, policy: Policy, zone: tzinfo) -> Welcome:
    """Look around, and protect what it is the turn of. What fails is a warning, and stops nothing.

    First copies have the policy's hours, rate and priority, and wait for their disks as others do.
    """
    _clear_cut_off(session)
    found = discovery.tell(session)
    chosen = newcomer.ready(found.volumes) if found else None
    if chosen is None:
        return NOBODY
    due_ns = _due_ns(policy, zone)
    if due_ns > now_ns():
        return Welcome(due_ns=due_ns)
    try:
        return Welcome(_protect(session, declared, policy, chosen))
    except DmsnapError as error:
        why = "; ".join([str(error), *getattr(error, "__notes__", ())])
        log.warning("%s is not protected, as that failed: %s", chosen.placed, why)
        return NOBODY


def planned(session: Session, policy: Policy) -> list[str]:
    """What a run would do now, as a step; nothing is remembered of the look."""
    chosen = newcomer.ready(discovery.discover(session, remember=False).volumes)
    if chosen is None:
        return []
    return [
        f"protect {chosen.placed} as {chosen.joins_as}, with a recovery volume out of the pool "
        f"{policy.pool}"
    ]


def _due_ns(policy: Policy, zone: tzinfo) -> int:
    hours = (policy.copy or CopyTable()).copying.hours
    return hours.opening_ns(now_ns(), zone) if hours else 0


def _protect(
    session: Session, declared: Declarations, policy: Policy, chosen: Discovered
) -> ProtectResult | None:
    directory = session.configuration.state_directory
    with turn_on(session, [chosen.device]):
        # Waiting for that may have taken hours.
        again = discovery.discover(session, remember=False).volumes
        same = next((each for each in again if each.identity == chosen.identity), None)
        if same is None or same.joins_as is None or not same.settled:
            log.warning("%s is left alone: it is not what it was any more", chosen.placed)
            return None
        with directory_lock(directory):
            discovery_record.note_attempt(directory, chosen.identity, now_ns())
        done = protect.protect(session, request_for(declared, policy, same), dry_run=False)
    if not isinstance(done, ProtectResult):
        return None
    log.info("%s is protected as %s", chosen.placed, done.volume, extra={"volume": done.volume})
    return done


def request_for(declared: Declarations, policy: Policy, volume: Discovered) -> ProtectRequest:
    """What ``dmsnap protect`` would be asked for."""
    return ProtectRequest(
        device=Path(volume.device),
        name=volume.joins_as or "",
        wanted=WantedRecovery(
            pool=policy.pool or "",
            bandwidth=int(policy.bandwidth or 0),
            io_priority=str(policy.io_priority or ""),
        ),
        store=assignment.store_word(declared.store[policy.store]) if policy.store else "",
        block_bytes=0,
        chunk_bytes=PAGE_BYTES,
        live=bool(volume.mount_points),
        identity=volume.identity,
    )


def _clear_cut_off(session: Session) -> None:
    """Give back what a run that was killed had begun to protect."""
    for volume in session.catalogue.volumes():
        if not volume.joined or volume.state is not VolumeState.BUILDING:
            continue
        if session.running(volume.name) is not None:
            continue
        try:
            with session.locked([volume.name]):
                left = session.catalogue.find_volume(volume.name)
                if left is not None and left.state is VolumeState.BUILDING:
                    reap(session, left, Wanted.SERVING)
        except DmsnapError as error:
            log.warning("%s: %s", volume.name, error, extra={"volume": volume.name})
