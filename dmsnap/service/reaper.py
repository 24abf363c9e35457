"""Clearing what commands that were killed left of a volume, before the next one begins."""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from uuid import UUID

from dmsnap.catalogue import jobs
from dmsnap.catalogue.model import (
    SETTLED,
    Area,
    AreaRole,
    Job,
    JobState,
    Point,
    Volume,
    VolumeState,
)
from dmsnap.errors import BusyError, DmsnapError, MountPointTakenError
from dmsnap.host import orphans, signals
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.target import Snapshot
from dmsnap.recovery import chain, replica
from dmsnap.service import operations
from dmsnap.service.exports import exported
from dmsnap.service.health import stranded
from dmsnap.service.hydrations import crossing, hydration
from dmsnap.service.luns import luns
from dmsnap.service.luns.luns import Wanted
from dmsnap.service.schedules import cut_off_hooks
from dmsnap.service.session import Session
from dmsnap.service.swaps import (
    completion,
    handover,
    occupants,
    overlay,
    owed_record,
    primary,
    trial,
)
from dmsnap.service.volumes import own_front, renewal, spare
from dmsnap.snapshot import layers, live, stack, write_count
from dmsnap.snapshot.stack import DmName

log = logging.getLogger(__name__)

# Why a point is no more that a commit has made the volume itself of.
MERGED = "swap commit went back to it"


@dataclass(frozen=True, slots=True)
class Reaped:
    """The operations that were cut off, and what has become of each.

    ``left`` are devices that this has suspended itself and that are so still, by name.
    """

    ended: frozenset[tuple[str, JobState]] = frozenset()
    left: frozenset[str] = frozenset()


@contextmanager
def held(
    session: Session, name: str, wanted: Wanted = Wanted.ALL, *, concluding: bool = True
) -> Iterator[Volume]:
    """Hold a volume's lock, after clearing or finishing what commands that were killed left.

    The LUNs that are ``wanted`` are attached where they are not. Not ``concluding``: at boot, which
    needs no recovery volume but one that the volume lies on.
    """
    session.catalogue.volume(name)
    with session.locked([name], at_boot=not concluding):
        volume = session.catalogue.volume(name)
        reaped = reap(session, volume, wanted, concluding=concluding)
        signals.begin_anew()  # what it is held for comes now
        with seen_to(session, volume, reaped):
            yield session.catalogue.volume(name)


@contextmanager
def held_unless_done(
    session: Session,
    name: str,
    operation: str,
    wanted: Wanted = Wanted.ALL,
    *,
    undoing: str | None = None,
) -> Iterator[Volume | None]:
    """As :func:`held`; None when concluding what was cut off was all that is asked for.

    ``undoing`` is what ``operation`` takes back: that may have been cut off, and be undone now.
    """
    session.catalogue.volume(name)
    with session.locked([name]):
        volume = session.catalogue.volume(name)
        reaped = reap(session, volume, wanted)
        done = bool(reaped.ended & {(operation, JobState.DONE), (undoing, JobState.UNDONE)})
        # A protect that was cut off was taken back: there is no volume any more.
        is_gone = session.catalogue.find_volume(name) is None
        with seen_to(session, volume, reaped):
            yield None if done or is_gone else session.catalogue.volume(name)


