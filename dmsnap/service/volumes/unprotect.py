"""Unprotect: give the device back, byte for byte; the replica and its label stay."""

import logging
from dataclasses import replace
from functools import partial

from dmsnap._native import label
from dmsnap._native.label import LabelState
from dmsnap.catalogue.model import AreaRole, Job, MountRecord, Volume, VolumeState
from dmsnap.errors import BusyError, DmsnapError, ForeignDeviceError, WrongStateError
from dmsnap.host import fstab, lun, placeholder
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.host.lun import LunName
from dmsnap.recovery import replica
from dmsnap.service import journal
from dmsnap.service.exports import exported
from dmsnap.service.health import boot
from dmsnap.service.journal import Plan, Step
from dmsnap.service.luns import luns
from dmsnap.service.luns.luns import Wanted
from dmsnap.service.pools import pool_return
from dmsnap.service.reaper import held_unless_done
from dmsnap.service.replicas import settling
from dmsnap.service.session import Session
from dmsnap.service.swaps import mounting, trial
from dmsnap.service.swaps.withdrawal import Withdrawal, ends_without_volume, release_recovery
from dmsnap.service.volumes import assembly, first_copy, identity, live_link
from dmsnap.snapshot import layers, stack

log = logging.getLogger(__name__)


class Release:
    """The plan that takes a volume out of protection.

    Everything that could fail comes first. Undone, tracking starts again and the points on the
    primary are gone; from giving back the store on, it is only finished, if need be by running
    it again. ``wiping``: an earlier run had begun to wipe the label, which may be gone.
    """

    def __init__(
        self, session: Session, volume: Volume, *, forget: bool, wiping: bool = False
    ) -> None:
        if volume.state in (VolumeState.TRIAL, VolumeState.COMMITTING):
            raise WrongStateError(
                f"{volume.name} is in state {volume.state}",
                hint=f"dmsnap swap revert or dmsnap swap commit comes first; "
                f"{trial.way_out(volume)}",
            )
        require_unused(session, volume)
        whole = volume.state is not VolumeState.BUILDING and not wiping
        if forget and volume.recovery is not None and whole:
            replica.label_of(volume)
        self.session = session
        self.volume = volume
        self.pools = pool_return.pools_of(session, volume.recovery) if forget else ()
        self.former = volume.previous_backing if forget else None
        self.is_returned = bool(self.pools or pool_return.pools_of(session, self.former))
        # Looked up now: undoing must not depend on a catalogue whose disk is full.
        self.areas = session.catalogue.areas(volume.id)
        self.forget = forget
        # A protect or an unprotect that was killed may have unmounted it and come no further.
        unfinished = volume.state is VolumeState.BUILDING or not stack.exists(stack.front(volume))
        self.is_live = stack.live_front(volume) is not None
        unfinished = unfinished and not self.is_live
        # What its stack was over until now is its device.
        self.has_stack = not unfinished
        self.mounts = mountable(volume) if unfinished else ()

    def plan(self) -> Plan:
        name = self.volume.name
        record = f"record that {name} is not protected any more"
        steps = [
            *(self._steps_of_layers() if self.is_live else self._steps_of_stack()),
            self._release_store(),
            *self._steps_of_copies(),
            *self._steps_of_luns(),
            Step("record", record, self._record, final=True),
        ]
        arguments = {"name": name, "forget": self.forget}
        return Plan("unprotect", (self.volume.id,), steps, arguments)

    def _steps_of_stack(self) -> list[Step]:
        """The device is mounted where its front was."""
        name, device = self.volume.name, self.volume.backing
        return [
            Step("unmount", f"unmount /dev/mapper/{name}", self._unmount, self._mount_front),
            self._remove_stack(),
            self._show_device(),
            Step("mount", f"mount {device} where {name} was", self._mount, self._unmount_backing),
            self._withdraw_boot(),
        ]

    def _steps_of_layers(self) -> list[Step]:
        """An LV whose own table comes back is not unmounted for that."""
        volume = self.volume
        return [
            self._remove_stack(),
            self._show_device(),
            self._withdraw_boot(),
            Step(
                "hide-link",
                f"take the name {volume.name} from {volume.backing}",
                partial(live_link.hide, volume),
                partial(live_link.show, volume),
            ),
        ]

    def _remove_stack(self) -> Step:
        return Step(
            "remove-stack",
            f"remove the live points and the stack of {self.volume.name}",
            self._remove,
            self._rebuild,
        )

    def _show_device(self) -> Step:
        """A copy stays one, with or without its label: no boot is to mount it by its UUID. But for
        one that is forgotten, and is all that is left.
        """
        is_lost = not lun.is_present(self.volume.backing)
        forget = self.forget and not self.is_returned and is_lost
        return Step(
            "show-device",
            f"give {self.volume.backing} its links back",
            partial(boot.show, self.volume, forget=forget),
            partial(boot.hide, self.volume),
        )

    def _withdraw_boot(self) -> Step:
        volume = self.volume
        return Step(
            "withdraw-boot",
            f"have {volume.name} not assembled at boot, and fstab name {volume.backing}",
            partial(boot.withdraw, volume),
            partial(boot.prepare, volume, self.session.configuration.state_directory),
        )

    def _release_store(self) -> Step:
        what = f"give back what {self.volume.name} used of {self.volume.store}"
        return Step("release-store", what, self._store, final=True)

    def _steps_of_copies(self) -> list[Step]:
        """What becomes of the recovery volume, or of the former device where there is none."""
        recovery = self.volume.recovery
        if self.forget and recovery is not None:
            wipe = f"wipe the label of {recovery}"
            if self.pools:
                wipe += f", which goes back to the pool {', '.join(self.pools)}"
            return [Step("forget", wipe, self._wipe, final=True)]
        if self.former is not None and self.is_returned:
            leave = f"return {self.former}, to which failback would have led, to its pool"
            return [Step("leave-former", leave, self._leave_former, final=True)]
        if recovery is not None and self.volume.state is not VolumeState.BUILDING:
            release = partial(release_recovery, self.volume)
            return [Step("release-recovery", f"let any host take {recovery}", release, final=True)]
        return []

    def _steps_of_luns(self) -> list[Step]:
        return [
            Step(
                "log-out",
                f"log out of {each.target} at {each.portal}",
                partial(self._log_out, each),
                final=True,
            )
            for each in luns.names_of(self.volume)
        ]

    def _unmount(self) -> None:
        if dm.info(uuid=stack.front(self.volume).uuid) is not None:
            mounted = assembly.as_mounted(self.session, replace(self.volume, mounts=self.mounts))
            self.mounts = mounted.mounts
            self.session.catalogue.update_volume(mounted)
            assembly.unmount_front(mounted, self.session.configuration.unmount_wait_seconds)

    def _mount_front(self) -> None:
        if dm.info(uuid=stack.front(self.volume).uuid) is not None:
            mounting.mount_all(
                dm.node(self.volume.name),
                stack.require(stack.front(self.volume)).devno,
                self.mounts,
            )

    def _remove(self) -> None:
        # What is written from here on is not seen: said while it can be, should this be undone.
        self.session.distrust(self.volume)
        # The front goes first: while it can still be held by a user, nothing else is lost.
        if self.is_live:
            layers.take_out(self.volume, self.session.configuration.window_deadline_ms)
        stack.remove(stack.own_front(self.volume))
        for point in self.session.live_points(self.volume):
            self.session.drop_live_point(self.volume, point, "unprotect")
        stack.remove(stack.hydrated(self.volume))
        assembly.tear_down(self.volume)

    def _rebuild(self) -> None:
        """A volume that was never whole is not built: its device is mounted where it was."""
        if self.volume.state is VolumeState.BUILDING:
            self._mount()
            return
        assembly.build(self.session, self.volume, self.areas)

    def _mount(self) -> None:
        volume = replace(self.volume, mounts=self.mounts)
        if not mountable(volume, certain=self.has_stack):
            return  # the device may be what was lost
        device = BlockDevice.probe(lun.node(self.volume.backing))
        mounting.mount_all(device.path, device.devno, self.mounts)

    def _unmount_backing(self) -> None:
        if self.mounts and self.volume.state is not VolumeState.BUILDING:
            device = BlockDevice.probe(lun.node(self.volume.backing))
            wait_seconds = self.session.configuration.unmount_wait_seconds
            held_as = placeholder.source(self.volume.id, self.volume.name)
            mounting.unmount(device.devno, wait_seconds, self.mounts, held_as=held_as)

    def _store(self) -> None:
        for area in self.session.catalogue.areas(self.volume.id):
            self.session.release_area(self.volume, area)

    def _wipe(self) -> None:
        path = replica.recovery_path(self.volume)
        if replica.read_label(path) is not None:
            if self.pools:
                pool_return.note(self.session, self.volume, str(self.volume.recovery))
            with replica.opened(self.volume) as current:
                label.wipe(current.fd, current.device.size_bytes, str(path))
        for point in self.session.catalogue.points(self.volume.id):
            self.session.catalogue.delete_point(point.id, "unprotect --forget")

    def _leave_former(self) -> None:
        """The volume's device from before a commit; it may be what was lost."""
        if self.former is not None and lun.is_present(self.former):
            pool_return.leave(self.session, self.volume, self.former, offer=True)

    def _log_out(self, name: LunName) -> None:
        """The device that is given back may be a LUN: its session is the user's from now on."""
        if str(name) == self.volume.backing:
            luns.give_away(self.session, name)
        else:
            luns.release(self.session, name, but=self.volume.id)

    def _record(self) -> None:
        self.session.catalogue.remove_volume(self.volume.id)


