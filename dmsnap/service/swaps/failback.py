"""Failback: from a promoted recovery volume back to the former primary, which is served again.

The former primary is brought up to date while the front serves, by what either side changed since
they parted; then once more with the front unmounted, by what was written meanwhile. It takes over
under the same name, and the promoted volume is its recovery volume again, at the point of that
moment: nothing is copied to it.

Interrupted before the front is over, it goes on over the promoted volume; the former primary is
half of one and half of the other then, and every block in which they differ is still one that
either side's marks, or a comparison, names.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from uuid import uuid4

from dmsnap._native import copy
from dmsnap._native.copy import CopyOptions
from dmsnap._native.extent_set import MOST_EXTENTS, ExtentSet
from dmsnap._native.label import Label, LabelState
from dmsnap.catalogue import skipped
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.export import ExportKind
from dmsnap.catalogue.model import Job, Point, Volume, VolumeState
from dmsnap.catalogue.skipped import Skipped
from dmsnap.errors import (
    CorruptError,
    ForeignDeviceError,
    OperatingSystemError,
    ReadOnlyError,
    TooSmallError,
    WrongStateError,
)
from dmsnap.host import counting, lun, signature
from dmsnap.host.blockdev import BlockDevice, open_exclusive, open_shared
from dmsnap.host.counting import UncountedError
from dmsnap.host.dm import device as dm
from dmsnap.recovery import replica
from dmsnap.service import journal
from dmsnap.service.exports import exported
from dmsnap.service.health import boot
from dmsnap.service.journal import Plan, Step, StepTimes
from dmsnap.service.luns import lun_watch
from dmsnap.service.points import browse
from dmsnap.service.progress import Progress, of_total
from dmsnap.service.reaper import held
from dmsnap.service.replicas import read_back, rolling
from dmsnap.service.replicas.audit import Audit, AuditResult
from dmsnap.service.replicas.read_back import Copied
from dmsnap.service.resizing import sizes
from dmsnap.service.session import Session
from dmsnap.service.swaps import handover, parting, trial
from dmsnap.service.swaps.occupants import Occupants
from dmsnap.service.volumes import assembly, identity, spare
from dmsnap.service.volumes.spare import NextMetadata
from dmsnap.snapshot import stack, write_count
from dmsnap.tracking.choice import Tracker, new_tracking_id

log = logging.getLogger(__name__)

WITHOUT_MOUNT = ("unmount", "last-copy", "record", "load-front", "label", "mount")


@dataclass(frozen=True, slots=True)
class FailbackResult:
    """What was copied to the former primary, and how long the volume was not mounted."""

    volume: str
    device: str
    recovery: str
    point: str
    tracker: Tracker
    reason: str | None
    bytes_compared: int
    bytes_copied: int
    bytes_volume: int
    unmounted_seconds: float
    seconds: float
    steps: dict[str, float]
    audit: AuditResult


class Failback:
    """The plan of one failback; its checks are made when it is built."""

    def __init__(
        self,
        session: Session,
        volume: Volume,
        progress: Progress | None,
        audit: Audit = Audit.NONE,
    ) -> None:
        self.session = session
        self.audited = AuditResult(audit)
        self.volume = volume
        self.progress = progress
        self.occupants = Occupants(session, volume)
        self.former = require_former(session, volume)
        self.label = require_primary(volume)
        self.after = replace(
            volume,
            state=VolumeState.PROTECTED,
            backing=str(volume.previous_backing),
            device_bytes=sizes.to_record(volume, self.former.size_bytes),
            recovery=volume.backing,
            recovery_id=self.label.recovery_uuid,
            generation=volume.generation + 1,
            tracking_id=new_tracking_id(),
            previous_backing=None,
            parting=None,
        )
        self.after = identity.noted(self.after, self.after.backing, self.former.devno)
        self.metadata = NextMetadata(session, self.after)
        self.reason = parting.doubt(session, volume, self.former)
        self.bytes_beside = write_count.bytes_beside(self._counts, volume)
        self.point_id = uuid4()
        self.since = 0
        self.gone_over = False
        # What the held origin counts by our own writes alone; None: that is not known.
        self.sectors_held: int | None = None
        self.held_was_written_to = False  # by somebody else
        self.compared = ExtentSet()
        self.copied = ExtentSet()
        self.bytes_compared = 0
        self.bytes_copied = 0

    def plan(self) -> Plan:
        name, device = self.volume.name, self.former.path
        state_directory = self.session.configuration.state_directory
        steps = [
            Step(
                "create-era-metadata",
                f"create era metadata in {self.volume.store}",
                self.metadata.create,
                self.metadata.release,
            ),
            Step("create-origin", f"put a snapshot-origin over {device}", self._hold, self._let_go),
            Step("copy", f"copy to {device} what either side changed", self._copy_parted),
            Step("catch-up", f"copy to {device} what changed meanwhile", self._copy_since),
            *self._steps_of_audit(),
            *self.metadata.steps(),
            *self.occupants.steps_before(),
            Step("unmount", f"unmount /dev/mapper/{name}", self._unmount, self._mount_before),
            Step("last-copy", f"copy to {device} what changed since", self._copy_since),
            Step("record", f"record that {name} is back on {device}", self._record, self._unrecord),
            Step(
                "load-front",
                f"put {device} under /dev/mapper/{name}",
                self._load,
                self._unload,
            ),
            Step(
                "label",
                f"mark {self.volume.backing} as the recovery volume",
                self._label,
                self._unlabel,
            ),
            *boot.network_steps(self.volume, self.after, state_directory),
            Step(
                "mount",
                f"mount /dev/mapper/{name}",
                self._mount_after,
                self._unmount_after,
            ),
            *self.occupants.steps_after(),
            Step(
                "retire",
                f"take down the stack over {self.volume.backing}",
                partial(handover.retire, self.session, self.after),
                final=True,
            ),
        ]
        arguments = {"name": name, "audit": self.audited.kind}
        return Plan("failback", (self.volume.id,), steps, arguments)

    def _steps_of_audit(self) -> list[Step]:
        if self.audited.kind is Audit.NONE:
            return []
        what = f"read {self.former.path} back and compare ({self.audited.kind})"
        return [Step("audit", what, self._audit)]

    def _audit(self) -> None:
        options = CopyOptions(source_name=self.volume.backing)
        with self._sides() as (source, target):
            copied = Copied(
                source, target, str(self.former.path), self.copied, self._left_out(), self.since
            )
            self.audited = read_back.audited(
                self.session, self.volume, copied, self.audited.kind, options, self.progress
            )

    def _left_out(self) -> ExtentSet:
        """What neither side has had of the other: remains that nobody can read."""
        catalogue, recovery_id = self.session.catalogue, self.label.recovery_uuid
        left_out = skipped.of_replica(catalogue, recovery_id, self.volume.id)
        return left_out.without(self.compared)

    @property
    def _counts(self) -> Path:
        return self.session.configuration.run_directory

    def _hold(self) -> None:
        """From here on nobody else can mount the former primary, and what we write is counted."""
        with open_exclusive(self.former.path, write=True):
            pass
        device = stack.origin(self.after)
        dm.create(device.name, device.uuid, stack.origin_table(self.after, self.former))
        write_count.remember(self._counts, self.after)
        self.sectors_held = self._count_held()

    def _count_held(self) -> int | None:
        """Somebody may write to the origin itself: the device below counts that as it does ours.

        None: it is not counted, and nobody can say.
        """
        try:
            return counting.sectors_written(stack.require(stack.origin(self.after)).devno)
        except UncountedError as error:
            log.warning("who else writes to %s is not known: %s", self.former.path, error)
            return None

    def _let_go(self) -> None:
        """What was written here is no surprise to the next failback; anything else is.

        Not while the front lies over it, because somebody uses it by now.
        """
        if trial.lies_over(self.after):
            return
        if self.reason is None and self._only_we_wrote():
            assert self.volume.parting is not None  # noqa: S101 - it would be a reason
            sectors, _ = parting.sectors_written(self.after.backing)
            known = replace(self.volume.parting, sectors_written=sectors)
            self.session.catalogue.update_volume(replace(self.volume, parting=known))
        write_count.forget(self._counts, self.after)
        stack.remove(stack.origin(self.after))

    def _only_we_wrote(self) -> bool:
        if not stack.exists(stack.origin(self.after)) or self._look_at_held():
            return False
        if self.sectors_held is None:
            return False
        return write_count.is_untouched(self._counts, self.after)

    def _look_at_held(self) -> bool:
        """Whether anybody else has written to the held origin, as far as it is counted."""
        counted = self._count_held()
        if counted is None:
            self.sectors_held = None
        elif self.sectors_held is not None and counted != self.sectors_held:
            self.held_was_written_to = True
        return self.held_was_written_to

    def _copy_parted(self) -> None:
        marked = self._written_since(1)
        if self.reason is None:
            try:
                areas = self.session.catalogue.areas(self.volume.id)
                marked.merge(parting.written_to_former(self.volume, areas))
            except (OperatingSystemError, CorruptError) as error:
                self.reason = (
                    f"what was written to {self.former.path} before they parted cannot be read "
                    f"any more ({error})"
                )
        self._copy(marked if self.reason is None else ExtentSet.whole(self.volume.size_bytes))

    def _copy_since(self) -> None:
        self._copy(self._written_since(self.since))

    def _written_since(self, since: int) -> ExtentSet:
        written, self.since = rolling.written_since(self.session, self.volume, since)
        return written

    def _copy(self, extents: ExtentSet) -> None:
        options = CopyOptions(source_name=self.volume.backing, most_extents=MOST_EXTENTS)
        with self._sides() as (source, destination):
            compared, different, _ = copy.compare(
                source,
                destination,
                self.volume.size_bytes,
                extents,
                progress=of_total(self.progress, extents.bytes),
                options=options,
                name=str(self.former.path),
            )
            written = copy.apply(
                source,
                destination,
                self.volume.size_bytes,
                different,
                progress=of_total(self.progress, different.bytes),
                options=options,
                name=str(self.former.path),
            )
            self._note_ours(written.bytes_written)
        self.compared.merge(extents)
        self.copied.merge(different)
        self.bytes_compared += compared.bytes_compared
        self.bytes_copied += written.bytes_written

    def _note_ours(self, length_bytes: int) -> None:
        """The origin counts that to the sector, zeroes too. Of a copy that was cut off nobody knows
        how much there is: it passes for somebody else's.
        """
        if self.sectors_held is not None:
            self.sectors_held += length_bytes // 512

    @contextmanager
    def _sides(self) -> Iterator[tuple[int, int]]:
        """The promoted volume below its front, and the former primary below what will be one."""
        source = dm.node(stack.require(stack.origin(self.volume)).name)
        destination = dm.node(stack.require(stack.origin(self.after)).name)
        self._look_at_held()
        with open_shared(source) as from_fd, open_exclusive(destination, write=True) as to_fd:
            yield from_fd, to_fd

    def _unmount(self) -> None:
        asked = assembly.as_mounted(self.session, self.volume, asked=True)
        self.volume = assembly.as_mounted(self.session, self.volume)
        self.after = replace(self.after, mounts=asked.mounts)
        self.session.catalogue.update_volume(self.volume)
        assembly.unmount_front(self.volume, self.session.configuration.unmount_wait_seconds)
        trial.require_unopened(self.volume)

    def _mount_before(self) -> None:
        assembly.mount_front(self.volume)

    def _mount_after(self) -> None:
        assembly.mount_front(self.after)

    def _unmount_after(self) -> None:
        assembly.unmount_front(self.after, self.session.configuration.unmount_wait_seconds)

    def _record(self) -> None:
        """With the point: without it nobody could say what the former volume holds, and without the
        volume it is nowhere.
        """
        self._require_nothing_beside()
        self._record_skipped()
        point = Point(
            id=self.point_id,
            volume_id=self.volume.id,
            created_ns=now_ns(),
            keep=False,
            temporary=False,
            era_since=1,
            tracking_id=self.after.tracking_id,
            window_seconds=0.0,
        )
        parted = parting.part_again(self.volume, self.since, self.after.tracking_id)
        self.after = replace(self.after, parting=parted)
        self.session.catalogue.update_volume(self.after, new_points=[point])

    def _require_nothing_beside(self) -> None:
        """What is written past a stack while it is copied, or copied to, is in nobody's marks."""
        self._require_nothing_held_beside()
        looked = [(self.after, 0), (self.volume, self.bytes_beside)]
        for volume, before in looked:
            if not before and write_count.bytes_beside(self._counts, volume):
                raise self._beside(volume)

    def _require_nothing_held_beside(self) -> None:
        if self._look_at_held():
            raise self._beside(self.after)

    def _beside(self, volume: Volume) -> WrongStateError:
        return WrongStateError(
            f"{volume.backing} was written to past its stack while {self.volume.backing} was "
            f"copied to {self.after.backing}",
            hint=f"dmsnap failback {volume.name} compares both in full",
            device=volume.backing,
        )

    def _record_skipped(self) -> None:
        """What the promoted volume left out when they parted, and neither side changed since."""
        catalogue, recovery_id = self.session.catalogue, self.label.recovery_uuid
        points = (self.volume.id, self.point_id)
        skipped.record(catalogue, Skipped(recovery_id, points, self._left_out()))

    def _load(self) -> None:
        self._require_nothing_held_beside()
        handover.load(self.session, self.after)
        handover.require_nothing_missed(self.session, self.after)
        handover.record_gone_over(self.session, self.after)
        self.gone_over = True

    def _unload(self) -> None:
        """First that the two may differ again: a boot would not know it, were this killed then."""
        if self.gone_over:
            self.session.catalogue.update_volume(self.after)
        areas = self.session.catalogue.areas(self.volume.id)
        trial.load_front_back(self.session, self.volume, stack.era_area(self.volume, areas))

    def _unrecord(self) -> None:
        """Not while the front lies over the former primary, because somebody uses it by now."""
        if trial.lies_over(self.after):
            return
        self.session.catalogue.update_volume(self.volume)
        self.session.catalogue.delete_point(self.point_id, "the failback was undone")

    def _label(self) -> None:
        handover.label_replica(self.session, self.after)

    def _unlabel(self) -> None:
        with replica.opened_below_stack(self.after) as current:
            if current.label.state is not LabelState.PRIMARY:
                current.write_label(self.label)

    def result(self, times: StepTimes) -> FailbackResult:
        return FailbackResult(
            volume=self.volume.name,
            device=self.after.backing,
            recovery=str(self.after.recovery),
            point=str(self.point_id),
            tracker=Tracker.ERA if self.reason is None else Tracker.COMPARE,
            reason=self.reason,
            bytes_compared=self.bytes_compared,
            bytes_copied=self.bytes_copied,
            bytes_volume=self.volume.size_bytes,
            unmounted_seconds=sum(times.seconds[step] for step in WITHOUT_MOUNT),
            seconds=times.total,
            steps=times.seconds,
            audit=self.audited,
        )