def reap(
    session: Session,
    volume: Volume,
    wanted: Wanted = Wanted.ALL,
    *,
    concluding: bool = True,
    obstacles: dict[int, DmsnapError] | None = None,
) -> Reaped:
    """Clear what belongs to no point and no trial; finish jobs that were cut off, or undo them.

    Called with the volume's lock held: whoever began these things is dead. At boot nothing is
    concluded: the stack is not there yet, and the boot waits. What has left the volume unmounted is
    not either, while somebody else's mount is in its place. ``obstacles`` is told why a job could
    not be concluded.
    """
    volume = owed_record.settle(session, crossing.settle(session, volume))
    cut_off = jobs.unfinished(session.catalogue, volume.id)
    clear_suspended(session, volume, cut_off)
    theirs = stranded.suspended(volume) if cut_off else set()
    luns.release_strays(session, volume.name)
    luns.attach_all(session, volume, wanted)
    for job in cut_off:
        orphans.wait_for_lvm(job.pid)
    waiting: list[Job] = []
    try:
        clear(session, volume, cut_off, at_boot=not concluding)
    except MountPointTakenError as error:
        log.warning("%s", error)
        waiting = [job for job in cut_off if may_have_left_it_unmounted(job)]
        if obstacles is not None:
            obstacles.update((job.id, error) for job in waiting)
    if not concluding:
        return Reaped()
    for job in cut_off:
        cut_off_hooks.close_pairs(session, job, volume.name)
    ended = {
        (job.operation, conclude(session, volume, job, obstacles))
        for job in cut_off
        if job not in waiting
    }
    ended |= {(job.operation, JobState.RUNNING) for job in waiting}
    left = stranded.suspended(volume) - theirs if cut_off else set()
    return Reaped(frozenset(ended), frozenset(left))


def clear(
    session: Session, volume: Volume, cut_off: Sequence[Job], *, at_boot: bool = False
) -> None:
    """Remove what belongs to no point and no trial, and mount again what a swap had unmounted.

    What became of temporary points the recovery volume says, which no boot waits for.
    """
    note_dropped_layers(session, volume)
    note_lost_tracking(session, volume)
    note_invalid_points(session, volume)
    if not at_boot and not is_being_attached(volume, cut_off):
        unless_failing(remove_temporary_points, session, volume)
    unless_failing(remove_stray_snapshots, session, volume)
    unless_failing(remove_stray_overlays, session, volume)
    exported.reap(session, exported.of_volume(session, volume))
    unless_failing(exported.hide_stray_points, session, volume)
    unless_failing(exported.remove_stray_backstores, session, volume)
    unless_failing(spare.remove_unfinished, session, volume)
    unless_failing(spare.release_retired, session, volume)
    unless_failing(hydration.tidy, session, volume)
    if volume.state is VolumeState.TRIAL and trial.is_loaded(
        volume, session.catalogue.areas(volume.id)
    ):
        overlay.keep_ahead(session, volume)
    if is_merged_in_part(session, volume):
        unless_busy(retire_merged, session, volume)
    if handover.is_unfinished(session, volume):
        finish_handover(session, volume)
        return
    if volume.state in SETTLED:
        unless_busy(remove_stray_trial, session, volume)
    if volume.state is VolumeState.PROMOTED and is_retired_in_part(session, volume):
        unless_busy(retire, session, volume)
    note = occupants.note_path(session, volume)
    halfway = volume.state in SETTLED and any(job.has_begun("own-front") for job in cut_off)
    if halfway and not primary.is_failed(volume):
        own_front.complete(session, volume)
    unmounted = any(map(may_have_left_it_unmounted, cut_off))
    if (unmounted or note.exists()) and shows_what_it_should(session, volume):
        completion.put_to_use(session, volume)


def unless_busy(
    remove: Callable[[Session, Volume], None], session: Session, volume: Volume
) -> None:
    """What somebody uses is removed later: it keeps no command from the volume, and so not that by
    which the use ends.
    """
    try:
        remove(session, volume)
    except BusyError as error:
        log.warning("not all that was left of %s is removed: %s", volume.name, error)


def unless_failing(
    remove: Callable[[Session, Volume], None], session: Session, volume: Volume
) -> None:
    """What serves nobody any more, and is in nobody's way, is tried again by the next command: a
    store that is away, say, keeps nobody from a swap.
    """
    try:
        remove(session, volume)
    except DmsnapError as error:
        log.warning("not all that was left of %s is removed: %s", volume.name, error)


def may_have_left_it_unmounted(job: Job) -> bool:
    """Whether a job may have unmounted what its volume is used by, or made it and come no further.

    A point is none of that.
    """
    begun = job.has_begun("unmount") or job.has_begun("create-front")
    return begun and job.operation != "point umount"


