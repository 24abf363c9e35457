"""What a front wrote since an era, while it serves."""

from dmsnap._native import window
from dmsnap._native.extent_set import ExtentSet
from dmsnap._native.window import WindowAction, WindowStep
from dmsnap.catalogue.model import Volume
from dmsnap.service.session import Session
from dmsnap.service.volumes import renewal
from dmsnap.snapshot import bypass, stack, suspension
from dmsnap.tracking import era


def written_since(session: Session, volume: Volume, since: int) -> tuple[ExtentSet, int]:
    """What was written since an era, complete on the disk, and the era of all later writes.

    As in a point's window, the suspend waits for what is under way, and rolls the era.
    ``NoSpaceError`` and ``WrongStateError`` where the front could not go on after it.
    """
    front = stack.require(stack.front(volume))
    current = suspension.resumable_era(front)
    rolled = [
        WindowStep(front.uuid, WindowAction.SUSPEND_NO_FREEZE),
        bypass.resuming(volume),
    ]
    deadline_ms = session.configuration.window_deadline_ms
    with bypass.going_on([volume], deadline_ms):
        window.run(rolled, deadline_ms)
    return marked_since(session, volume, since), current + 1


def marked_since(session: Session, volume: Volume, since: int) -> ExtentSet:
    """What dm-era has marked since an era; what is not written yet may be among it."""
    areas = session.catalogue.areas(volume.id)
    metadata = stack.attach_area(volume, stack.era_area(volume, areas))
    front = stack.front(volume).name
    written = era.written_since(front, metadata.path, since, volume.size_bytes)
    renewal.require_marks(session, volume)
    return written
