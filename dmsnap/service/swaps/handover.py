"""The last part of a failback: the front goes over, the former volume becomes the replica.

From the moment the front is over, nothing writes to the volume that is left: it stays what it was,
byte for byte, and so its label can be written at any later time. A failback that was killed after
that moment is finished by whoever holds the volume next. One that was killed between the record and
the front is taken back: who has mounted the front meanwhile has written to the promoted volume
alone. After a boot there is no front that would say which it was. The promoted volume's marks do:
without any since the last copy the two are the same, and it is finished.
"""

import logging
from dataclasses import replace

from dmsnap._native import label
from dmsnap._native.label import HistoryFlag, LabelState
from dmsnap.catalogue.model import Area, AreaRole, Point, Volume, VolumeState
from dmsnap.errors import CorruptError, DmsnapError, NotFoundError, WrongStateError
from dmsnap.recovery import history, replica
from dmsnap.service.session import Session
from dmsnap.service.swaps import parting, trial
from dmsnap.service.volumes import assembly
from dmsnap.snapshot import stack, write_count
from dmsnap.tracking import era
from dmsnap.tracking.choice import new_tracking_id

log = logging.getLogger(__name__)


def is_unfinished(session: Session, volume: Volume) -> bool:
    """Whether a failback, or a new recovery volume, was recorded and not brought to its end."""
    if volume.state is not VolumeState.PROTECTED or volume.recovery is None:
        return False
    older = [area for area in session.catalogue.areas(volume.id) if is_older(volume, area)]
    return bool(older) or stack.exists(stack.origin(volume, volume.generation - 1))


def finish(session: Session, volume: Volume) -> None:
    """Do what is left of the handover, whatever of it was done before.

    After a reboot there is no front yet: who builds the stack mounts it. Where a new recovery
    volume was attached, only what served the former primary is left: nothing was unmounted.
    """
    built = stack.exists(stack.front(volume))
    returning = stack.exists(stack.origin(volume, volume.generation - 1))
    if lies_behind(session, volume, built=built):
        take_back(session, volume, built=built)
        return
    if built:
        load(session, volume)
    require_nothing_missed(session, volume)
    record_gone_over(session, volume)
    label_replica(session, volume)
    if built and returning:
        assembly.mount_front(volume)
    retire(session, volume)


def before(volume: Volume) -> Volume:
    """The generation of the stack that the front comes from."""
    return replace(volume, generation=volume.generation - 1)


def lies_behind(session: Session, volume: Volume, *, built: bool) -> bool:
    """Whether the promoted volume has what the former primary lacks, or may have it.

    While the front is over it, that is so for certain. After a boot its marks are asked; where they
    do not tell that nobody wrote to it, only writes to the former primary say that the front had
    gone over.
    """
    if built:
        return trial.lies_over(before(volume))
    if volume.parting is None or is_unwritten(session, volume):
        return False
    return not _is_marked(session, volume, era.FIRST)


def is_unwritten(session: Session, volume: Volume) -> bool:
    """Whether for certain nobody wrote to the promoted volume after the last copy."""
    known = volume.parting
    if known is None or known.reason is not None:
        return False
    return _is_marked(session, before(volume), known.since) is False


def _is_marked(session: Session, volume: Volume, since: int) -> bool | None:
    """Whether a generation has marks since an era; None: its metadata are damaged or lost.

    What is not there just now may come: :class:`NotFoundError`.
    """
    try:
        return bool(parting.marked_since(volume, session.catalogue.areas(volume.id), since))
    except NotFoundError:
        raise
    except DmsnapError as error:
        log.warning("what was written to %s is not known: %s", volume.name, error)
        return None


def require_nothing_missed(session: Session, volume: Volume) -> None:
    """Raise when the promoted volume was written to between the last copy and the front's leaving.

    Nobody does but who mounts it in that moment, or writes to it past any mount.
    """
    if volume.parting is None:
        return
    areas = session.catalogue.areas(volume.id)
    if parting.marked_since(before(volume), areas, volume.parting.since):
        raise WrongStateError(
            f"{volume.recovery} was written to, through /dev/mapper/{volume.name}, after it was "
            f"copied to {volume.backing}: it is not the point that both hold",
            device=volume.recovery,
        )


def record_gone_over(session: Session, volume: Volume) -> Volume:
    """Record that the front lies over the former primary: from here on there is no way back."""
    after = replace(volume, parting=None)
    if after != volume:
        session.catalogue.update_volume(after)
    return after


def take_back(session: Session, volume: Volume, *, built: bool) -> None:
    """Record that the promoted volume serves, as it does. What the two have in common is forgotten:
    the next failback compares.
    """
    tracking_id, reason = new_tracking_id(), "the last failback was taken back"
    former_bytes = volume.device_bytes or volume.size_bytes
    promoted = replace(
        volume,
        state=VolumeState.PROMOTED,
        backing=str(volume.recovery),
        device_bytes=(volume.parting.device_bytes or None) if volume.parting else None,
        recovery=None,
        recovery_id=None,
        generation=volume.generation - 1,
        tracking_id=tracking_id,
        previous_backing=volume.backing,
        parting=parting.unknown(reason, tracking_id, former_bytes),
    )
    session.catalogue.update_volume(promoted)
    for point in points_on_replica(session, volume)[-1:]:
        session.catalogue.delete_point(point.id, "the failback was taken back")
    write_count.forget(session.configuration.run_directory, volume)
    if built:
        assembly.mount_front(promoted)


def load(session: Session, volume: Volume) -> None:
    """Put the front over the volume's present generation, unless it is there."""
    areas = session.catalogue.areas(volume.id)
    if not trial.is_loaded(volume, areas):
        trial.load_front(session, volume, stack.era_area(volume, areas))


def label_replica(session: Session, volume: Volume) -> None:
    """Mark the former primary as the point that both hold, with an empty history."""
    with replica.opened_below_stack(volume) as current:
        if current.label.state is not LabelState.PRIMARY:
            return
        point = newest_on_replica(session, volume)
        region = history.region(volume.size_bytes, label.offset(current.device.size_bytes))
        current.write_label(
            replace(
                current.label,
                state=LabelState.CONSISTENT,
                flags=HistoryFlag(0),
                point_uuid=point.id,
                point_time_ns=point.created_ns,
                history_offset_bytes=region.offset_bytes,
                history_length_bytes=region.length_bytes,
                history=(),
            )
        )
    session.note_replica(volume)


def newest_on_replica(session: Session, volume: Volume) -> Point:
    """The point of the handover. No sync can come after it while the label says ``primary``."""
    points = points_on_replica(session, volume)
    if not points:
        raise CorruptError(f"the catalogue has lost the point at which {volume.name} came back")
    return points[-1]


def points_on_replica(session: Session, volume: Volume) -> list[Point]:
    """Points that are not live, oldest first."""
    return [point for point in session.catalogue.points(volume.id) if point.area_id is None]


def retire(session: Session, volume: Volume) -> None:
    """Take down the stack over the former primary, and give its pieces of the store back."""
    former = before(volume)
    stack.remove(stack.origin(former))
    for area in session.catalogue.areas(volume.id):
        if is_older(volume, area):
            session.release_area(volume, area)
    write_count.forget(session.configuration.run_directory, former)


def is_older(volume: Volume, area: Area) -> bool:
    """Whether a piece of the store served an earlier generation of the stack."""
    return area.role is AreaRole.ERA_METADATA and area.generation < volume.generation