def conclude(
    session: Session,
    volume: Volume,
    job: Job,
    obstacles: dict[int, DmsnapError] | None = None,
) -> JobState:
    """Finish a job that was cut off, or undo it, and say so. What fails is still ``running``, tried
    again later, and among the ``obstacles`` with its reason.
    """
    what = f"{job.operation} of {volume.name} was cut off at {job.last_begun}"
    fields = {"volume": volume.name, "operation": job.operation, "job": job.id}
    recorded = session.catalogue.find_volume(volume.name)
    if job.last_begun is None:
        state, outcome = JobState.UNDONE, "cut off at its start"
    elif recorded is None:
        state, outcome = JobState.ABANDONED, "the volume is not protected any more"
    else:
        try:
            done = has_come_to_its_end(session, recorded, job)
            completion.prepare_boot(session, volume.name, job)
            cut_off_hooks.close_removal(session, job, recorded, done=done)
        except DmsnapError as error:
            log.warning("%s, and is not concluded: %s", what, error, extra=fields)
            if obstacles is not None:
                obstacles[job.id] = error
            return JobState.RUNNING
        state = JobState.DONE if done else JobState.UNDONE
        outcome = f"cut off at {job.last_begun}{f': {job.outcome}' if job.outcome else ''}"
        log.warning("%s: it is %s now (job %d)", what, state, job.id, extra=fields)
    jobs.settle(session.catalogue, job.id, volume.id, state, outcome)
    return state


def has_come_to_its_end(session: Session, volume: Volume, job: Job) -> bool:
    """Whether a job is done, after finishing or undoing what clearing has left of it."""
    finish = operations.finish(job.operation)
    if finish is not None:
        return finish(session, volume, job)
    return operations.has_taken_effect(job)


def finish_handover(session: Session, volume: Volume) -> None:
    """Bring a failback or an attach to its end, or take a failback back; the recovery volume may be
    missing for now.
    """
    try:
        handover.finish(session, volume)
    except MountPointTakenError:
        raise  # all but the mount is done
    except DmsnapError as error:
        log.warning("the change of devices of %s is not finished: %s", volume.name, error)
    after = session.catalogue.volume_by_id(volume.id)
    if after.state is VolumeState.PROMOTED:
        remove_stray_trial(session, after)


def shows_what_it_should(session: Session, volume: Volume) -> bool:
    """Whether the front is there, and over what the catalogue says."""
    if volume.state in (VolumeState.TRIAL, VolumeState.COMMITTING):
        return trial.is_loaded(volume, session.catalogue.areas(volume.id))
    if volume.state not in SETTLED or not stack.exists(stack.front(volume)):
        return False
    # One that a swap had failed would hang whoever mounts it.
    return not primary.is_failed(volume)


def clear_suspended(session: Session, volume: Volume, cut_off: Sequence[Job]) -> None:
    """Have go on what was left suspended; what somebody else suspends stays so."""
    left = stranded.left(session, volume, cut_off)
    is_news = stranded.is_news(session, volume, cut_off)
    if cut_off or left:
        resume_suspended(volume, left)
    if (left or is_news) and stack.live_front(volume):
        layers.tidy(volume)
    if left:
        stranded.note_resumed(session, volume)
    if cut_off:
        stranded.forget_seen(session, volume)


@contextmanager
def seen_to(session: Session, volume: Volume, reaped: Reaped) -> Iterator[None]:
    """While jobs that are cut off wait to be concluded: what is suspended after this is nobody's of
    ours, if it comes to its end. Who is killed in between may have left a device suspended; and so
    may the watchdog be that reaping has left one to, which no job's outcome tells of.
    """
    waiting: list[Job] = []
    if not reaped.left and any(state is JobState.RUNNING for _, state in reaped.ended):
        waiting = jobs.unfinished(session.catalogue, volume.id)
    try:
        yield
    finally:
        if waiting:
            stranded.note_seen(session, volume, waiting)


def resume_suspended(volume: Volume, left: Collection[str]) -> None:
    """A command that was killed between a suspend and its resume left the users hanging.

    That comes first of all: what looks at processes may wait for one that waits for the front.
    What else is suspended is so by somebody who means it, and keeps the table loaded for it.

    Where one is suspended under users its watchdog resumes it, unless that was killed, too; while
    devices are put in order that nobody uses there is none. The table that was loaded and not made
    live goes: whatever was begun is begun anew. A hydration's is live by now (``crossing.settle``).
    """
    for info in dm.list_devices(f"{dm.UUID_PREFIX}{volume.id}-"):
        if info.suspended and info.name not in left:
            continue
        if info.inactive_table and info.live_table:
            dm.clear(info.name)
        if info.suspended and info.live_table:
            dm.resume_past_era(info.name)


