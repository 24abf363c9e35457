"""Resize: a volume follows its device, and its recovery volume's label the end of that.

What others made larger (an LV, a partition, a LUN, a loop device) is followed from below: first
the recovery volume gets room, then the replica its new size, then the origin and the front.

Tracking begins anew. dm-era does resize its metadata, but only for a target that opens them alone
(era_preresume), and the one that serves has them open until the new one is live. What the old
metadata were made for would not have room for more blocks either. So the front gets new metadata,
and the next sync compares in full.

A promoted volume has its label on its own device; how large it becomes, promoted.py says.

Up to the record everything is taken back by who fails. From the record on the volume has its new
size, and what is left of the stack is brought there by whoever comes next.
"""

from dataclasses import asdict, dataclass, replace
from functools import partial

from dmsnap.catalogue.model import Area, AreaRole, Job, Volume
from dmsnap.errors import NoSpaceError, WrongStateError
from dmsnap.service import journal
from dmsnap.service.exports import exported
from dmsnap.service.health import boot
from dmsnap.service.journal import Plan, Step, StepTimes
from dmsnap.service.progress import Progress
from dmsnap.service.reaper import held
from dmsnap.service.resizing import aim, enlargement, promoted, replica_growth, sizes
from dmsnap.service.resizing.aim import ResizeRequest
from dmsnap.service.resizing.replica_growth import ReplicaGrowth
from dmsnap.service.session import Session
from dmsnap.service.volumes import recognition, spare
from dmsnap.snapshot import stack
from dmsnap.snapshot.space import open_space
from dmsnap.units import format_size


@dataclass(frozen=True, slots=True)
class ResizeResult:
    """What has another size now. ``grow_file_system``: the command that is left to the user.

    ``given_up`` is the former primary that failback would have led to.
    """

    volume: str
    device: str
    size_bytes_before: int
    size_bytes: int
    recovery: str | None
    label_moved: bool
    stores_moved: int
    points_dropped: tuple[str, ...]
    given_up: str | None
    grow_file_system: str | None
    seconds: float
    steps: dict[str, float]


class Resizing:
    """The plan that follows what others resized; its checks are made when it is built."""

    def __init__(
        self,
        session: Session,
        volume: Volume,
        request: ResizeRequest,
        progress: Progress | None = None,
    ) -> None:
        self.session = session
        self.volume = volume
        self.request = request
        self.progress = progress
        device_bytes = aim.require_settled(session, volume)
        asked = not (request.keep_size or request.give_up_former)
        former = promoted.former_of(volume) if asked else None
        self.after = aim.after(volume, request, former, device_bytes)
        self.growing = self.after.size_bytes > volume.size_bytes
        self.replica = self._replica()
        if self.replica is not None:
            promoted.require_followed(volume, former, displaced=self.replica.displaced)
        self.live = session.live_points(volume)
        self.era_area = stack.era_area(volume, session.catalogue.areas(volume.id))
        self.metadata = spare.planned(self.after)
        self.behind = self.growing or sizes.is_behind(volume)
        if self.behind:
            self._require_agreed()
        if self.growing:
            self._require_room()

    def _replica(self) -> ReplicaGrowth | None:
        before, after = promoted.as_labelled(self.volume), promoted.as_labelled(self.after)
        if before.recovery is None:
            return None
        acknowledge = promoted.acknowledging(self.session, self.volume)
        return ReplicaGrowth(before, after, acknowledge)

    def _require_agreed(self) -> None:
        if self.request.drop_points:
            exported.require_live_unexported(self.session, self.volume, self.live)
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
        elif self.after != self.volume:
            recording = f"record what {self.volume.backing} has"
            steps.append(Step("record", recording, self._record, self._take_record_back))
        if self.behind:
            steps += self._stack_steps()
        if self.given_up is not None:
            leave = partial(promoted.leave_former, self.session, self.after, self.given_up)
            leaving = f"give up {self.given_up}, to which failback would have led"
            steps.append(Step("give-up-former", leaving, leave, final=True))
        return Plan("resize", (self.volume.id,), steps, self.arguments())

    def arguments(self) -> dict[str, object]:
        """``size_bytes`` and ``label_bytes``, where the label was, are for who finishes it."""
        return {
            "name": self.volume.name,
            **asdict(self.request),
            "size_bytes": self.after.size_bytes,
            "label_bytes": self.replica.located.area_bytes if self.replica else 0,
        }

    @property
    def given_up(self) -> str | None:
        """The former primary, where nothing is to lead back to it any more."""
        return self.volume.previous_backing if self.request.give_up_former else None

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
        if not self.growing:
            self.session.catalogue.update_volume(self.after)
            return
        former = replace(self.era_area, role=AreaRole.RETIRED)
        self.session.catalogue.update_volume(self.after, [former, self.metadata])

    def _take_record_back(self) -> None:
        """Up to now the front has its former metadata, and its former size."""
        areas = [self.era_area, self._unfinished] if self.growing else []
        self.session.catalogue.update_volume(self.volume, areas)

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
            given_up=self.given_up,
            grow_file_system=enlargement.grow_file_system(self.after) if self.behind else None,
            seconds=times.total,
            steps=times.seconds,
        )


def resize(
    session: Session,
    name: str,
    request: ResizeRequest,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> ResizeResult | Plan:
    """Have a volume, its replica and its label follow devices that were made larger. Needs root."""
    with held(session, name) as volume:
        resizing = Resizing(session, volume, request, progress)
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
    recognition.note(session, volume)
    spare.keep(session, volume.name)


def again(
    session: Session,
    *,
    name: str,
    dry_run: bool,
    drop_points: bool,
    keep_size: bool = False,
    give_up_former: bool = False,
    **_sizes: object,
) -> object:
    """Begin a resize anew that was cut off."""
    # What was given up is so already where that was recorded.
    giving_up = give_up_former and session.catalogue.volume(name).previous_backing is not None
    request = ResizeRequest(drop_points, keep_size, giving_up)
    return resize(session, name, request, dry_run=dry_run)


def finish(session: Session, volume: Volume, job: Job) -> bool:
    """Recorded, it goes on to its end; else the label says the former size again."""
    size_bytes = int(str(job.arguments["size_bytes"]))
    moved = promoted.settle_label(session, volume, int(str(job.arguments["label_bytes"])))
    if volume.size_bytes != size_bytes:
        return False
    done = moved
    if any(step.name == "grow-stack" for step in job.steps):
        enlargement.drop_points(session, volume)
        enlargement.grow(session, volume)
        enlargement.release(session, volume)
        done = True
    if job.arguments.get("give_up_former") and volume.previous_backing is None:
        boot.hide(volume)
        promoted.release_marks(session, volume)
        done = True
    return done
