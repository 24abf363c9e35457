"""Extend: more room for what a trial writes, while it is written."""

from dataclasses import dataclass
from functools import partial

from dmsnap.catalogue.model import Job, Volume, VolumeState
from dmsnap.errors import NoSpaceError
from dmsnap.service import journal
from dmsnap.service.journal import Plan, Step
from dmsnap.service.luns.luns import Wanted
from dmsnap.service.reaper import held
from dmsnap.service.session import Session
from dmsnap.service.swaps import overlay, trial
from dmsnap.units import MIB, align_up, format_size


@dataclass(frozen=True, slots=True)
class ExtendResult:
    """The overlay's size now."""

    volume: str
    used_bytes: int
    total_bytes: int


class Extension:
    """The plan that grows a trial's overlay."""

    def __init__(self, session: Session, volume: Volume, size_bytes: int | None) -> None:
        trial.require_trial(volume)
        self.session = session
        self.volume = volume
        self.area = trial.overlay_area(volume, session.catalogue.areas(volume.id))
        largest_bytes = overlay.largest_bytes(volume)
        wanted_bytes = 2 * self.area.size_bytes if size_bytes is None else size_bytes
        self.size_bytes = align_up(min(wanted_bytes, largest_bytes), MIB)
        overlay.require_extendable(volume, self.area, self.size_bytes)

    def plan(self) -> Plan:
        grow = partial(self.session.extend_area, self.volume, self.area, self.size_bytes)
        room = format_size(self.size_bytes)
        step = Step("extend", f"give the overlay of {self.volume.name} {room} in all", grow)
        arguments = {"name": self.volume.name, "size_bytes": self.size_bytes}
        return Plan("swap extend", (self.volume.id,), [step], arguments)

    def result(self) -> ExtendResult:
        now = overlay.status(self.volume, None)
        return ExtendResult(self.volume.name, now.used_bytes, now.total_bytes)


def extend(
    session: Session, name: str, *, size_bytes: int | None, dry_run: bool
) -> ExtendResult | Plan:
    """Give a trial's overlay ``size_bytes`` in all, by default twice what it has. Needs root."""
    with held(session, name, Wanted.SERVING_ALONE) as volume:
        extension = Extension(session, volume, size_bytes)
        plan = extension.plan()
        if dry_run:
            return plan
        journal.run(session.catalogue, plan)
        return extension.result()


def finish(session: Session, volume: Volume, job: Job) -> bool:
    """Grown in part it may be: it gets what it was to get, if the store still has it."""
    if volume.state is not VolumeState.TRIAL:
        return False
    area = trial.overlay_area(volume, session.catalogue.areas(volume.id))
    try:
        size_bytes = int(str(job.arguments["size_bytes"]))
        session.extend_area(volume, area, max(area.size_bytes, size_bytes))
    except NoSpaceError:
        return False
    return True
