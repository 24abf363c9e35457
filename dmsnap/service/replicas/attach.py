"""Attach: a new recovery volume for a volume that has none, while it serves.

After a commit the former primary may be dead, which was why there was a swap: then there is nothing
to fail back to. A device is made the recovery volume in its place, by a first copy of a point of
now. Until that is whole and recorded the volume is what it was, and the former primary what
failback would lead to; from then on it is a volume as any other, and the former one is let go.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from dmsnap._native import label
from dmsnap._native.label import Label, LabelState
from dmsnap.catalogue.model import SETTLED, Job, Volume, VolumeState
from dmsnap.errors import DmsnapError, ForeignDeviceError, WrongStateError
from dmsnap.host import lun, signature
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.host.lun import LunName
from dmsnap.host.signature import Signature
from dmsnap.recovery import history, replica
from dmsnap.service import journal
from dmsnap.service.health import boot
from dmsnap.service.hydrations import destination
from dmsnap.service.journal import Plan, Step, StepTimes
from dmsnap.service.luns import lun_watch, luns
from dmsnap.service.luns.luns import Wanted
from dmsnap.service.pools import pool_choice, pool_return
from dmsnap.service.pools.pool_choice import Choice, PassedOver
from dmsnap.service.progress import Progress
from dmsnap.service.reaper import finish_handover, held, remove_temporary_points
from dmsnap.service.resizing import sizes
from dmsnap.service.session import Session
from dmsnap.service.swaps import handover
from dmsnap.service.volumes import (
    admission,
    assignment,
    first_copy,
    protect,
    recognition,
    spare,
)
from dmsnap.service.volumes.admission import ProtectRequest
from dmsnap.service.volumes.first_copy import FirstCopy
from dmsnap.service.volumes.wanted_recovery import WantedRecovery
from dmsnap.snapshot import stack, write_count

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AttachResult:
    """What is the recovery volume now, and what copying to it took.

    ``left_behind`` is the former device, to which failback does not lead any more. The others are
    as in ``ProtectResult``.
    """

    volume: str
    device: str
    recovery: str
    left_behind: str | None
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
    pool: str | None = None
    passed_over: tuple[PassedOver, ...] = ()


class Attachment:
    """The plan of one ``attach``; its checks are made when it is built."""

    def __init__(
        self,
        session: Session,
        volume: Volume,
        request: ProtectRequest,
        progress: Progress | None,
        choice: Choice,
    ) -> None:
        self.session = session
        self.volume = volume
        self.choice = choice
        self.wanted = request.wanted
        self.recovery = BlockDevice.probe(lun.node(self.wanted.recovery))
        front = BlockDevice.probe(request.device)
        content = signature.probe(front.path)
        require_not_former(volume, self.recovery, overwrite=self.wanted.overwrite)
        admission.check_device(session, request, front, self.recovery, content)
        recovery = admission.recorded_name(self.wanted.recovery)
        self.after = attached(volume, recovery, uuid4(), content)
        self.copy = FirstCopy(
            session, self.after, self.recovery, self.wanted, progress, before=volume
        )

    def plan(self) -> Plan:
        name, device = self.volume.name, self.recovery.path
        recorded = self.after.recovery
        let_go = f"give back what served the former device of {name}"
        steps = [
            Step(
                "count-writes",
                f"count what is written to {self.volume.backing} past /dev/mapper/{name}",
                self._count,
            ),
            Step(
                "hide-twins",
                f"keep {device} out of /dev/disk/by-uuid and by-label",
                partial(boot.hide, self.after, recorded),
                partial(boot.hide, self.volume, recorded),
            ),
            *self.copy.steps(),
            Step("let-go", let_go, self._let_go, final=True),
        ]
        return Plan("attach", (self.volume.id,), steps, self._arguments())

    def _arguments(self) -> dict[str, object]:
        """What was asked for, and for who finishes it what is being made."""
        asked = replace(self.wanted, recovery=self.choice.asked)
        made = {"made": self.after.recovery, "made_id": str(self.after.recovery_id)}
        return asked.as_arguments() | {"name": self.volume.name} | made

    @property
    def _counts(self) -> Path:
        return self.session.configuration.run_directory

    def _count(self) -> None:
        """Before the file system is asked what it does not use."""
        if write_count.bytes_beside(self._counts, self.volume) is None:
            write_count.remember(self._counts, self.volume)

    def _let_go(self) -> None:
        # Where anything was written past the front, all was copied: nothing was left out.
        write_count.settle(self._counts, self.after, self.copy.points.counts[0])
        recognition.note(self.session, self.after)
        handover.retire(self.session, self.after)
        release_former(self.session, self.after, self.volume.previous_backing)

    def result(self, times: StepTimes) -> AttachResult:
        region = history.region(self.volume.size_bytes, label.offset(self.recovery.size_bytes))
        return AttachResult(
            volume=self.volume.name,
            device=self.volume.backing,
            recovery=str(self.recovery.path),
            left_behind=self.volume.previous_backing,
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
            pool=self.wanted.pool or None,
            passed_over=self.choice.passed_over,
        )


def request_for(volume: Volume, wanted: WantedRecovery) -> ProtectRequest:
    """As what ``protect`` checks: of what the front shows, and is to be copied."""
    return ProtectRequest(
        device=dm.node(stack.require(stack.front(volume)).name),
        name=volume.name,
        wanted=wanted,
        store=volume.store,
        block_bytes=volume.block_bytes,
        chunk_bytes=volume.chunk_bytes,
        anew=True,
    )


def require_without(session: Session, volume: Volume) -> None:
    """Raise unless the volume serves from its own device, and has no recovery volume."""
    if volume.recovery is not None or volume.state not in SETTLED:
        what = f"is in state {volume.state}"
        if volume.recovery is not None:
            what += f", and {volume.recovery} is its recovery volume"
        raise WrongStateError(
            f"{volume.name} {what}: no other one can be attached",
            hint="attach follows dmsnap swap commit",
        )
    destination.require_not_moving(volume)
    sizes.require_not_shrunk(volume)
    session.require_stack(volume)


def require_not_former(volume: Volume, recovery: BlockDevice, *, overwrite: bool) -> None:
    """Raise when the device is the former primary, unless it is to be destroyed."""
    former = volume.previous_backing
    if overwrite or former is None or not lun.is_present(former):
        return
    if admission.probed(former) == recovery.devno:
        raise ForeignDeviceError(
            f"{recovery.path} is the former device of {volume.name}",
            hint=f"dmsnap failback {volume.name} goes back to it, copying only what changed; "
            f"--overwrite destroys what is on it",
        )


def attached(
    volume: Volume, recovery: str, recovery_id: UUID, content: Signature | None = None
) -> Volume:
    """The volume as it will be recorded; ``content`` is what it holds now, where that is known."""
    former = volume.previous_backing
    left = [path for path in (*volume.left_behind, former) if path and path != recovery]
    size_bytes = BlockDevice.probe(lun.node(volume.backing)).size_bytes
    known = content is not None and content.fs_type is not None
    return replace(
        volume,
        state=VolumeState.PROTECTED,
        recovery=recovery,
        recovery_id=recovery_id,
        previous_backing=None,
        parting=None,
        left_behind=tuple(dict.fromkeys(left)),
        fs_type=(content.fs_type or "") if content and known else volume.fs_type,
        fs_uuid=(content.uuid or "") if content and known else volume.fs_uuid,
        device_bytes=volume.device_bytes or sizes.to_record(volume, size_bytes),
    )


def release_former(session: Session, volume: Volume, former: str | None) -> None:
    """What failback would have led to is no part of the volume; it may be what was lost.

    It is not read, as it may hang, unless a pool is to have it back.
    """
    if former is None or former == volume.recovery:
        return
    try:
        if pool_return.pools_of(session, former) and lun.is_present(former):
            pool_return.leave(session, volume, former, offer=True)
        if lun.is_name(former):
            luns.release(session, LunName.parse(former))
    except DmsnapError as error:
        log.warning("%s, the former device of %s, is not let go: %s", former, volume.name, error)


@contextmanager
def _prepared(
    session: Session,
    volume: Volume,
    wanted: WantedRecovery,
    progress: Progress | None,
    *,
    keep: bool,
) -> Iterator[Attachment]:
    """The plan, with its device attached where that is a LUN, and nobody else admitting it."""
    require_without(session, volume)
    request = assignment.completed(session, request_for(volume, wanted))
    with (
        pool_choice.chosen(session, request) as choice,
        protect.with_lun(session, choice.request, keep=keep) as found,
        session.locked([admission.device_lock(BlockDevice.probe(lun.node(found.wanted.recovery)))]),
    ):
        choice.settle()  # who chooses now passes over what is locked
        yield Attachment(session, volume, found, progress, choice)


def attach(
    session: Session,
    name: str,
    wanted: WantedRecovery,
    *,
    dry_run: bool,
    progress: Progress | None = None,
) -> AttachResult | Plan:
    """Give a volume without a recovery volume a new one, while it serves. Needs root."""
    with (
        held(session, name, Wanted.SERVING) as volume,
        _prepared(session, volume, wanted, progress, keep=not dry_run) as attachment,
    ):
        plan = attachment.plan()
        if dry_run:
            return plan
        with lun_watch.explained(attachment.after):
            times = journal.run(session.catalogue, plan)
        spare.keep(session, name)
        return attachment.result(times)


def again(session: Session, *, name: str, dry_run: bool, **arguments: Any) -> object:
    """Begin an attach anew that was cut off: what was being made then is gone."""
    return attach(session, name, WantedRecovery.from_arguments(arguments), dry_run=dry_run)


def finish(session: Session, volume: Volume, job: Job) -> bool:
    """Done once the recovery volume is recorded, or whole; else nothing of the copy is left."""
    made, made_id = str(job.arguments["made"]), UUID(str(job.arguments["made_id"]))
    if volume.recovery_id == made_id:
        return True
    if volume.recovery is not None:
        return False
    try:
        whole = _is_whole(session, volume, made, made_id)
    except DmsnapError as error:
        # It says itself that it is half a copy, and is taken for nothing else.
        log.warning("the half copy on %s is not wiped: %s", made, error)
        whole = False
    if whole:
        volume = attached(volume, made, made_id)
        session.catalogue.update_volume(volume)
    remove_temporary_points(session, volume)
    # Of what was recorded before, clearing sees to that.
    if whole and handover.is_unfinished(session, volume):
        finish_handover(session, volume)
    return whole


def _is_whole(session: Session, volume: Volume, made: str, made_id: UUID) -> bool:
    """Whether what was being made has the point that was copied; of half a copy nothing is left."""
    found = _label_of(session, volume, made, made_id)
    if found is not None and found.state is LabelState.CONSISTENT:
        return True
    if found is not None:
        first_copy.wipe_part(session, lun.node(made), made_id)
    boot.hide(volume, made)
    _log_out(session, made)
    return False


def _label_of(session: Session, volume: Volume, made: str, made_id: UUID) -> Label | None:
    """The label of what was being made; None where it has none of ours, or cannot be looked at."""
    if lun.is_name(made):
        luns.attach(session, LunName.parse(made), volume.name)
    if not lun.is_present(made):
        return None
    found = replica.read_label(lun.node(made))
    return found if found is not None and found.recovery_uuid == made_id else None


def _log_out(session: Session, made: str) -> None:
    if lun.is_name(made):
        luns.release(session, LunName.parse(made))