def mountable(volume: Volume, *, certain: bool = False) -> tuple[MountRecord, ...]:
    """What is to be mounted again of a device whose stack is gone; where it is gone, too, nothing.

    Raises :class:`ForeignDeviceError` where its path leads to a replica, or, unless it is
    ``certain`` to be the volume's, to another device than it did. A line in fstab will name it.
    """
    if not volume.mounts and not is_in_fstab(volume):
        return ()
    try:
        identity.require_no_replica(volume)
        if not certain:
            device = BlockDevice.probe(lun.node(volume.backing))
            identity.require_led_to(volume, volume.backing, device)
    except ForeignDeviceError:
        raise
    except DmsnapError as error:
        log.warning("%s is not mounted: %s", volume.backing, error)
        return ()
    return volume.mounts if certain or is_its_content(volume) else ()


def is_in_fstab(volume: Volume) -> bool:
    """Whether a boot mounts the front by its name, and so the device from now on."""
    return any(entry.spec in boot.front_paths(volume) for entry in fstab.entries())


def is_its_content(volume: Volume) -> bool:
    """Whether what is at the volume's path may be mounted in its place."""
    try:
        identity.require_backing(volume)
    except DmsnapError as error:
        log.warning("%s is not mounted: %s", volume.backing, error)
        return False
    return True


