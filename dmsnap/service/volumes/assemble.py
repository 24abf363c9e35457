"""Assemble: build the stack of a recorded volume again, after a reboot or a removal by others."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dmsnap.catalogue import jobs
from dmsnap.catalogue.model import Area, AreaRole, Volume, VolumeState
from dmsnap.errors import (
    BusyError,
    ConfigurationError,
    DeadlineError,
    DmsnapError,
    ExitCode,
    LockedError,
    NotFoundError,
    WrongStateError,
)
from dmsnap.host import lun, reach, udev
from dmsnap.host.sysfs import SYSFS
from dmsnap.service import journal
from dmsnap.service.configuration import configuration
from dmsnap.service.exports import export_restore, exported
from dmsnap.service.health import boot
from dmsnap.service.hydrations import crossing
from dmsnap.service.journal import Plan, Step
from dmsnap.service.luns import luns
from dmsnap.service.luns.luns import Wanted
from dmsnap.service.reaper import held
from dmsnap.service.session import Session
from dmsnap.service.swaps import owed_record, trial
from dmsnap.service.swaps.withdrawal import is_cut_off
from dmsnap.service.volumes import assembly, identity, renewal
from dmsnap.service.volumes.renewal import Renewal
from dmsnap.snapshot import layers, stack
from dmsnap.snapshot.space import open_space
from dmsnap.tracking.choice import new_tracking_id

# The front lies over the recovery volume.
OVER_REPLICA = (VolumeState.TRIAL, VolumeState.COMMITTING)

# At boot a volume comes up as far as it was, for what is mounted from it: what a command left
# half done is for the next command to finish or take back.
ASSEMBLED_BY_HAND = (VolumeState.PROTECTED, VolumeState.PROMOTED, VolumeState.TRIAL)

CHANGING_BOOT = ("protect", "unprotect", "swap from-label")


@dataclass(frozen=True, slots=True)
class AssembleResult:
    """How one of several volumes fared."""

    volume: str
    error: str | None
    exit_code: ExitCode


class Assembly:
    """Build the stack of a recorded volume again, after a reboot or a removal by others."""

    def __init__(self, session: Session, volume: Volume, *, at_boot: bool = False) -> None:
        if is_cut_off(volume) or not (at_boot or may_be_built(volume)):
            raise WrongStateError(f"{volume.name} is in state {volume.state}: not assembled")
        if needs_backing(volume):  # else it may be dead
            require_backing(volume)
        else:
            trial.require_recovery(volume)
        self.session = session
        self.at_boot = at_boot
        # A new tracking id: what was written while the stack did not exist was not seen,
        # so the next sync compares.
        live = stack.live_front(volume)
        self.volume = replace(volume, tracking_id=new_tracking_id(), live=live)

    def plan(self) -> Plan:
        return Plan("assemble", (self.volume.id,), self.steps(), {"name": self.volume.name})

    def steps(self) -> list[Step]:
        name, state_directory = self.volume.name, self.session.configuration.state_directory
        steps = [
            Step("drop-points", f"drop live points of {name} that broke", self._drop_points),
            Step("distrust", f"distrust the tracking of {name} so far", self._record),
            Step("create-stack", f"build the stack of {name}", self._build),
        ]
        if not self.at_boot:
            steps += [
                Step(
                    "prepare-boot",
                    f"have {name} assembled at boot",
                    partial(boot.prepare, self.volume, state_directory),
                ),
                Step(
                    "hide-twins",
                    f"keep what carries the file system of {name} out of /dev/disk/by-uuid",
                    partial(boot.hide, self.volume),
                ),
            ]
        # At boot that is for the mount units, with the options that fstab has by now.
        if self.volume.mounts and not self.at_boot:
            steps.append(Step("mount", f"mount /dev/mapper/{name}", self._mount))
        return steps

    def _drop_points(self) -> None:
        shown = self.volume.trial_point if self.volume.trial_live else None
        assembly.drop_broken_points(self.session, self.volume, but=shown)

    def _record(self) -> None:
        self.session.catalogue.update_volume(self.volume)

    def _build(self) -> None:
        areas = self.session.catalogue.areas(self.volume.id)
        if self.volume.state in OVER_REPLICA:
            assembly.build_trial(self.session, self.volume, areas)
        else:
            assembly.build(self.session, self.volume, areas)

    def _mount(self) -> None:
        assembly.mount_front(self.volume)


def may_be_built(volume: Volume) -> bool:
    """Whether a command may build it: of a commit that is under way only what a boot could not, as
    a disk came too late.
    """
    if volume.state is VolumeState.COMMITTING:
        return not stack.exists(stack.front(volume))
    return volume.state in ASSEMBLED_BY_HAND


def needs_backing(volume: Volume) -> bool:
    """Whether the front lies over the primary, and not over the recovery volume."""
    return volume.state not in OVER_REPLICA or volume.trial_live


def require_backing(volume: Volume) -> None:
    """As service.volumes.identity has it; of a volume that can be recovered it is said how."""
    try:
        identity.require_backing(volume)
    except DmsnapError as error:
        error.hint = error.hint or way_out(volume)
        raise


def way_out(volume: Volume) -> str | None:
    """What to do about a primary that is lost; None: there is nothing to recover the volume by."""
    if volume.state is not VolumeState.PROTECTED or volume.recovery is None:
        return None
    return f"if it is lost, dmsnap swap {volume.name} puts the recovery volume in its place"


def is_assembled(session: Session, volume: Volume) -> bool:
    """Whether nothing is missing. Over a replica a front that is there was built as a whole."""
    is_there = stack.exists(stack.front(volume))
    if volume.state in OVER_REPLICA or not is_there:
        return is_there
    areas, points = session.catalogue.areas(volume.id), session.catalogue.points(volume.id)
    return not stack.problems(volume, areas, points)


def assemble(session: Session, name: str, *, dry_run: bool, at_boot: bool = False) -> Plan | None:
    """Build what is missing or wrong of a volume's stack, and mount it. Needs root.

    With ``at_boot`` devices are waited for, whatever state the volume is in comes up as what it
    was, and mounting is left to those who mount at boot.
    """
    with telling_way_back(session, name):
        return _assemble(session, name, dry_run=dry_run, at_boot=at_boot)


@contextmanager
def telling_way_back(session: Session, name: str) -> Iterator[None]:
    """What a trial lies over may be gone for good: the error says how it is ended, too."""
    try:
        yield
    except (BusyError, LockedError, ConfigurationError, WrongStateError):
        raise
    except DmsnapError as error:
        volume = session.catalogue.find_volume(name)
        if volume is not None and (way := trial.way_back(volume)) is not None:
            error.hint = f"{error.hint}; {way}" if error.hint else way
        raise


def _assemble(session: Session, name: str, *, dry_run: bool, at_boot: bool) -> Plan | None:
    recorded = session.catalogue.volume(name)
    expected, patience_seconds = recorded, reach.ANSWER_SECONDS
    if at_boot:
        expected = owed_record.expected(session, crossing.expected(session, recorded))
        wait_for_devices(session, expected)
        patience_seconds = max(patience_seconds, session.configuration.boot_wait_seconds)
    require_answers(expected, patience_seconds)
    wanted = Wanted.SERVING_ALONE if at_boot else Wanted.SERVING
    with held(session, name, wanted, concluding=not at_boot) as volume:
        if at_boot and volume.serving != recorded.serving:
            wait_for_devices(session, volume)  # a failback was taken back
        if at_boot and is_cut_off_half_way(session, volume):
            return None
        if at_boot and is_cut_off(volume):
            volume = recorded_as_trial(session, volume)
        renewing, volume = _renew(session, volume, dry_run=dry_run)
        if renewing is not None and dry_run:
            return renewing
        state_directory = session.configuration.state_directory
        prepared = at_boot or not any(boot.wrong_files(volume, state_directory))
        if not (prepared and is_assembled(session, volume)):
            plan = Assembly(session, volume, at_boot=at_boot).plan()
            if dry_run:
                return plan
            journal.run(session.catalogue, plan)
        if at_boot:
            _note_clock(state_directory)
        else:  # at boot there may be no network yet: a unit of its own does it
            for export in exported.of_volume(session, volume):
                export_restore.restore_held(session, export)
    return None


def note_shutdown() -> None:
    """Note what the clock says as the host goes down: where it was set in this boot, the next one
    could not tell that from the time that the host was off. No catalogue is opened.
    """
    _note_clock(configuration.load().state_directory)


def _note_clock(state_directory: Path) -> None:
    # Imported where it is needed: commands that put layers back have no use for policies.
    from dmsnap.service.points import clock_record

    clock_record.note(state_directory)


def _renew(session: Session, volume: Volume, *, dry_run: bool) -> tuple[Plan | None, Volume]:
    """Where dm-era's marks are worth nothing, the plan by which it begins anew; carried out."""
    if renewal.reason(session, volume) is None:
        return None, volume
    renewing = Renewal(session, volume)
    plan = Plan("assemble", (volume.id,), renewing.steps(), {"name": volume.name})
    if dry_run:
        return plan, volume
    journal.run(session.catalogue, plan)
    return plan, renewing.volume


