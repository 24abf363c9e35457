"""Who uses a volume: units, stopped for a swap and started again; processes; layers on top of it.

Which units were stopped is noted in the run directory before the first is: whoever holds the volume
next starts them when a swap was killed, and after a restart of the host nothing needs to be known.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from dmsnap.catalogue.model import Volume
from dmsnap.errors import BusyError, DmsnapError, NotFoundError, WrongStateError
from dmsnap.host import blockdev, ending, mountinfo, process, replacement, systemd
from dmsnap.host.dm import device as dm
from dmsnap.host.process import ProcessUse
from dmsnap.host.sysfs import SYSFS
from dmsnap.service.journal import Step
from dmsnap.service.session import Session, make_directory
from dmsnap.snapshot import stack

log = logging.getLogger(__name__)


class Occupants:
    """The users of one volume, and the steps that stop and start them."""

    def __init__(self, session: Session, volume: Volume, *, kill: bool = False) -> None:
        require_no_layers(volume)
        self.volume = volume
        self.kill = kill
        self.grace_seconds = session.configuration.kill_wait_seconds
        self.note = note_path(session, volume)
        self.units = tuple(dict.fromkeys((*noted(self.note), *units_of(volume))))

    def steps_before(self) -> list[Step]:
        """What comes before the volume is unmounted."""
        steps = []
        if self.units:
            names = " ".join(self.units)
            steps.append(Step("stop-units", f"stop {names}", self._stop, self._start))
        if self.kill:
            steps.append(
                Step("end-users", f"end the processes that use {self.volume.name}", self._end)
            )
        return steps

    def require_leaving(self, wait_seconds: float) -> None:
        """Raise :class:`BusyError` for processes that would keep the volume from being unmounted.

        For a moment they may. Those of units go when these are stopped, all with ``kill``.
        """
        if self.units or self.kill:
            return
        staying = ending.staying(lambda: users_of(self.volume), wait_seconds)
        if staying:
            named = ", ".join(map(str, staying))
            raise BusyError(f"{self.volume.name} is kept busy by {named}", users=named)

    def steps_after(self) -> list[Step]:
        """What comes after it was mounted again."""
        if not self.units:
            return []
        return [Step("start-units", f"start {' '.join(self.units)}", self._start)]

    def _stop(self) -> None:
        make_directory(self.note.parent)
        replacement.replace_file(self.note, "".join(f"{unit}\n" for unit in self.units))
        for unit in self.units:
            systemd.stop(unit)

    def _start(self) -> None:
        start_stopped(self.note)

    def _end(self) -> None:
        for use in ending.end(lambda: users_of(self.volume), self.grace_seconds):
            log.warning("ended %s", use)


def note_path(session: Session, volume: Volume) -> Path:
    """Where it is noted which units are to be started again."""
    return session.configuration.run_directory / "stopped-units" / volume.name


def start_stopped(note: Path) -> None:
    """Start the units that are noted. One that fails is no reason to take a recovery back."""
    for unit in noted(note):
        try:
            systemd.start(unit)
        except DmsnapError as error:
            log.warning("%s", error)
    note.unlink(missing_ok=True)


def noted(note: Path) -> list[str]:
    """The units that a swap has stopped and not started again."""
    try:
        return note.read_text().split()
    except FileNotFoundError:
        return []


def units_of(volume: Volume) -> tuple[str, ...]:
    """The units to stop: those declared and those that require its mounts, as far as they run."""
    if not systemd.is_running():
        return ()
    units = list(volume.units)
    front = stack.find(stack.front(volume))
    for entry in mountinfo.mounts_of(front.devno) if front is not None else ():
        units += systemd.services_requiring(systemd.mount_unit(str(entry.mount_point)))
    return tuple(unit for unit in dict.fromkeys(units) if systemd.is_active(unit))


def check_units(units: Sequence[str]) -> None:
    """Raise for units that cannot be declared."""
    if units and not systemd.is_running():
        raise WrongStateError("--unit needs systemd, which is not the init of this host")
    for unit in units:
        if not systemd.exists(unit):
            raise NotFoundError(f"systemd knows no unit named {unit!r}", unit=unit)


def users_of(volume: Volume) -> list[ProcessUse]:
    """The processes that have a file of the volume open, or the front itself, if it is there."""
    front = stack.find(stack.front(volume))
    if front is None:
        return []
    places = [entry.mount_point for entry in mountinfo.mounts_of(front.devno)]
    found = [use for place in places for use in process.users_of(place)]
    return [*found, *process.openers_of(front.devno)]


def require_no_layers(volume: Volume) -> None:
    """Raise :class:`BusyError` for swap space, and for devices that others put on the front.

    They would go on with what they know of the content that was there before.
    """
    front = stack.find(stack.front(volume))
    if front is None:
        return
    node = dm.node(front.name)
    if blockdev.is_swap_space(front.devno):
        raise BusyError(
            f"{node} is used as swap space, whose content is worth nothing to a recovery",
            hint=f"swapoff {node} first, and mkswap and swapon afterwards",
        )
    for holder in SYSFS.holders(front.devno):
        uuid, name = SYSFS.dm_uuid(holder) or "", SYSFS.display_name(holder)
        if uuid.startswith("LVM-"):
            raise BusyError(
                f"{node} is an LVM physical volume in use: {name} lies on it",
                hint="deactivate its volume group first (vgchange -an VG), activate it afterwards",
            )
        raise BusyError(f"{node} is held by {name}", hint=f"take {name} down first")
