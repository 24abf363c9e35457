"""Protect: build the stack around a device, remount it through the front, make the replica."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from uuid import UUID, uuid4

from dmsnap._native import label
from dmsnap._native.label import Label, LabelState
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import Area, AreaRole, Job, Volume, VolumeState
from dmsnap.errors import BusyError, DmsnapError
from dmsnap.host import lun, placeholder
from dmsnap.host.blockdev import BlockDevice, open_exclusive
from dmsnap.host.lun import LunName
from dmsnap.recovery import history, replica
from dmsnap.service import journal
from dmsnap.service.health import boot
from dmsnap.service.journal import Plan, Step, StepTimes
from dmsnap.service.luns import lun_watch, luns
from dmsnap.service.luns.luns import Wanted
from dmsnap.service.pools import pool_choice
from dmsnap.service.pools.pool_choice import Choice, PassedOver
from dmsnap.service.progress import Progress
from dmsnap.service.reaper import reap
from dmsnap.service.replicas.synchronisation import Sync
from dmsnap.service.session import Session
from dmsnap.service.swaps import mounting, occupants, withdrawal
from dmsnap.service.volumes import (
    admission,
    assembly,
    assignment,
    identity,
    live_admission,
    live_link,
    recognition,
    spare,
    unprotect,
)
from dmsnap.service.volumes.admission import Admitted, ProtectRequest
from dmsnap.service.volumes.first_copy import FirstCopy
from dmsnap.snapshot import stack
from dmsnap.snapshot.space import era_metadata_bytes, plan_area
from dmsnap.tracking.choice import new_tracking_id

# Among the arguments of its job: the point that the recovery volume was at.
FORMER_POINT = "former_point"


@dataclass(frozen=True, slots=True)
class ProtectResult:
    """What was built, and what the first copy took.

    ``full_reason`` is why nothing was left out; None when the file system said what it uses.
    ``live``: the front is ``device`` itself until the next boot. ``pool``: what offered the
    recovery volume, and ``passed_over`` what it did not take.
    """

    volume: str
    front: str
    device: str
    recovery: str
    size_bytes: int
    point: UUID
    bytes_written: int
    bytes_zero: int
    bytes_skipped: int
    full_reason: str | None
    history_bytes: int
    window_seconds: float
    seconds: float
    steps: dict[str, float]
    live: bool = False
    pool: str | None = None
    passed_over: tuple[PassedOver, ...] = ()


class Protection:
    """The plan of one ``protect``; its checks are made when it is built."""

    def __init__(
        self,
        session: Session,
        request: ProtectRequest,
        progress: Progress | None,
        choice: Choice | None = None,
    ) -> None:
        self.session = session
        wanted = request.wanted
        self.choice = choice or Choice(request, wanted.recovery)
        self.pool = wanted.pool
        # Begun anew, it chooses anew.
        asked = request.onto(self.choice.asked) if self.pool else request
        self.arguments = asked.as_arguments()
        admitted = admission.admit(session, request)
        self.arguments[FORMER_POINT] = former_point(admitted)
        self.backing: BlockDevice = admitted.backing
        self.recovery: BlockDevice = admitted.recovery
        self.volume = new_volume(session, request, admitted)
        if self.volume.joined and self.volume.mounts and not self.volume.live:
            raise BusyError(f"{self.backing.path} was mounted just now: it is left alone")
        self.metadata: Area = plan_area(
            self.volume,
            AreaRole.ERA_METADATA,
            era_metadata_bytes(self.volume.size_bytes, request.block_bytes),
        )
        # A recovery volume that served this volume before is brought up to date instead of
        # copied to in full, and keeps its history.
        self.had_copy = admitted.label is not None
        self.copy: FirstCopy | Sync = (
            Sync(
                session,
                self.volume,
                cow_percent=wanted.cow_percent,
                bandwidth=wanted.bandwidth,
                force=wanted.force,
                io_priority=wanted.priority,
                progress=progress,
            )
            if admitted.label
            else FirstCopy(session, self.volume, self.recovery, wanted, progress)
        )

    def plan(self) -> Plan:
        volume = self.volume
        record = f"record {volume.name} in the catalogue"
        if self.pool:
            record = f"take {self.recovery.path} out of the pool {self.pool}, and {record}"
        steps = [
            Step("record", record, self._record, self._forget),
            Step(
                "create-era-metadata",
                f"create era metadata in {volume.store}",
                partial(self.session.create_area, volume, self.metadata),
                self._once_down(partial(self.session.release_area, volume, self.metadata)),
            ),
            *(self._steps_of_layers() if volume.live else self._steps_of_front()),
        ]
        finished = f"record that {volume.name} is protected"
        finish = Step("record-protected", finished, self._finish, final=True)
        steps += [*self.copy.steps(), finish]
        return Plan("protect", (volume.id,), steps, self.arguments, forward_at_last=True)

    def _prepare_boot(self) -> Step:
        """From here on a boot builds the stack, finished or not: metadata comes before it."""
        volume = self.volume
        return Step(
            "prepare-boot",
            f"have {volume.name} assembled at boot, and fstab name /dev/mapper/{volume.name}",
            partial(boot.prepare, volume, self.session.configuration.state_directory),
            self._once_down(partial(boot.withdraw, volume)),
        )

    def _hide_twins(self) -> Step:
        return Step(
            "hide-twins",
            f"keep {self.backing.path} and {self.recovery.path} out of /dev/disk/by-uuid and "
            f"by-label",
            partial(boot.hide, self.volume),
            self._once_down(partial(boot.show, self.volume)),
        )

    def _steps_of_layers(self) -> list[Step]:
        """The LV itself is not hidden in this boot: that is said first."""
        volume, device = self.volume, self.backing.path
        return [
            Step(
                "link",
                f"have /dev/mapper/{volume.name} lead to {device} until the next boot",
                partial(live_link.show, volume),
                self._once_down(partial(live_link.hide, volume)),
            ),
            self._prepare_boot(),
            self._hide_twins(),
            Step(
                "put-layers",
                f"put snapshot-origin and dm-era under {device}, as it is mounted",
                partial(assembly.build, self.session, volume, [self.metadata]),
                partial(assembly.remove_layers, self.session, volume),
                check=self._require_plain,
            ),
        ]

    def _require_plain(self) -> None:
        live_admission.require_plain(BlockDevice.probe(self.backing.path))

    def _steps_of_front(self) -> list[Step]:
        volume, device = self.volume, self.backing.path
        where = ", ".join(mount.mount_point for mount in volume.mounts)
        steps = [self._prepare_boot()]
        if volume.mounts:
            steps.append(
                Step(
                    "unmount",
                    f"unmount {device} from {where}",
                    self._unmount,
                    self._once_down(self._mount_backing),
                )
            )
        steps += [
            self._hide_twins(),
            Step(
                "create-stack",
                f"put snapshot-origin and dm-era over {device} as /dev/mapper/{volume.name}",
                self._build,
                partial(assembly.tear_down, volume),
            ),
        ]
        if volume.mounts:
            steps.append(
                Step(
                    "mount",
                    f"mount /dev/mapper/{volume.name} on {where}",
                    partial(assembly.mount_front, volume),
                    self._unmount_front,
                )
            )
        return steps

    def _record(self) -> None:
        self.session.catalogue.add_volume(self.volume)
        self.choice.settle()
        # Before the links by UUID and label are taken away.
        recognition.note(self.session, self.volume)

    def _forget(self) -> None:
        """The recovery volume that was there before is a point again: the copy was undone."""
        if self.had_copy:
            withdrawal.release_recovery(self.volume)
        self._require_down()
        self.session.catalogue.remove_volume(self.volume.id)

    def _once_down(self, undo: Callable[[], None]) -> Callable[[], None]:
        """``undo``, unless the stack is still there: what it is built of, and known by, stays then.

        The front is used from its mount on, which may be hours before the copy is through.
        """

        def undone() -> None:
            self._require_down()
            undo()

        return undone

    def _require_down(self) -> None:
        if stack.exists(stack.origin(self.volume)):
            name = self.volume.name
            raise BusyError(f"{name} stays protected in part: dmsnap unprotect {name} ends that")

    def _finish(self) -> None:
        self.session.catalogue.update_volume(replace(self.volume, state=VolumeState.PROTECTED))

    def _unmount(self) -> None:
        wait_seconds = self.session.configuration.unmount_wait_seconds
        held_as = placeholder.source(self.volume.id, self.volume.name)
        mounts = self.volume.mounts
        mounting.unmount(self.backing.devno, wait_seconds, mounts, held_as=held_as)

    def _mount_backing(self) -> None:
        mounting.mount_all(self.backing.path, self.backing.devno, self.volume.mounts)

    def _unmount_front(self) -> None:
        assembly.unmount_front(self.volume, self.session.configuration.unmount_wait_seconds)

    def _build(self) -> None:
        # Opened exclusively once more: who uses it in a way that mountinfo does not show
        # (another mount namespace, a raw user) must not be stacked upon.
        with open_exclusive(self.backing.path, write=True):
            pass
        assembly.build(self.session, self.volume, [self.metadata])

    def result(self, times: StepTimes) -> ProtectResult:
        region = history.region(self.volume.size_bytes, label.offset(self.recovery.size_bytes))
        return ProtectResult(
            volume=self.volume.name,
            front=f"/dev/mapper/{self.volume.name}",
            device=str(self.backing.path),
            recovery=str(self.recovery.path),
            size_bytes=self.volume.size_bytes,
            point=self.copy.point.id,
            bytes_written=self.copy.bytes_written,
            bytes_zero=self.copy.bytes_zero,
            bytes_skipped=self.copy.bytes_skipped,
            full_reason=self.copy.full_reason,
            history_bytes=region.length_bytes,
            window_seconds=self.copy.point.window_seconds,
            seconds=times.total,
            steps=times.seconds,
            live=self.volume.live is not None,
            pool=self.pool or None,
            passed_over=self.choice.passed_over,
        )


def new_volume(session: Session, request: ProtectRequest, admitted: Admitted) -> Volume:
    """The volume as it will be recorded; one that had a label before keeps its identity."""
    earlier = admitted.label
    parking = mounting.parking(session.configuration.run_directory, request.name)
    volume = Volume(
        id=earlier.volume_uuid if earlier else uuid4(),
        name=request.name,
        state=VolumeState.BUILDING,
        backing=admission.stable_path(request.device),
        recovery=admission.recorded_name(request.wanted.recovery),
        recovery_id=earlier.recovery_uuid if earlier else uuid4(),
        store=request.store,
        size_bytes=admitted.backing.size_bytes,
        block_bytes=request.block_bytes,
        chunk_bytes=request.chunk_bytes,
        fs_type=admitted.fs_type,
        fs_uuid=admitted.fs_uuid,
        mounts=mounting.records(admitted.backing.devno, parking),
        generation=1,
        tracking_id=new_tracking_id(),
        created_ns=now_ns(),
        units=request.units,
        live=admitted.live,
        joined=bool(request.identity),
    )
    return identity.noted(volume, volume.backing, admitted.backing.devno)


def former_point(admitted: Admitted) -> str | None:
    """The point that the recovery volume was at before; None: it held none of this volume."""
    found = admitted.label
    return str(found.point_uuid) if found is not None and found.point_uuid is not None else None


def device_locks(request: ProtectRequest) -> list[str]:
    """One device cannot be admitted for two volumes at once; from the first step on the catalogue
    says whose it is.
    """
    paths = (request.device, lun.node(request.wanted.recovery))
    return [admission.device_lock(BlockDevice.probe(path)) for path in paths]


def protect(
    session: Session, request: ProtectRequest, *, dry_run: bool, progress: Progress | None = None
) -> ProtectResult | Plan:
    """Protect a device. On any failure it is given back as it was. Needs root."""
    admission.check_name(request.name)
    occupants.check_units(request.units)
    request = assignment.completed(session, request)
    with session.locked([request.name]):
        leftover = session.catalogue.find_volume(request.name)
        if leftover is not None and leftover.state is VolumeState.BUILDING:
            reap(session, leftover, Wanted.SERVING)
        request = admission.with_block_size(request)
        luns.release_strays(session, request.name)
        with (
            pool_choice.chosen(session, request) as choice,
            attaching(session, choice.request, keep=not dry_run) as found,
            session.locked(device_locks(found)),
        ):
            protection = Protection(session, found, progress, choice)
            plan = protection.plan()
            if dry_run:
                return plan
            with lun_watch.explained(protection.volume):
                times = journal.run(session.catalogue, plan)
            spare.keep(session, request.name)
            return protection.result(times)


@contextmanager
def attaching(session: Session, request: ProtectRequest, *, keep: bool) -> Iterator[ProtectRequest]:
    """As :func:`with_lun`, for a name that nobody may have yet."""
    if lun.is_name(request.wanted.recovery):
        admission.check_name_is_free(session, request.name)
    with with_lun(session, request, keep=keep) as found:
        yield found


@contextmanager
def with_lun(session: Session, request: ProtectRequest, *, keep: bool) -> Iterator[ProtectRequest]:
    """The request with its LUN attached, and named with its identity.

    What was logged in to for that is let go when the block fails, or without ``keep``.
    """
    if not lun.is_name(request.wanted.recovery):
        yield request
        return
    name = LunName.parse(request.wanted.recovery)
    try:
        yield request.onto(str(luns.attach(session, name, request.name)))
    except BaseException as error:
        try:
            luns.release(session, name)
        except DmsnapError as failure:
            error.add_note(str(failure))
        raise
    if not keep:
        luns.release(session, name)


def again(session: Session, *, dry_run: bool, **arguments: Any) -> object:
    """Begin a protect anew that was cut off."""
    return protect(session, ProtectRequest.from_arguments(arguments), dry_run=dry_run)


def finish(session: Session, volume: Volume, job: Job) -> bool:
    """Taken back as long as the replica is not whole: to copy goes on only when it is asked for.

    The label says whether a first copy is, which is written before the catalogue; in taking back,
    before anything of the copy goes. Where it cannot be read the catalogue has to do. A recovery
    volume that was there before is whole as soon as it holds a point that was taken for it now.
    """
    found = label_of_copy(volume)
    state = found.state if found else None
    is_new = job.has_begun("mark-consistent") or (
        job.has_begun("apply") and holds_new_point(volume, found, job)
    )
    whole = state is LabelState.CONSISTENT and is_new
    if volume.state is VolumeState.BUILDING and whole:
        session.catalogue.update_volume(replace(volume, state=VolumeState.PROTECTED))
        session.note_replica(volume)
    if whole or (volume.state is not VolumeState.BUILDING and state is not LabelState.COPYING):
        return True
    volume = replace(volume, state=VolumeState.BUILDING)
    session.catalogue.update_volume(volume)
    unprotect.take_back(session, volume)
    return False


def label_of_copy(volume: Volume) -> Label | None:
    """What the label says; None where it cannot be read, or is not this one's."""
    try:
        return replica.label_of(volume) if volume.recovery else None
    except DmsnapError:
        return None


def holds_new_point(volume: Volume, found: Label | None, job: Job) -> bool:
    """Whether the replica is at another point than it was when it was admitted.

    By the label alone: a boot renews the tracking id, and may have removed the point's record with
    its live snapshot. The replica would be called the earlier one, and given back at a point that
    nobody asked for. And by no time, which is what a clock said: only a job that an earlier version
    began says nothing else.
    """
    if found is None:
        return False
    if FORMER_POINT not in job.arguments:
        return found.point_time_ns >= volume.created_ns
    former = job.arguments[FORMER_POINT]
    return found.point_uuid is not None and str(found.point_uuid) != former