def is_cut_off_half_way(session: Session, volume: Volume) -> bool:
    """Whether what changes how a boot goes died between telling systemd and telling fstab.

    The boot mounts the device itself then, and the job is concluded afterwards.
    """
    cut_off = jobs.unfinished(session.catalogue, volume.id)
    changing = any(job.operation in CHANGING_BOOT for job in cut_off)
    return changing and boot.is_half_way(volume)


def recorded_as_trial(session: Session, volume: Volume) -> Volume:
    """A recovery by a label that only lacked its record when power was lost: fstab waits for it."""
    recorded = replace(volume, state=VolumeState.TRIAL)
    trial.require_recovery(recorded)
    session.catalogue.update_volume(recorded)
    return recorded


def wait_for_devices(session: Session, volume: Volume) -> None:
    """Wait for what the stack cannot be built without: not for the recovery volume otherwise.

    And for what says whether a failback is to be finished: the marks of the generation before.
    """
    returning = volume.state is VolumeState.PROTECTED and volume.parting is not None
    generations = {volume.generation, volume.generation - returning}
    nodes = [
        Path(area.path)
        for area in session.catalogue.areas(volume.id)
        if not volume.store.startswith("/")
        and area.role in (AreaRole.ERA_METADATA, AreaRole.OVERLAY, AreaRole.COW)
        and (area.generation in generations or is_shown(volume, area))
    ]
    seconds = session.configuration.boot_wait_seconds
    if lun.is_name(volume.serving):
        luns.attach_all(session, volume, Wanted.SERVING_ALONE)
    else:
        nodes.insert(0, Path(volume.serving))
    missing = udev.wait_for_nodes(nodes, seconds)
    if missing and not needs_store(volume):
        # What lies in the store is not waited for any longer: the volume comes first.
        missing = [path for path in missing if str(path) == volume.serving]
    if missing:
        hint = f"dmsnap assemble {volume.name} does it when the device is there"
        if str(missing[0]) == volume.backing and (otherwise := way_out(volume)):
            hint += f"; {otherwise}"
        raise NotFoundError(
            f"{volume.name} cannot be assembled: {missing[0]} did not appear within {seconds:g} s",
            hint=hint,
            device=str(missing[0]),
        )