def note_lost_tracking(session: Session, volume: Volume) -> None:
    """What dm-era's marks do not tell any more is compared, whatever becomes of its metadata."""
    if (sentence := renewal.reason(session, volume)) is not None:
        log.warning("%s", sentence)
        session.distrust(volume)


def note_dropped_layers(session: Session, volume: Volume) -> None:
    """What was written since LVM put its own table back is known to nobody: it is compared.

    While a protect is under way, that has not put them there, or takes them out again.
    """
    sentence = layers.dropped(volume) if volume.state in SETTLED else None
    if sentence:
        log.warning("%s; dmsnap sync %s puts them back", sentence, volume.name)
        session.distrust(volume)


def note_invalid_points(session: Session, volume: Volume) -> None:
    """Record what the kernel says of live points, so that nothing waits for one that is lost."""
    for point in session.catalogue.live_points(volume.id):
        if volume.trial_live and point.id == volume.trial_point:
            continue  # it may be half merged
        checked = live.with_validity(volume, point)
        if checked != point:
            session.catalogue.update_point(checked)


def is_being_attached(volume: Volume, cut_off: Sequence[Job]) -> bool:
    """Whether a recovery volume may be whole and not recorded yet: then it is the place of the
    point that was copied to it, which is for who looks at it (replicas.attach).
    """
    return volume.recovery is None and any(job.operation == "attach" for job in cut_off)


def remove_temporary_points(session: Session, volume: Volume) -> None:
    """Points whose sync did not live to remove them. One that it brought to the replica stays, and
    so does any while that cannot be told: it may be the only one that the replica has.
    """
    for point in session.catalogue.temporary_points(volume.id):
        try:
            is_on_replica = replica.holds(replica.label_of(volume), point.id)
        except DmsnapError as error:
            if volume.recovery is not None and volume.state is not VolumeState.BUILDING:
                log.warning("a point of %s is left as it is: %s", volume.name, error)
                continue
            is_on_replica = False  # half a first copy has no label yet
        require_no_chunk_stuck(session, volume)
        if is_on_replica:
            session.settle_on_replica(volume, point)
        else:
            session.drop_live_point(volume, point, "its command was cut off")


def remove_stray_snapshots(session: Session, volume: Volume) -> None:
    """COW stores, and snapshots on them, that no point was recorded for."""
    known = {point.area_id for point in session.catalogue.live_points(volume.id)}
    for area in session.catalogue.areas(volume.id, AreaRole.COW):
        if area.id not in known:
            if area.point_id is not None:
                require_no_chunk_stuck(session, volume)
                live.remove(volume, area.point_id)
            session.require_store(volume)
            session.release_area(volume, area)


def require_no_chunk_stuck(session: Session, volume: Volume) -> None:
    """Of a trial or a promoted volume that is not known: its live points are of another origin."""
    if volume.state is VolumeState.PROTECTED:
        primary.require_no_chunk_stuck(volume, session.configuration.primary_wait_seconds)


def remove_stray_overlays(session: Session, volume: Volume) -> None:
    """Overlays of points that are not mounted."""
    for area in session.catalogue.areas(volume.id, AreaRole.BROWSE):
        if area.point_id is not None and not is_mounted(volume, area.point_id):
            remove_browse(session, volume, area, area.point_id)


def is_mounted(volume: Volume, point_id: UUID) -> bool:
    """Whether a point's overlay is in use; one that nobody holds open was left behind."""
    info = dm.info(uuid=stack.browse(volume, point_id).uuid)
    return info is not None and info.open_count > 0


def remove_browse(session: Session, volume: Volume, area: Area, point_id: UUID) -> None:
    """Remove a point's overlay and the levels below it, and give its room back."""
    stack.remove(stack.browse(volume, point_id))
    chain.remove(chain.existing(volume, chain.browse_purpose(point_id)))
    session.release_area(volume, area)


