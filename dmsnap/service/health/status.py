"""What can be recovered now, and what is wrong: the stack as it is, not as it should be."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dmsnap._native.label import Label, LabelState
from dmsnap.catalogue.clock import format_time
from dmsnap.catalogue.model import SETTLED, AreaRole, Job, Point, Volume, VolumeState
from dmsnap.catalogue.present import Present
from dmsnap.errors import DmsnapError, NotFoundError
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.status import SnapshotState
from dmsnap.host.mountinfo import mounts_of
from dmsnap.recovery import history, lease, replica
from dmsnap.report.content import NOTHING_PROMISED, Punctuality, Verdict
from dmsnap.service.exports import publication
from dmsnap.service.health import counting_check, look, recoverable
from dmsnap.service.health.look import Look
from dmsnap.service.health.recoverable import RecoverablePoint
from dmsnap.service.health.silence import Ask, Part
from dmsnap.service.points import claiming
from dmsnap.service.resizing import sizes
from dmsnap.service.schedules import lateness
from dmsnap.service.session import Session
from dmsnap.service.swaps import merging, overlay, trial
from dmsnap.service.swaps.overlay import OverlayStatus
from dmsnap.service.swaps.withdrawal import is_cut_off
from dmsnap.service.volumes import renewal, spare
from dmsnap.snapshot import layers, live, stack, write_count
from dmsnap.units import format_size, to_bytes

if TYPE_CHECKING:
    from dmsnap.service.schedules.promises import Promises

COW_WARNING_PERCENT = 80


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """The recovery volume: what its label says."""

    device: str
    state: str
    point: str | None
    point_time: str | None
    age_seconds: float | None
    history_points: int
    history_bytes: int
    history_used_bytes: int
    bytes_skipped: int = 0


@dataclass(frozen=True, slots=True)
class LivePointStatus:
    """A COW snapshot on the primary and how full its store is."""

    point: str
    created: str
    state: str
    used_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class HydrationStatus:
    """A move to another device that was begun and is not at its end."""

    device: str
    bytes_copied: int


@dataclass(frozen=True, slots=True)
class VolumeStatus:
    """One volume. ``problems`` is empty when all is well. ``exports`` are iSCSI targets.

    ``running`` is the command that works on it now: its devices and its label are on their way
    then, and not judged. ``spare_reason`` is why the next swap has to format its era metadata.
    ``live``: the front is the LV's own dm device until the next boot.
    ``recovery_seconds`` is what the last swap took, None: that was not measured.
    ``punctuality`` is the newest point's age against what the volume's policies promise,
    ``replica_punctuality`` that of what the recovery volume holds.
    """

    volume: str
    state: VolumeState
    front: str
    device: str
    size_bytes: int
    mount_points: tuple[str, ...]
    trial_point: str | None
    mounted_points: tuple[str, ...]
    replica: ReplicaStatus | None
    live_points: tuple[LivePointStatus, ...]
    problems: tuple[str, ...]
    running: str | None = None
    exports: tuple[str, ...] = ()
    spare_reason: str | None = None
    hydration: HydrationStatus | None = None
    overlay: OverlayStatus | None = None
    live: bool = False
    newest: RecoverablePoint | None = None
    recovery_seconds: float | None = None
    punctuality: Punctuality = NOTHING_PROMISED
    replica_punctuality: Punctuality = NOTHING_PROMISED


def status(
    session: Session, names: Sequence[str] = (), ask: Ask | None = None
) -> list[VolumeStatus]:
    """The volumes named, or all of them, by name. Changes nothing. Needs root.

    ``ask`` is how it is found out whose disks answer (health.silence).
    """
    volumes = [session.catalogue.volume(name) for name in names] or session.catalogue.volumes()
    found = statuses(session, volumes, lateness.promises(session), ask)
    return [each for each, _ in found]


def statuses(
    session: Session,
    volumes: Sequence[Volume],
    promises: "Promises | None" = None,
    ask: Ask | None = None,
) -> list[tuple[VolumeStatus, Present]]:
    """Look at volumes, judge their ages by ``promises``; each with what is recorded of it.

    That is read at once for all of them, so that a command may have come and gone before it is a
    volume's turn. Where something seems wrong, and was recorded since, it is looked at anew.
    """
    looks = look.look_up(session, volumes, ask)
    found = [(volume_status(session, each, promises), each.recorded) for each in looks]
    if len(looks) == 1:
        return found
    doubtful = [each for each, (seen, _) in zip(looks, found, strict=True) if seen.problems]
    changed = look.changed_since(session, doubtful)
    for position, volume in enumerate(volumes):
        if volume.id in changed:
            (anew,) = look.look_up(session, [changed[volume.id]], ask)
            found[position] = volume_status(session, anew, promises), anew.recorded
    return found


def volume_status(
    session: Session, looked: Look, promises: "Promises | None" = None
) -> VolumeStatus:
    """Look at one volume's devices, and judge its age by ``promises``."""
    volume, recorded = looked.volume, looked.recorded
    passing = stack_problems(session, volume, recorded)
    replica_now = replica_status(looked, passing)
    resized = sizes.of_volume(volume)
    problems = [*looked.silent.sentences.values(), *([resized.sentence] if resized else [])]
    passing += cut_off_jobs(volume, recorded.unfinished)
    live_now = live_points(volume, recorded.live, problems)
    found = [publication.problem(session, export) for export in recorded.exports]
    problems += [f"{problem}: dmsnap export restore" for problem in found if problem]
    problems += history_shortage(volume, recorded.last_sync)
    points = [*recorded.live, *filter(None, [looked.replica.point])]
    holding = standing(replica_now, live_now)
    newest = recoverable.newest(points, holding)
    to_come = recoverable.of_the_future(points, holding)
    problems += to_come
    punctuality = lateness.judged(promises, volume, newest.created_ns if newest else None)
    if to_come and punctuality.verdict is Verdict.MISSING:
        reason = "the time of what can be recovered is yet to come"
        punctuality = replace(punctuality, verdict=Verdict.UNKNOWN, reason=reason)
    behind = lateness.replica_judged(promises, volume, replica_ns(looked))
    if newest is None or newest.created_ns != replica_ns(looked):  # else that is said of it
        passing += lateness.replica_problems(volume, behind)
    # The replica holds no point while it is written to.
    missing = punctuality.verdict is Verdict.MISSING
    (passing if missing else problems).extend(lateness.problems(volume, punctuality))
    # It may have begun since.
    running = looked.running or session.running(volume.name)
    return VolumeStatus(
        volume=volume.name,
        state=volume.state,
        front=str(dm.node(stack.front(volume).name)),
        device=volume.backing,
        size_bytes=volume.size_bytes,
        mount_points=mount_points(volume),
        trial_point=str(volume.trial_point) if volume.trial_point else None,
        mounted_points=tuple(
            str(area.point_id) for area in recorded.areas if area.role is AreaRole.BROWSE
        ),
        replica=replica_now,
        live_points=live_now,
        problems=tuple(problems if running else [*passing, *problems]),
        running=running,
        exports=tuple(export.target for export in recorded.exports),
        spare_reason=None if running else spare_reason(session, looked),
        hydration=hydration_status(volume),
        overlay=overlay_status(volume, recorded.last_swap),
        live=stack.live_front(volume) is not None,
        newest=newest,
        recovery_seconds=recoverable.measured_seconds(recorded.last_swap),
        punctuality=punctuality,
        replica_punctuality=behind,
    )