def require_answers(volume: Volume, patience_seconds: float) -> None:
    """Raise :class:`DeadlineError` for a disk that hangs, before the volume is held.

    Who builds a stack with it would hang, and with it the boot, for which there is no end then, and
    whoever wants the volume's lock, as a swap that is to do without that disk.
    """
    silent = reach.silent(list(below(volume)), patience_seconds)
    if silent:
        hint = f"dmsnap assemble {volume.name} does it when the disk is well again"
        if silent[0] not in places_of_store(volume) and (otherwise := way_out(volume)):
            hint += f"; {otherwise}"
        raise DeadlineError(
            f"{volume.name} cannot be assembled: {silent[0]} {reach.HANGS}",
            hint=hint,
            device=str(silent[0]),
        )


def below(volume: Volume) -> Iterator[Path]:
    """What a volume is built of, as far as it is there, past what is built already."""
    if needs_backing(volume):
        if lun.is_present(volume.backing):
            yield from layers.below(volume)
    elif volume.recovery is not None and lun.is_present(volume.recovery):
        yield lun.node(volume.recovery)
    yield from places_of_store(volume)


def places_of_store(volume: Volume) -> list[Path]:
    """The disks of a store's file system. Of a volume group LVM is not asked, which looks at all
    disks of the host.
    """
    if not volume.store.startswith("/"):
        return []
    try:
        return [SYSFS.device_path(devno) for devno in open_space(volume.store).devices()]
    except DmsnapError:
        return []  # it is not there


def needs_store(volume: Volume) -> bool:
    """Whether a volume cannot be shown without its store: else its front leads past dm-era.

    By the marks in it a failback is finished or taken back.
    """
    return volume.state in OVER_REPLICA or volume.parting is not None


def is_shown(volume: Volume, area: Area) -> bool:
    """Whether a piece of the store is the COW store of the live point that a trial shows."""
    return volume.trial_live and area.point_id == volume.trial_point


def assemble_all(session: Session, *, at_boot: bool = False) -> list[AssembleResult]:
    """Every volume; one that fails does not keep the others from it. Needs root."""
    results = []
    for volume in session.catalogue.volumes():
        error: DmsnapError | None = None
        try:
            assemble(session, volume.name, dry_run=False, at_boot=at_boot)
        except DmsnapError as failure:
            error = failure
        code = error.exit_code if error else ExitCode.OK
        results.append(AssembleResult(volume.name, str(error) if error else None, code))
    return results
