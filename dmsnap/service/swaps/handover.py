"""The last part of a failback: the front goes over, the former volume becomes the replica.

From the moment the front is over, nothing writes to the volume that is left: it stays what it was,
byte for byte, and so its label can be written at any later time. A failback that was killed after
that moment is finished by whoever holds the volume next, and so is one after a boot, which builds
the stack that is recorded. One that was killed between the record and the front is taken back: who
has mounted the front meanwhile has written to the promoted volume alone.
"""

from dataclasses import replace

from dmsnap._native import label
from dmsnap._native.label import HistoryFlag, LabelState
from dmsnap.catalogue.model import Area, AreaRole, Point, Volume, VolumeState
from dmsnap.errors import CorruptError
from dmsnap.recovery import history, replica
from dmsnap.service.session import Session
from dmsnap.service.swaps import trial
from dmsnap.service.volumes import assembly
from dmsnap.snapshot import stack, write_count
from dmsnap.tracking.choice import new_tracking_id


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
    if built and trial.lies_over(replace(volume, generation=volume.generation - 1)):
        take_back(session, volume)
        return
    if built:
        load(session, volume)
    label_replica(session, volume)
    if built and returning:
        assembly.mount_front(volume)
    retire(session, volume)


def take_back(session: Session, volume: Volume) -> None:
    """Record that the promoted volume serves, as it does. What the two have in common is forgotten:
    the next failback compares.
    """
    point = newest_on_replica(session, volume)
    promoted = replace(
        volume,
        state=VolumeState.PROMOTED,
        backing=str(volume.recovery),
        recovery=None,
        recovery_id=None,
        generation=volume.generation - 1,
        tracking_id=new_tracking_id(),
        previous_backing=volume.backing,
        parting=None,
    )
    session.catalogue.update_volume(promoted)
    session.catalogue.delete_point(point.id, "the failback was taken back")
    write_count.forget(session.configuration.run_directory, volume)
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
    points = [p for p in session.catalogue.points(volume.id) if p.area_id is None]
    if not points:
        raise CorruptError(f"the catalogue has lost the point at which {volume.name} came back")
    return points[-1]


def retire(session: Session, volume: Volume) -> None:
    """Take down the stack over the former primary, and give its pieces of the store back."""
    before = replace(volume, generation=volume.generation - 1)
    stack.remove(stack.origin(before))
    for area in session.catalogue.areas(volume.id):
        if is_older(volume, area):
            session.release_area(volume, area)
    write_count.forget(session.configuration.run_directory, before)


def is_older(volume: Volume, area: Area) -> bool:
    """Whether a piece of the store served an earlier generation of the stack."""
    return area.role is AreaRole.ERA_METADATA and area.generation < volume.generation