def spare_reason(session: Session, looked: Look) -> str | None:
    """Why the next swap has to format its era metadata; not looked for where that would hang."""
    if Part.STORE in looked.silent:
        return None
    hangs = looked.silent.anywhere
    return spare.reason_without(session, looked.volume, looked.recorded.areas, hangs)


def standing(
    replica_now: ReplicaStatus | None, live_now: Sequence[LivePointStatus]
) -> frozenset[str]:
    """The points of which one is the newest: the replica's, and live snapshots that hold."""
    found = {each.point for each in live_now if each.state == SnapshotState.OK.value}
    if replica_now is not None and replica_now.point is not None:
        found.add(replica_now.point)
    return frozenset(found)


def with_hint(error: DmsnapError) -> str:
    """What is wrong and, where the error knows it, what to do."""
    return f"{error}: {error.hint}" if error.hint else str(error)


def cut_off_jobs(volume: Volume, unfinished: Sequence[Job]) -> list[str]:
    """Jobs that are not at their end; while a command runs, its own is among them."""
    return [
        f"{job.operation} was cut off at {job.last_begun}: dmsnap job resume {job.id} brings it to "
        f"its end, any other command on {volume.name} finishes it or takes it back"
        for job in unfinished
        if job.last_begun is not None
        if job.operation != "swap commit" or failed_merge(volume) is None
    ]


