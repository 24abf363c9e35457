"""A live volume gets a front of its own before the next boot: in a swap, which unmounts it anyway.

The overlay of a trial is not put under LVM's device: a refresh would put the primary back under
what is mounted, in the middle of a trial. The base stays below the origin, for the live points'
sake, which know it by its number. It lies on the LV then, and so holds it.
"""

import logging
from dataclasses import replace

from dmsnap.catalogue.model import Volume
from dmsnap.errors import DmsnapError
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.cookie import UdevFlags
from dmsnap.host.dm.target import Error, single
from dmsnap.service.session import Session
from dmsnap.service.volumes import assembly, live_link
from dmsnap.snapshot import layers, live, stack, write_count

log = logging.getLogger(__name__)


def make(session: Session, volume: Volume, *, failed: bool) -> Volume:
    """Give the unmounted LV its own table back, and the volume a front. Returns it as recorded.

    Of one that hangs nothing is waited for: the front gives errors, as the LV did, and the base
    stays as it is.
    """
    volume = _as_seen(session, volume)
    live_link.hide(volume)
    deadline_ms = session.configuration.window_deadline_ms
    layers.take_out(volume, deadline_ms, settled=not failed)
    after = replace(volume, live=None)
    session.catalogue.update_volume(after)
    if failed:
        front = stack.own_front(after)
        table = single(after.size_bytes, Error())
        dm.create(front.name, front.uuid, table, udev=UdevFlags.SHOWN)
    else:
        assembly.build(session, after, session.catalogue.areas(after.id))
        write_count.remember(session.configuration.run_directory, after)
    # As recorded: the front may have begun its tracking anew.
    return session.catalogue.volume_by_id(after.id)


def _as_seen(session: Session, volume: Volume) -> Volume:
    """The volume, distrusted where LVM has dropped the layers since it was held.

    Asked when nobody has the LV mounted any more, and for the last time: no one else could know.
    """
    if (sentence := layers.dropped(volume)) is None:
        return volume
    log.warning("%s", sentence)
    for point in session.live_points(volume):
        session.catalogue.update_point(live.with_validity(volume, point))
    session.distrust(volume)
    tracking_id = session.catalogue.volume_by_id(volume.id).tracking_id
    return replace(volume, tracking_id=tracking_id)


def take_back(session: Session, volume: Volume) -> None:
    """Undo :func:`make`: the LV, which nobody has mounted, is the front again."""
    untouched = _is_untouched(session, replace(volume, live=None))
    stack.remove(stack.own_front(volume))
    tracking_id = session.catalogue.volume_by_id(volume.id).tracking_id
    session.catalogue.update_volume(replace(volume, tracking_id=tracking_id))
    complete(session, volume)
    if untouched:
        write_count.remember(session.configuration.run_directory, volume)


def _is_untouched(session: Session, after: Volume) -> bool:
    """Whether nobody wrote past the front of its own: the count of the LV as front is another."""
    try:
        return write_count.is_untouched(session.configuration.run_directory, after)
    except DmsnapError:  # it was not made to its end, and began no count
        return False


def complete(session: Session, volume: Volume) -> None:
    """Build what is missing of either of the two, as it is recorded."""
    assembly.build(session, volume, session.catalogue.areas(volume.id))
    if stack.live_front(volume):
        live_link.show(volume)