def remove_stray_trial(session: Session, volume: Volume) -> None:
    """Devices and areas of a trial that was never recorded, or was reverted before."""
    strays = [
        area
        for area in session.catalogue.areas(volume.id)
        if area.role in (AreaRole.OVERLAY, AreaRole.ERA_METADATA)
        and area.generation > volume.generation
    ]
    if not strays:
        return
    for generation in {area.generation for area in strays}:
        origin = stack.origin(volume, generation)
        stack.remove(stack.era_maker(replace(volume, generation=generation)))
        stack.remove(origin)
        stack.remove(stack.store_again(origin))
    chain.remove(chain.existing(volume, chain.TRIAL))
    for area in strays:
        try:
            session.release_area(volume, area)
        except DmsnapError as error:
            log.warning("%s could not be given back: %s", area.path, error)


def is_merged_in_part(session: Session, volume: Volume) -> bool:
    """Whether a commit that took the primary back to a live point was killed after recording it."""
    return volume.state is VolumeState.PROTECTED and bool(merged_overlays(session, volume))


def merged_overlays(session: Session, volume: Volume) -> list[Area]:
    """The overlay of the trial whose live point a commit has made the primary of."""
    overlays = session.catalogue.areas(volume.id, AreaRole.OVERLAY)
    return [area for area in overlays if area.generation == volume.generation]


def retire_merged(session: Session, volume: Volume) -> None:
    """Remove the point that was merged, the former origin, and last the overlay.

    The overlay marks that all this is to be done, and says which point it was: after a reboot no
    device does. In a catalogue that was made again it may be the device that does.
    """
    overlays = merged_overlays(session, volume)
    merged = {area.point_id for area in overlays}
    for point in session.catalogue.points(volume.id):
        if point.id in merged or (point.area_id is not None and is_merged(volume, point)):
            session.drop_live_point(volume, point, MERGED)
    handover.retire(session, volume)
    stack.remove(stack.store_again(stack.origin(volume)))
    for area in overlays:
        session.release_area(volume, area)


def is_merged(volume: Volume, point: Point) -> bool:
    """Whether nothing is left of a live point but a device that leads to the primary."""
    info = stack.find(stack.live_point(volume, point.id))
    if info is None or not info.live_table:
        return False
    return not isinstance(dm.table(info.name)[0].target, Snapshot)


def is_retired_in_part(session: Session, volume: Volume) -> bool:
    """Whether a commit that made the recovery volume the primary was killed after that."""
    if stack.exists(stack.origin(volume, volume.generation - 1)):
        return True
    if stack.exists(former_base(volume)):
        return True
    return any(is_former(volume, area) for area in session.catalogue.areas(volume.id))


def former_base(volume: Volume) -> DmName:
    """What stood for the former primary, an LV that was mounted when it was protected."""
    return stack.base(replace(volume, backing=volume.previous_backing or ""))


def is_former(volume: Volume, area: Area) -> bool:
    """Whether an area served the former primary's points, or the trial before it was merged.

    The former primary's era metadata is kept for failback.
    """
    if area.role in (AreaRole.ERA_METADATA, AreaRole.SPARE):
        return False
    return area.generation != volume.generation or area.role is AreaRole.OVERLAY


def retire(session: Session, volume: Volume) -> None:
    """The former primary of a promoted volume is free: its points and its origin go."""
    former = {area.id for area in session.catalogue.areas(volume.id) if is_former(volume, area)}
    for point in session.catalogue.points(volume.id):
        if point.area_id is None or point.area_id in former:
            session.drop_live_point(volume, point, "swap commit gave its disk up")
    stack.remove(stack.origin(volume, volume.generation - 1))
    stack.remove(stack.store_again(stack.origin(volume)))
    stack.remove(former_base(volume))
    for area in session.catalogue.areas(volume.id):
        if area.id in former:
            session.release_area(volume, area)
    if stack.exists(stack.origin(volume)):  # else who builds it counts from then on
        write_count.remember(session.configuration.run_directory, volume)