def history_shortage(volume: Volume, last_sync: Job | None) -> list[str]:
    """Whether the last sync gave up points that the policy keeps."""
    if volume.state is not VolumeState.PROTECTED or volume.recovery is None:
        return []
    outcome = last_sync.outcome if last_sync is not None else None
    if last_sync is None or not (outcome or "").startswith(claiming.TOO_SMALL):
        return []
    return [
        f"{outcome} (sync of {format_time(last_sync.finished_ns or last_sync.started_ns)}): have "
        f"the policy keep fewer, at most {history.MAX_ENTRIES} have room in a label, or make the "
        f"recovery volume larger and dmsnap resize {volume.name}"
    ]


def hydration_status(volume: Volume) -> HydrationStatus | None:
    """How far a move is, as it was last recorded."""
    begun = volume.hydration
    return HydrationStatus(begun.target, begun.position_bytes) if begun else None


def overlay_status(volume: Volume, last_swap: Job | None) -> OverlayStatus | None:
    """How full the overlay of a trial is; None where there is none."""
    if volume.state is not VolumeState.TRIAL:
        return None
    try:
        return overlay.status(volume, last_swap)
    except DmsnapError:  # said among the problems of the stack
        return None


def stack_problems(session: Session, volume: Volume, recorded: Present) -> list[str]:
    """How the live tables differ from what they should be."""
    areas, points = list(recorded.areas), list(recorded.live)
    try:
        if volume.state in SETTLED and (sentence := layers.dropped(volume)):
            return [f"{sentence}: dmsnap sync {volume.name} puts them back, and compares in full"]
        if (sentence := renewal.reason(session, volume)) is not None:
            return [
                f"{sentence}: dmsnap assemble {volume.name} gives dm-era new metadata, and the "
                f"next sync compares in full"
            ]
        if volume.state is VolumeState.TRIAL:
            found = stack.differences(trial.expected_tables(volume, areas))
            found = put_right(volume, found) + not_shown(volume)
            return found or overlay.problems(volume, overlay.status(volume, recorded.last_swap))
        if is_cut_off(volume):
            return [
                f"recovering {volume.name} by its label was interrupted: dmsnap job resume begins "
                "it anew, any other command takes it back"
            ]
        if volume.state is VolumeState.BUILDING:
            return [f"{volume.name} is protected in part: dmsnap unprotect gives it back"]
        if volume.state is VolumeState.COMMITTING:
            return [failed_merge(volume) or unfinished_commit(volume)]
        if sizes.is_behind(volume):
            return [f"the front of {volume.name} has its former size: dmsnap resize {volume.name}"]
        found = stack.differences(stack.expected_tables(volume, areas, points))
        return (
            put_right(volume, found)
            or written_beside(session, volume)
            or counting_check.problems(volume)
        )
    except DmsnapError as error:
        return [with_hint(error), *not_shown(volume)]


def unfinished_commit(volume: Volume) -> str:
    """What is to be done about a commit that is not at its end."""
    sentence = f"the commit of {volume.name} is not at its end"
    way = trial.way_back(volume)
    if way is None:
        return f"{sentence}: any command finishes it"
    return f"{sentence}, and not shown: dmsnap assemble {volume.name} builds it again; {way}"


def failed_merge(volume: Volume) -> str | None:
    """Of a commit that no command brings to its end: that takes a restart."""
    if volume.state is not VolumeState.COMMITTING:
        return None
    try:
        return merging.failure(volume)
    except NotFoundError:  # removed since, by a commit that is at work
        return None


def put_right(volume: Volume, differences: Sequence[str]) -> list[str]:
    """What differs of a stack, with what to do about it."""
    return [f"{each}: dmsnap assemble {volume.name} puts it right" for each in differences]


def not_shown(volume: Volume) -> list[str]:
    """What else there is to do about a trial that a boot could not build again."""
    way = trial.way_back(volume)
    return [f"the trial of {volume.name} is not shown: {way}"] if way else []


def written_beside(session: Session, volume: Volume) -> list[str]:
    """Somebody wrote to the backing device itself."""
    count = write_count.bytes_beside(session.configuration.run_directory, volume)
    if not count:
        return []
    comparing = "failback" if volume.state is VolumeState.PROMOTED else "the next sync"
    return [
        f"{format_size(count)} were written to {volume.backing} past /dev/mapper/{volume.name}: "
        f"{comparing} compares in full"
    ]


