"""Resize: a volume follows its device, and its recovery volume's label the end of that.

What others made larger (an LV, a partition, a LUN, a loop device) is followed from below: first
the recovery volume gets room, then the replica its new size, then the origin and the front.

Tracking begins anew. dm-era does resize its metadata, but only for a target that opens them alone
(era_preresume), and the one that serves has them open until the new one is live. What the old
metadata were made for would not have room for more blocks either. So the front gets new metadata,
and the next sync compares in full.

Up to the record everything is taken back by who fails. From the record on the volume has its new
size, and what is left of the stack is brought there by whoever comes next.
"""

import logging
from dataclasses import dataclass, replace
from functools import partial

from dmsnap.catalogue.model import Area, AreaRole, Job, Volume, VolumeState
from dmsnap.errors import NoSpaceError, WrongStateError
from dmsnap.service import journal
from dmsnap.service.exports import exported
from dmsnap.service.journal import Plan, Step, StepTimes
from dmsnap.service.points import browse
from dmsnap.service.progress import Progress
from dmsnap.service.reaper import held
from dmsnap.service.resizing import enlargement, replica_growth, sizes
from dmsnap.service.resizing.replica_growth import ReplicaGrowth
from dmsnap.service.session import Session
from dmsnap.service.volumes import admission, identity, spare
from dmsnap.snapshot import layers, stack
from dmsnap.snapshot.space import open_space
from dmsnap.tracking.choice import new_tracking_id
from dmsnap.units import format_size

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ResizeResult:
    """What has another size now. ``grow_file_system``: the command that is left to the user."""

    volume: str
    device: str
    size_bytes_before: int
    size_bytes: int
    recovery: str | None
    label_moved: bool
    stores_moved: int
    points_dropped: tuple[str, ...]
    grow_file_system: str | None
    seconds: float
    steps: dict[str, float]


