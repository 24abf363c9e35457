"""What a front wrote since an era, while it serves."""

from collections.abc import Iterator
from contextlib import contextmanager

from dmsnap._native import window
from dmsnap._native.extent_set import ExtentSet
from dmsnap._native.window import WindowAction, WindowStep
from dmsnap.catalogue.model import Volume
from dmsnap.errors import CorruptError, OperatingSystemError
from dmsnap.service.session import Session
from dmsnap.service.volumes import renewal
from dmsnap.service.volumes.renewal import LostMarksError
from dmsnap.snapshot import bypass, stack, suspension, window_count
from dmsnap.snapshot.window_count import WriteCounts
from dmsnap.tracking import era


def written_since(session: Session, volume: Volume, since: int) -> tuple[ExtentSet, int]:
    """What was written since an era, complete on the disk, and the era of all later writes.

    As in a point's window, the suspend waits for what is under way, and rolls the era.
    ``NoSpaceError`` and ``WrongStateError`` where the front could not go on after it.
    """
    current, _ = _rolled(session, volume)
    with giving_up_marks(session, volume):
        return marked_since(session, volume, since), current + 1


def counted(session: Session, volume: Volume) -> WriteCounts | None:
    """What the volume's devices count, while its front is suspended for a moment; None: it is not
    known. Raises as :func:`written_since` does.
    """
    return _rolled(session, volume)[1]


def held(session: Session, volume: Volume) -> WriteCounts | None:
    """Suspend the origin, and leave it so: the caller has a watchdog beside it. As :func:`counted`.

    What the front hands on waits in the origin from then on, and is counted by one of the two. The
    counts are of the moment before that, and nothing reaches the device below by either since.
    """
    origin = stack.require(stack.origin(volume))
    return _rolled(session, volume, WindowStep(origin.uuid, WindowAction.HOLD))[1]


def _rolled(session: Session, volume: Volume, *below: WindowStep) -> tuple[int, WriteCounts | None]:
    """The era that has ended with it, at the earliest, and what was counted at that moment."""
    front = stack.require(stack.front(volume))
    with giving_up_marks(session, volume):
        current = _era_before(volume)
    rolled = [
        WindowStep(front.uuid, WindowAction.SUSPEND_NO_FREEZE),
        *below,
        bypass.resuming(volume),
    ]
    deadline_ms = session.configuration.window_deadline_ms
    with window_count.counters([volume]) as counters, bypass.going_on([volume], deadline_ms):
        times = window.run(rolled, deadline_ms, counters=counters)
    (counts,) = window_count.of([volume], times.counted)
    return current, counts


def _era_before(volume: Volume) -> int:
    """dm-era writes its metadata with every answer: ``Error`` says that it could not."""
    try:
        return suspension.resumable_era(stack.require(stack.front(volume)))
    except CorruptError as error:
        raise renewal.lost(volume, str(error)) from error


@contextmanager
def giving_up_marks(session: Session, volume: Volume) -> Iterator[None]:
    """Where dm-era's marks turn out to be lost within, the front goes on without it, which would
    fail what is written, and the error says so. Not while the origin is held: that is waited for.
    The catalogue comes second, which may have failed with them: the table says the same.
    """
    try:
        yield
    except LostMarksError as error:
        bypass.pass_by(volume, session.configuration.window_deadline_ms)
        session.distrust(volume)
        raise bypass.lost(volume) from error


def marked_since(session: Session, volume: Volume, since: int) -> ExtentSet:
    """What dm-era has marked since an era; what is not written yet may be among it.

    :class:`LostMarksError` where it cannot be read, or not be relied on.
    """
    areas = session.catalogue.areas(volume.id)
    metadata = stack.attach_area(volume, stack.era_area(volume, areas))
    front = stack.front(volume).name
    try:
        written = era.written_since(front, metadata.path, since, volume.size_bytes)
    except (OperatingSystemError, CorruptError) as error:
        raise renewal.lost(volume, str(error)) from error
    renewal.require_marks(session, volume)
    return written
