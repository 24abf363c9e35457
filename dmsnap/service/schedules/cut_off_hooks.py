"""Hooks that a killed command had still to run: whoever has the volume next runs them."""

import logging
from collections.abc import Collection

from dmsnap.catalogue import hook_runs, jobs
from dmsnap.catalogue.model import Job, StepState, Volume
from dmsnap.errors import ConfigurationError, WrongStateError
from dmsnap.host import orphans
from dmsnap.service.schedules.hooks import PAIRS, Phase, hooks_of
from dmsnap.service.session import Session

log = logging.getLogger(__name__)

# The steps that remove live snapshots: of points that are given up, and of the one of a sync.
REMOVE_LIVE = "remove-live"
REMOVE_POINT = "remove-point"
SYNC = "sync"


def close_pairs(session: Session, job: Job, held: str) -> None:
    """Run the second of each pair whose first had begun, for all volumes of the job, once.

    ``held`` is the volume whose lock the caller has.
    """
    for first, second in PAIRS.items():
        if job.has_begun(first):
            _run(session, job, held, second, {first, second})


def close_removal(session: Session, job: Job, volume: Volume, *, done: bool) -> None:
    """Run ``unsnap``, once, if a live snapshot is gone that the job was removing. Lock held.

    For when the job has come to its end, ``done`` or not. ``WrongStateError`` while the snapshot of
    a sync, which goes in any case, is still there. A point that somebody wants kept since then is:
    who deletes it runs the hooks.
    """
    if not job.has(Phase.UNSNAP, StepState.PLANNED, StepState.BEGUN):
        return
    # A sync that has reached the replica is over: whoever came has removed what was left to do.
    synced = job.has_begun(REMOVE_POINT) or (done and job.operation == SYNC)
    if synced and session.catalogue.temporary_points(volume.id):
        raise WrongStateError(f"the live snapshot that it took of {volume.name} is still there")
    if synced or (job.has_begun(REMOVE_LIVE) and not _are_all_live(session, job, volume)):
        _run(session, job, volume.name, Phase.UNSNAP, {Phase.UNSNAP})


def _are_all_live(session: Session, job: Job, volume: Volume) -> bool:
    """Whether what a prune or a deletion was removing is recorded as live still, all of it."""
    listed = job.arguments.get("live")
    removing = listed if isinstance(listed, list) else [job.arguments.get("text")]
    live = {str(point.id) for point in session.catalogue.live_points(volume.id)}
    return live.issuperset(map(str, removing))


def _run(session: Session, job: Job, held: str, phase: Phase, left_over: Collection[Phase]) -> None:
    """Run a phase in the job's place, unless it has not that step or the step is done.

    Hooks of the phases ``left_over`` that outlived their command are killed first: they would stop
    again what is let go now, or do beside this what it does.
    """
    position = next((at for at, step in enumerate(job.steps) if step.name == phase), None)
    if position is None or job.has(phase, StepState.DONE):
        return
    names = [each.name for each in session.catalogue.volumes() if each.id in job.volume_ids]
    orphans.end_hooks(job.pid, held, left_over)
    try:
        hooks = hooks_of(session, names)
        hooks.after(phase, "cut off")
        hook_runs.record(session.catalogue, job.id, phase, hooks.report())
    except ConfigurationError as error:
        log.warning("the %s hooks of job %d were not run: %s", phase, job.id, error)
    jobs.record_step(session.catalogue, job.id, position, StepState.DONE, None)
