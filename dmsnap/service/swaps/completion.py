"""A swap that was cut off behind its record, and cannot be taken back: it goes on to its end.

There may be nothing to go back to: after a boot without the primary there was no front, or what the
primary holds cannot be mounted any more.
"""

import logging

from dmsnap.catalogue.model import Job, Volume
from dmsnap.errors import DmsnapError, MountPointTakenError
from dmsnap.service.session import Session
from dmsnap.service.swaps import occupants, trial
from dmsnap.service.volumes import assembly
from dmsnap.snapshot import stack

log = logging.getLogger(__name__)


def complete(session: Session, volume: Volume) -> None:
    """Have the front show the trial that is recorded, and be in use again. Needs root."""
    areas = session.catalogue.areas(volume.id)
    front = stack.find(stack.front(volume))
    if front is not None and front.live_table:
        trial.load_front(session, volume, stack.era_area(volume, areas))
    else:
        assembly.build_trial(session, volume, areas)
    put_to_use(session, volume)


def put_to_use(session: Session, volume: Volume) -> None:
    """Mount the front and start the units that a swap had stopped.

    A courtesy: what fails of it keeps no command from the volume, whose primary may be just what
    that command is to replace.
    """
    try:
        assembly.mount_front(volume)
    except MountPointTakenError:  # it waits for its place
        raise
    except DmsnapError as error:
        log.warning("%s is not mounted again: %s", volume.name, error)
    else:
        occupants.start_stopped(occupants.note_path(session, volume))


def prepare_boot(session: Session, name: str, job: Job) -> None:
    """Have a boot wait for the network where the front is on a LUN now, and no more where it was:
    the job that was to see to that may have been cut off between its record and that step.
    """
    if not any(step.name == "prepare-boot" for step in job.steps):
        return
    volume = session.catalogue.find_volume(name)
    if volume is not None:
        # Imported where it is needed: who only looks for what was cut off has no use for it.
        from dmsnap.service.health import boot

        boot.prepare(volume, session.configuration.state_directory)