class Resizing:
    """The plan that follows what others resized; its checks are made when it is built."""

    def __init__(
        self,
        session: Session,
        volume: Volume,
        *,
        drop_points: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.session = session
        self.volume = volume
        self.drop_points = drop_points
        self.progress = progress
        size_bytes = require_settled(session, volume)
        self.growing = size_bytes > volume.size_bytes
        self.after = grown(volume, size_bytes) if self.growing else volume
        self.replica = ReplicaGrowth(volume, size_bytes) if volume.recovery is not None else None
        self.live = [p for p in session.catalogue.points(volume.id) if p.area_id is not None]
        self.era_area = stack.era_area(volume, session.catalogue.areas(volume.id))
        self.metadata = spare.planned(self.after)
        self.behind = self.growing or sizes.is_behind(volume)
        if self.behind:
            self._require_agreed()
        if self.growing:
            self._require_room()

    def _require_agreed(self) -> None:
        if self.drop_points:
            return
        # The kernel would keep them, at the size that they have (dm-snap.c, __origin_write). But a
        # point has its volume's size everywhere else: in tables, in a swap, in what is exported.
        if self.live:
            raise WrongStateError(
                f"{len(self.live)} live points of {self.volume.name} have its former size, and "
                f"would be lost",
                hint="delete them, or give --drop-points",
            )
        way = self.replica.way if self.replica else None
        replica_growth.require_agreed(
            self.volume, {entry.point_uuid for entry in way.dropped} if way else set()
        )

    def _require_room(self) -> None:
        free_bytes = open_space(self.volume.store).free_bytes()
        if free_bytes < self.metadata.size_bytes:
            raise NoSpaceError(
                f"the store {self.volume.store} has {format_size(free_bytes)} free, the era "
                f"metadata of {format_size(self.after.size_bytes)} take "
                f"{format_size(self.metadata.size_bytes)}"
            )

    def plan(self) -> Plan:
        steps = self.replica.room_steps(self.progress) if self.replica else []
        if self.growing:
            steps += self._metadata_steps()
            steps += self.replica.size_steps() if self.replica else []
        if self.behind:
            steps += self._stack_steps()
        return Plan("resize", (self.volume.id,), steps, self.arguments())

    def arguments(self) -> dict[str, object]:
        """``size_bytes`` and ``label_bytes``, where the label was, are for who finishes it."""
        return {
            "name": self.volume.name,
            "drop_points": self.drop_points,
            "size_bytes": self.after.size_bytes,
            "label_bytes": self.replica.located.area_bytes if self.replica else 0,
        }

    def _metadata_steps(self) -> list[Step]:
        name, unfinished = self.volume.name, self._unfinished
        steps = [
            Step(
                "create-metadata",
                f"create era metadata of the larger {name} in {self.volume.store}",
                partial(self.session.create_area, self.volume, unfinished),
                partial(self.session.release_area, self.volume, unfinished),
            )
        ]
        if stack.live_front(self.volume) is None:
            steps.append(
                Step(
                    "format-metadata",
                    "let dm-era format them",
                    partial(enlargement.format_metadata, self.after, unfinished),
                    partial(stack.remove, stack.spare_maker(self.after)),
                )
            )
        return steps

    @property
    def _unfinished(self) -> Area:
        """As long as they are that, whoever comes after a killed command gives them back."""
        return replace(self.metadata, role=AreaRole.UNFINISHED_SPARE)

    def _stack_steps(self) -> list[Step]:
        name, steps = self.volume.name, []
        if self.growing:
            size = format_size(self.after.size_bytes)
            recording = f"record that {name} has {size}"
            steps.append(Step("record", recording, self._record, self._take_record_back))
        if self.live:
            dropped = f"drop the {len(self.live)} live points, which have the former size"
            drop = partial(enlargement.drop_points, self.session, self.volume)
            steps.append(Step("drop-points", dropped, drop, final=True))
        grow = partial(enlargement.grow, self.session, self.after)
        growing = f"give the origin and the front of {name} the new size"
        release = partial(enlargement.release, self.session, self.after)
        releasing = "give back what was made for the former size"
        return [
            *steps,
            Step("grow-stack", growing, grow, final=True),
            Step("release", releasing, release, final=True),
        ]

    def _record(self) -> None:
        former = replace(self.era_area, role=AreaRole.RETIRED)
        self.session.catalogue.update_volume(self.after, [former, self.metadata])

    def _take_record_back(self) -> None:
        """Up to now the front has its former metadata, and its former size."""
        self.session.catalogue.update_volume(self.volume, [self.era_area, self._unfinished])

    def result(self, times: StepTimes) -> ResizeResult:
        way = self.replica.way if self.replica else None
        live = [str(point.id) for point in self.live] if self.behind else []
        dropped = [str(entry.point_uuid) for entry in way.dropped] if way else []
        return ResizeResult(
            volume=self.volume.name,
            device=self.volume.backing,
            size_bytes_before=self.volume.size_bytes,
            size_bytes=self.after.size_bytes,
            recovery=self.volume.recovery,
            label_moved=self.replica is not None and self.replica.displaced,
            stores_moved=len(way.moves) if way else 0,
            points_dropped=(*live, *dropped),
            grow_file_system=enlargement.grow_file_system(self.after) if self.behind else None,
            seconds=times.total,
            steps=times.seconds,
        )


def grown(volume: Volume, size_bytes: int) -> Volume:
    """The volume with another size; larger blocks of dm-era where there would be too many."""
    block_bytes = max(volume.block_bytes, admission.block_bytes_for(size_bytes))
    return replace(
        volume,
        size_bytes=size_bytes,
        block_bytes=block_bytes,
        tracking_id=new_tracking_id(),
    )


def require_settled(session: Session, volume: Volume) -> int:
    """What the volume's device has, checked; raises unless nobody works on device and replica.

    When the device is gone the recovery volume's label can still be moved: it is needed then.
    """
    if volume.state is not VolumeState.PROTECTED:
        raise WrongStateError(
            f"{volume.name} is in state {volume.state}: it cannot be resized",
            hint="dmsnap swap revert, or dmsnap swap commit and dmsnap failback, come first",
        )
    if volume.hydration is not None:
        raise WrongStateError(
            f"{volume.name} is being moved to {volume.hydration.target}",
            hint=f"end that, or give it up with dmsnap hydrate {volume.name} --abandon",
        )
    browse.require_unmounted(session, volume)
    exported.require_replica_unexported(session, volume)
    size_bytes = sizes.device_bytes(volume)
    if size_bytes is None:
        log.warning("%s is not there: only the recovery volume is looked at", volume.backing)
        return volume.size_bytes
    identity.require_backing(volume)
    sizes.require_not_shrunk(volume)
    if layers.dropped(volume) is None and not sizes.is_behind(volume):
        areas, points = session.catalogue.areas(volume.id), session.catalogue.points(volume.id)
        stack.check(volume, areas, points)
    return size_bytes


def resize(
    session: Session,
    name: str,
    *,
    drop_points: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> ResizeResult | Plan:
    """Have a volume, its replica and its label follow devices that were made larger. Needs root.

    ``drop_points``: what stands in the way may go, live points and the oldest of the history.
    """
    with held(session, name) as volume:
        resizing = Resizing(session, volume, drop_points=drop_points, progress=progress)
        plan = resizing.plan()
        if dry_run:
            return plan
        times = journal.run(session.catalogue, plan) if plan.steps else StepTimes()
        if plan.steps:
            note(session, resizing.after)
        return resizing.result(times)


def note(session: Session, volume: Volume) -> None:
    """What the catalogue repeats of the label, and a spare of the new size."""
    if volume.recovery is not None:
        session.forget_dropped(volume)
        session.note_replica(volume)
    spare.keep(session, volume.name)


def again(
    session: Session, *, name: str, dry_run: bool, drop_points: bool, **_sizes: object
) -> object:
    """Begin a resize anew that was cut off."""
    return resize(session, name, drop_points=drop_points, dry_run=dry_run)


def finish(session: Session, volume: Volume, job: Job) -> bool:
    """Recorded, it goes on to its end; else the replica gets its former size back."""
    size_bytes = int(str(job.arguments["size_bytes"]))
    moved = False
    if volume.recovery is not None:
        moved = replica_growth.settle_label(volume, int(str(job.arguments["label_bytes"])))
    if volume.size_bytes != size_bytes:
        return False
    if not any(step.name == "grow-stack" for step in job.steps):
        return moved
    enlargement.drop_points(session, volume)
    enlargement.grow(session, volume)
    enlargement.release(session, volume)
    return True