def mount_points(volume: Volume) -> tuple[str, ...]:
    """Where the front is mounted now."""
    info = dm.info(uuid=stack.front(volume).uuid)
    return tuple(str(entry.mount_point) for entry in mounts_of(info.devno)) if info else ()


def replica_status(looked: Look, problems: list[str]) -> ReplicaStatus | None:
    """What the label says; a replica that cannot be recovered from is a problem."""
    volume, label = looked.volume, looked.label
    if volume.recovery is None or label is None:
        problems.append(f"{volume.name} has no recovery volume: {replica.way_to_another(volume)}")
        return None
    if isinstance(label, DmsnapError):
        if Part.RECOVERY not in looked.silent:  # else that is said of it
            problems.append(with_hint(label))
        return None
    if label.state is LabelState.MERGING and volume.state is not VolumeState.COMMITTING:
        problems.append(
            f"the recovery volume {volume.recovery} is merging, in a commit that was given up: it "
            f"holds no point; unprotect {volume.name} and protect it again with --overwrite, which "
            f"copies in full"
        )
    elif label.state not in (LabelState.CONSISTENT, LabelState.MERGING):
        problems.append(
            f"the recovery volume {volume.recovery} is {label.state.name.lower()}: "
            f"dmsnap sync {volume.name} repairs it"
        )
    problems += label_faults(replica.recovery_path(volume), label)
    problems += replica_faults(volume, looked.replica.point)
    return replace(described(volume.recovery, label), bytes_skipped=looked.replica.bytes_skipped)


def replica_ns(looked: Look) -> int | None:
    """The moment that the replica holds, as its label says."""
    label = looked.label
    if not isinstance(label, Label) or label.state is not LabelState.CONSISTENT:
        return None
    return label.point_time_ns if label.point_uuid is not None else None


def label_faults(recovery: Path, label: Label) -> list[str]:
    """A sector of the label that is damaged, and another host that claims the recovery volume."""
    faults = []
    try:
        lease.require_trusted(recovery, label)
        faults += [damage] if (damage := lease.damage(recovery, label)) else []
    except DmsnapError as error:
        faults.append(with_hint(error))
    if not lease.is_ours(label):
        faults.append(
            f"{lease.claim(recovery, label)}: dmsnap sync {label.name} --force takes it over; make "
            f"sure first that the other host does not use it"
        )
    return faults


def replica_faults(volume: Volume, point: Point | None) -> list[str]:
    """What a verification found wrong with the point that the replica holds."""
    if point is None or point.invalid_reason is None:
        return []
    return [
        f"the replica is not the point it should be: {point.invalid_reason}; "
        f"dmsnap sync {volume.name} compares in full and puts it right"
    ]


def described(device: str | Path, label: Label) -> ReplicaStatus:
    """A label for people."""
    good = label.state is LabelState.CONSISTENT and label.point_uuid is not None
    used_bytes = sum(history.store_extent(entry).length_bytes for entry in label.history)
    return ReplicaStatus(
        device=str(device),
        state=label.state.name.lower(),
        point=str(label.point_uuid) if good else None,
        point_time=format_time(label.point_time_ns) if good else None,
        age_seconds=recoverable.age_seconds(label.point_time_ns) if good else None,
        history_points=len(label.history),
        history_bytes=label.history_length_bytes,
        history_used_bytes=used_bytes,
    )


def live_points(
    volume: Volume, points: Sequence[Point], problems: list[str]
) -> tuple[LivePointStatus, ...]:
    """The live snapshots and their fill; one that is invalid or nearly full is a problem."""
    found = []
    for point in points:
        if point.area_id is None or dm.info(uuid=stack.live_point(volume, point.id).uuid) is None:
            continue
        try:
            usage = live.usage(volume, point)
        except NotFoundError:  # removed since
            continue
        found.append(
            LivePointStatus(
                point=str(point.id),
                created=format_time(point.created_ns),
                state=usage.state.value,
                used_bytes=to_bytes(usage.used_sectors),
                total_bytes=to_bytes(usage.total_sectors),
            )
        )
        if usage.state is not SnapshotState.OK:
            problems.append(
                f"live point {point.id} is {usage.state.value}: dmsnap point delete {point.id}"
            )
        elif usage.used_sectors * 100 > usage.total_sectors * COW_WARNING_PERCENT:
            problems.append(
                f"the COW store of live point {point.id} is over {COW_WARNING_PERCENT} % full: "
                f"dmsnapd extends it while the store has room, else it is lost when it is full"
            )
    return tuple(found)