def require_unused(session: Session, volume: Volume) -> None:
    """Raise while a point of the volume is mounted, or anything of it exported."""
    if session.catalogue.areas(volume.id, AreaRole.BROWSE):
        raise BusyError(
            f"a point of {volume.name} is mounted", hint="dmsnap point umount POINT comes first"
        )
    exported.require_unexported(session, volume)


def unprotect(
    session: Session, name: str, *, forget: bool, give_up: bool = False, dry_run: bool
) -> Plan | None:
    """Take ``name`` out of protection; ``forget`` wipes the recovery volume's label too.

    ``give_up``: a trial, or its commit, that can neither be kept nor reverted.
    """
    wanted = Wanted.REPLICA if forget else Wanted.THERE
    with held_unless_done(session, name, "unprotect", wanted) as volume:
        if volume is None:
            return None
        if give_up:
            require_no_way(session, volume)
        plan = ending(session, volume, forget=forget, give_up=give_up)
        if dry_run:
            return plan
        journal.run(session.catalogue, plan)
    return None


def require_no_way(session: Session, volume: Volume) -> None:
    """Raise :class:`WrongStateError` while a trial or its commit can be kept or reverted."""
    # Imported here: nobody else who unprotects needs what these do.
    from dmsnap.service.swaps import impasse
    from dmsnap.service.swaps.revert import Revert

    committing = volume.state is VolumeState.COMMITTING
    impasse.require_no_way(session, volume, partial(Revert, session, volume, give_up=committing))


def ending(
    session: Session, volume: Volume, *, forget: bool, wiping: bool = False, give_up: bool = False
) -> Plan:
    """The plan that takes a volume out of protection, or what was recovered by a label alone."""
    if give_up:
        require_unused(session, volume)
        return Withdrawal(session, volume, give_up=True).plan()
    if ends_without_volume(volume) and not forget:
        return Withdrawal(session, volume).plan()
    return Release(session, volume, forget=forget, wiping=wiping).plan()


def finish(session: Session, volume: Volume, job: Job) -> bool:
    """Undone while the front is there: it is mounted again, else the device is given back."""
    if stack.live_front(volume):
        intact = layers.are_in_place(volume)
    else:
        intact = stack.exists(stack.front(volume))
    if intact:
        if stack.live_front(volume):
            live_link.show(volume)
        boot.prepare(volume, session.configuration.state_directory)
        boot.hide(volume)
        return False
    forget, wiping = bool(job.arguments["forget"]), job.has_begun("forget")
    give_up = bool(job.arguments.get("give_up", False))
    plan = ending(session, volume, forget=forget, wiping=wiping, give_up=give_up)
    journal.run(session.catalogue, plan)
    return True


def take_back(session: Session, volume: Volume) -> None:
    """Give back the device of a protect that was cut off, and leave nothing of its copy.

    A recovery volume that was there before is again the point that it was.
    """
    wipe_half_copy(session, volume)
    give_up_copy(volume)
    # Looked for now: a LUN is logged out of.
    is_copy = is_there(volume) and replica.read_label(replica.recovery_path(volume)) is not None
    journal.run(session.catalogue, Release(session, volume, forget=False).plan())
    if not is_copy:
        boot.show(volume)  # there is no copy that would have to stay hidden


def give_up_copy(volume: Volume) -> None:
    """Have a recovery volume hold a point, if it was being brought up to date, and be anybody's."""
    if not is_there(volume) or replica.read_label(replica.recovery_path(volume)) is None:
        return
    if settling.bring_back(volume):
        release_recovery(volume)


def is_there(volume: Volume) -> bool:
    """Whether the recovery volume can be looked at."""
    return volume.recovery is not None and lun.is_present(volume.recovery)


def wipe_half_copy(session: Session, volume: Volume) -> None:
    """Leave nothing of a first copy that is not whole, as its label says."""
    if not is_there(volume):
        return
    path = replica.recovery_path(volume)
    found = replica.read_label(path)
    if found is None or found.volume_uuid != volume.id or found.state is not LabelState.COPYING:
        return
    first_copy.wipe_part(session, path, found.recovery_uuid)