def require_former(session: Session, volume: Volume) -> BlockDevice:
    """The former primary, fit to be written to; nothing is changed."""
    if volume.state is not VolumeState.PROMOTED or volume.previous_backing is None:
        raise WrongStateError(
            f"{volume.name} is in state {volume.state}: there is no former primary to go back to",
            hint="failback follows dmsnap swap commit",
        )
    session.require_stack(volume)
    browse.require_unmounted(session, volume)
    exported.require_unexported(session, volume, [ExportKind.POINT])
    exported.require_front_read_only(session, volume)
    if session.live_points(volume):
        raise WrongStateError(
            f"live points of {volume.name} lie on {volume.backing} and would be lost",
            hint="delete them first: dmsnap point list shows them",
        )
    former = BlockDevice.probe(lun.node(volume.previous_backing))
    require_same_volume(volume, former)
    with open_exclusive(former.path, write=True):
        pass
    return former


def require_same_volume(volume: Volume, former: BlockDevice) -> None:
    """Raise unless the device is what the volume was, or is spoiled beyond recognition."""
    if former.read_only:
        raise ReadOnlyError(str(former.path), "a primary volume")
    if former.size_bytes < volume.size_bytes:
        raise TooSmallError(
            str(former.path), former.size_bytes, volume.size_bytes, f"the content of {volume.name}"
        )
    known_bytes = volume.parting.device_bytes if volume.parting else 0
    is_larger = former.size_bytes > max(volume.size_bytes, known_bytes)
    if is_larger and not replica.is_of_primary(replica.read_label(former.path), volume):
        raise ForeignDeviceError(
            f"{former.path} has {former.size_bytes} bytes, {volume.name} has {volume.size_bytes}: "
            f"it is another device, or was resized",
            hint=f"if it was made larger, dmsnap resize {volume.name} follows it",
        )
    require_content(volume, former)


