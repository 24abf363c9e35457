"""Who holds a volume that a swap wants: a copy gives way to it, everybody else is waited for.

A copy only reads the volume, and what it writes to the recovery volume is taken back from wherever
it was cut off: by itself, or, where it was killed, by the swap, which repairs that first. One whose
primary hangs would hold the volume for as long as that does.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext

from dmsnap.catalogue import jobs
from dmsnap.catalogue.model import Job, JobState, Volume, VolumeState
from dmsnap.errors import DeadlineError, LockedError
from dmsnap.host import ending
from dmsnap.host.dm import failing
from dmsnap.host.signals import interruptible
from dmsnap.service import reaper
from dmsnap.service.luns.luns import Wanted
from dmsnap.service.session import Session
from dmsnap.service.swaps import primary
from dmsnap.snapshot import stack

log = logging.getLogger(__name__)

# What only reads the volume. Whatever else holds it changes tables or disks, and is never ended.
COPIES = frozenset({"sync", "verify", "point create"})

# What the kernel takes to end a process that waits for nothing any more.
_END_SECONDS = 10.0


@contextmanager
def held(
    session: Session, name: str, wanted: Wanted, *, kill: bool, fail_primary: bool
) -> Iterator[Volume]:
    """As :func:`reaper.held`; a copy that is in the way is ended, see :func:`end_copy`.

    It is looked at again when the lock was waited for in vain: its primary may hang by then.
    """
    end_copy(session, name, kill=kill, fail_primary=fail_primary)
    with ExitStack() as opened:
        try:
            volume = opened.enter_context(reaper.held(session, name, wanted))
        except LockedError as error:
            if not end_copy(session, name, kill=kill, fail_primary=fail_primary):
                if copy_of(session, session.catalogue.volume(name)) is not None:
                    error.hint = (
                        f"wait for it, or have it ended by dmsnap swap {name} --kill: it undoes "
                        f"what it began"
                    )
                raise
            volume = opened.enter_context(reaper.held(session, name, wanted))
        yield volume


def end_copy(session: Session, name: str, *, kill: bool, fail_primary: bool) -> bool:
    """End the copy that holds a volume where its primary hangs, or with ``kill``; whether one was.

    It has ``kill_wait_seconds`` to undo what it began. With ``fail_primary`` what a suspended
    device below holds back of it fails meanwhile, as that of others does.
    """
    volume = session.catalogue.volume(name)
    job = copy_of(session, volume)
    if job is None or volume.state is not VolumeState.PROTECTED:
        return False
    asked = fail_primary or not kill  # one that has much to do may take long to answer
    seconds = session.configuration.primary_wait_seconds
    hangs = asked and not primary.is_read(volume, seconds)
    if not (hangs or kill):
        return False
    why = f"{volume.backing} hangs" if hangs else "as was asked for"
    log.warning("%s of %s, in process %d, is ended: %s", job.operation, name, job.pid, why)
    with interruptible(), failed_below(volume) if hangs and fail_primary else nullcontext():
        _end(session, volume, job)
    return True


def copy_of(session: Session, volume: Volume) -> Job | None:
    """The copy that holds a volume now; None where nobody does, or somebody who does other work.

    What was cut off may have had the number of a process that holds the volume now: it had begun
    before that took the lock. A copy whose hook we are is not in our way but we in its.
    """
    holder = session.holder(volume.name)
    if holder is None or holder.pid in ending.ancestors(os.getpid()):
        return None
    for job in jobs.unfinished(session.catalogue, volume.id):  # what it does now comes first
        if job.pid == holder.pid and job.started_ns >= int(holder.since * 10**9):
            return job if job.operation in COPIES else None
    return None


def _end(session: Session, volume: Volume, job: Job) -> None:
    def is_meant() -> bool:
        holder = session.holder(volume.name)
        is_running = jobs.job(session.catalogue, job.id).state is JobState.RUNNING
        return is_running and holder is not None and holder.pid == job.pid

    seconds = session.configuration.kill_wait_seconds
    try:
        ending.force(job.pid, is_meant, seconds, _END_SECONDS)
    except DeadlineError as error:
        error.hint = primary.what_to_do(volume, _suspended_below(volume))
        raise


@contextmanager
def failed_below(volume: Volume) -> Iterator[None]:
    """What a suspended device below a volume holds back, and what comes, fails in the block."""
    hanging = _suspended_below(volume)
    with failing.failing(hanging) if hanging is not None else nullcontext():
        yield


def _suspended_below(volume: Volume) -> str | None:
    front = stack.find(stack.front(volume))
    return primary.suspended_below(front.devno) if front is not None else None
