"""Trials and commits that no command brings to their end any more: a disk is gone for good.

They are given up only when that was asked for, and only where nothing else can be done: what a
command could keep still, or keep when a disk is back, is not for us to drop.
"""

import logging
from collections.abc import Callable

from dmsnap.catalogue import jobs
from dmsnap.catalogue.model import Volume, VolumeState
from dmsnap.errors import BusyError, DmsnapError, WrongStateError
from dmsnap.host.blockdev import BlockDevice
from dmsnap.recovery import chain, replica
from dmsnap.service import journal
from dmsnap.service.session import Session
from dmsnap.service.swaps import merging, promotion, trial
from dmsnap.service.volumes import identity
from dmsnap.snapshot import cow_store, stack

log = logging.getLogger(__name__)

UNDER_WAY = (VolumeState.TRIAL, VolumeState.COMMITTING)


def require_no_commit(session: Session, volume: Volume) -> None:
    """Raise :class:`WrongStateError` while a commit that is under way can come to its end."""
    if volume.state is not VolumeState.COMMITTING:
        raise WrongStateError(
            f"{volume.name} is in state {volume.state}: there is no commit to give up"
        )
    if merging.failure(volume) is not None:
        _require_failing(session, volume)
        return
    is_shown = trial.lies_over(volume)
    if is_shown and _works(lambda: promotion.committing(session, volume, drop_points=True)):
        raise _not_given_up(volume, f"dmsnap swap commit {volume.name} brings it to its end")
    if not is_shown and _works(lambda: _require_buildable(session, volume)):
        raise _not_given_up(
            volume,
            f"dmsnap assemble {volume.name} builds it again, and dmsnap swap commit {volume.name} "
            f"brings it to its end",
        )


def _require_failing(session: Session, volume: Volume) -> None:
    """Raise :class:`WrongStateError` if a merge that failed does not fail any more.

    One that is among the jobs was tried when the volume was held; a catalogue that was made again
    has none.
    """
    unfinished = jobs.unfinished(session.catalogue, volume.id)
    if any(job.operation == "swap commit" for job in unfinished):
        return
    try:
        plan = promotion.committing(session, volume, drop_points=True)
        journal.run(session.catalogue, plan)
    except (BusyError, WrongStateError) as error:
        hint = f"dmsnap swap commit {volume.name} brings it to its end"
        raise _not_given_up(volume, hint) from error
    except DmsnapError as error:
        log.debug("%s", error)
        return
    raise WrongStateError(f"the commit of {volume.name} is not given up: it has come to its end")


def require_no_way(session: Session, volume: Volume, reverting: Callable[[], object]) -> None:
    """Raise :class:`WrongStateError` while a trial or its commit can be kept or reverted.

    ``reverting`` makes the checks of a revert, and of one that gives a commit up.
    """
    if volume.state not in UNDER_WAY:
        raise WrongStateError(
            f"{volume.name} is in state {volume.state}: there is no trial to give up",
            hint=f"dmsnap unprotect {volume.name} needs no --give-up",
        )
    if volume.state is VolumeState.COMMITTING:
        require_no_commit(session, volume)
        if _holds(reverting):
            raise _not_given_up(
                volume, f"dmsnap swap revert {volume.name} --give-up goes back to {volume.backing}"
            )
        return
    if _holds(reverting):
        raise _not_given_up(volume, f"dmsnap swap revert {volume.name} ends it")
    if not trial.lies_over(volume):
        if _works(lambda: _require_buildable(session, volume)):
            raise _not_given_up(volume, f"dmsnap assemble {volume.name} builds it again")
    elif _works(lambda: promotion.committing(session, volume, drop_points=True)):
        raise _not_given_up(volume, f"dmsnap swap commit {volume.name} keeps it")


def _not_given_up(volume: Volume, hint: str) -> WrongStateError:
    what = "commit" if volume.state is VolumeState.COMMITTING else "trial"
    return WrongStateError(f"the {what} of {volume.name} is not given up: it can go on", hint=hint)


def _holds(reverting: Callable[[], object]) -> bool:
    """Whether there is something to go back to. A trial that is none to revert says so itself."""
    try:
        reverting()
    except BusyError:
        return True
    except DmsnapError:
        return False
    return True


def _works(attempt: Callable[[], object]) -> bool:
    """Whether what a command checks first holds; somebody who uses a volume leaves it some time."""
    try:
        attempt()
    except (BusyError, WrongStateError):
        return True
    except DmsnapError:
        return False
    return True


def _require_buildable(session: Session, volume: Volume) -> None:
    """Raise unless what a boot would build the trial of is there; nothing is changed."""
    areas = session.catalogue.areas(volume.id)
    if volume.trial_live:
        identity.require_backing(volume)
        store = stack.attach_area(volume, trial.point_area(areas, volume.trial_point))
        cow_store.require_device(store, volume.chunk_bytes, f"the COW store of {volume.name}")
    else:
        label = trial.require_recovery(volume)
        levels = trial.levels_by(volume, label)
        recovery = BlockDevice.probe(replica.recovery_path(volume))
        chain.require_whole(recovery, label.history[: len(levels)])
    overlay = stack.attach_area(volume, trial.overlay_area(volume, areas))
    cow_store.require_header(overlay, f"the overlay of the trial of {volume.name}")