def require_content(volume: Volume, former: BlockDevice) -> None:
    """Raise unless the device is the one that failback leads to, and holds nothing else than the
    volume did.
    """
    identity.require_led_to(volume, str(volume.previous_backing), former)
    found = replica.read_label(former.path)
    if found is not None and not replica.is_of_primary(found, volume):
        raise ForeignDeviceError(f"{former.path} is the recovery volume of {found.name} now")
    content = signature.probe(former.path)
    if identity.is_foreign(volume, content):
        raise ForeignDeviceError(
            f"{former.path} holds {content} now, not {volume.name}",
            hint=f"wipe it with wipefs -a {former.path} if it may be overwritten",
        )


def require_primary(volume: Volume) -> Label:
    """The label of the promoted volume, which says that it is one."""
    found = replica.read_label(lun.node(volume.backing))
    if found is None or found.volume_uuid != volume.id or found.state is not LabelState.PRIMARY:
        raise ForeignDeviceError(
            f"{volume.backing} carries no label of {volume.name} as its primary",
            hint=f"if it was made larger, dmsnap resize {volume.name} finds its label",
        )
    return found


def failback(
    session: Session,
    name: str,
    *,
    dry_run: bool,
    audit: str = Audit.NONE,
    progress: Progress | None = None,
) -> FailbackResult | Plan:
    """Go back to the former primary of a promoted volume. Needs root."""
    with held(session, name) as volume:
        returning = Failback(session, volume, progress, Audit(audit))
        plan = returning.plan()
        if dry_run:
            return plan
        with lun_watch.explained(volume):
            times = journal.run(session.catalogue, plan)
        spare.keep(session, name)
        return returning.result(times)


def finish(_session: Session, volume: Volume, _job: Job) -> bool:
    """Clearing has brought it to its end or taken it back: see swaps.handover."""
    return volume.state is VolumeState.PROTECTED
