"""What is under the front when a swap begins: it may be spoiled, dead, or hang.

A primary that fails is no obstacle: unmounting goes on over its errors. One that hangs would keep
the unmount waiting for ever, and whoever does it, so it is asked first. When it does not answer,
the front's table is exchanged for errors: then whoever waits for the front gets one.
"""

import logging

from dmsnap.catalogue.model import Area, Volume
from dmsnap.errors import DeadlineError, DmsnapError, OperatingSystemError
from dmsnap.host import counting, mountinfo, reach
from dmsnap.host.dm import device as dm
from dmsnap.host.dm import failing
from dmsnap.host.sysfs import SYSFS
from dmsnap.service.session import Session
from dmsnap.snapshot import bypass, layers, stack
from dmsnap.snapshot.exchange import exchange

log = logging.getLogger(__name__)


def is_failed(volume: Volume) -> bool:
    """Whether the front gives errors only, because a swap found the primary hanging."""
    info = stack.find(stack.front(volume))
    return info is not None and info.live_table and failing.is_failed(info.name)


def answers(volume: Volume, patience_seconds: float) -> bool:
    """Whether the primary completes what is asked of it; what is dirty is written out by that.

    Read past the front first: what then hangs is not counted among what the front waits for.
    """
    if not is_read(volume, patience_seconds):
        return False
    devno = stack.require(stack.front(volume)).devno
    places = [entry.mount_point for entry in mountinfo.mounts_of(devno)[:1]]
    return all(reach.flushes(place, devno, patience_seconds) for place in places)


def is_read(volume: Volume, patience_seconds: float) -> bool:
    """Whether the primary completes a read past the front, in which others may hang."""
    try:
        return _reads(volume, patience_seconds)
    except DmsnapError as error:
        log.warning("%s", error)
        return False


def _reads(volume: Volume, patience_seconds: float) -> bool:
    """Whether what the front lies on can be read past it.

    Of a LUN whose session is lost that is known without asking: :class:`DmsnapError`.
    """
    longest = reach.LONGEST_SECONDS
    return all(reach.reads(path, patience_seconds, longest) for path in layers.below(volume))


def require_answer(volume: Volume, patience_seconds: float, *, hint: str) -> None:
    """Raise :class:`DeadlineError` when the primary hangs: who mounted it could not be ended.

    And the error that says so when it is a LUN that is lost, or another one by now.
    """
    try:
        is_there = _reads(volume, patience_seconds)
    except DmsnapError as error:
        error.hint = hint
        raise
    if not is_there:
        raise DeadlineError(
            f"{volume.backing} does not answer within {patience_seconds:g} s: who used it would "
            f"hang",
            hint=hint,
            device=volume.backing,
        )


def require_no_chunk_stuck(volume: Volume, patience_seconds: float) -> None:
    """Raise :class:`DeadlineError` where the removal of a live point may wait for the primary.

    The kernel waits in it, where no signal reaches it, for the chunks that are on their way to the
    point's store (drivers/md/dm-snap.c, snapshot_dtr): the writes for which they are copied are
    under way in the origin.
    """
    info = stack.find(stack.origin(volume))
    if info is None or (counting.is_counted(info.devno) and not SYSFS.in_flight(info.devno)):
        return
    if not is_read(volume, patience_seconds):
        raise DeadlineError(
            f"{volume.backing} does not answer, and what was written to {volume.name} waits for it",
            device=volume.backing,
        )


def fail(volume: Volume, patience_seconds: float, *, below: bool) -> None:
    """Let the front fail what waits for the primary, and all that comes.

    What the primary has been given already only the primary can give back. Where it is a suspended
    dm device and ``below`` is set, that is failed there.
    """
    log.warning(
        "%s completed nothing for %g s: what waits for it is failed, and what was not written to "
        "it by now is lost",
        volume.backing,
        patience_seconds,
    )
    front = stack.require(stack.front(volume))
    hanging = suspended_below(front.devno)
    try:
        failing.fail(front.name, min(patience_seconds, 1.0) if below else patience_seconds)
    except DeadlineError as error:
        if not below or hanging is None:
            error.hint = what_to_do(volume, hanging)
            raise
        with failing.failing(hanging):
            failing.fail(front.name, patience_seconds)


def what_to_do(volume: Volume, hanging: str | None) -> str:
    """About requests that hang: ``hanging`` is the suspended device that holds them back."""
    if hanging is not None:
        return (
            f"{hanging} is suspended: dmsetup resume {hanging}, or give --fail-primary to fail "
            f"what waits for it"
        )
    return (
        f"have the kernel give up {volume.backing}: a SCSI disk by writing offline to its "
        f"device/state in /sys/block, a multipath device by dmsetup message NAME 0 fail_if_no_path"
    )


def revive(session: Session, volume: Volume, metadata: Area) -> None:
    """Take the front's errors away again; nothing is written out, and so nothing waited for.

    Where dm-era cannot use its metadata the front leads past it.
    """
    front = stack.require(stack.front(volume))
    deadline_ms = session.configuration.window_deadline_ms
    try:
        table = stack.front_table(volume, stack.attach_area(volume, metadata))
        exchange(front, table, deadline_ms, freeze=False)
    except OperatingSystemError as error:
        if error.fields.get("errnum") not in bypass.METADATA_ERRORS:
            raise
        log.warning("dm-era cannot use its metadata of %s any more: %s", volume.name, error)
        exchange(front, bypass.table(volume), deadline_ms, freeze=False)
    stack.turn_discards_off(volume)


def suspended_below(devno: int) -> str | None:
    """The first suspended dm device of others below a device."""
    pending = SYSFS.slaves(devno)
    while pending:
        below = pending.pop(0)
        name, uuid = SYSFS.dm_name(below), SYSFS.dm_uuid(below) or ""
        if name and not uuid.startswith(dm.UUID_PREFIX) and SYSFS.dm_suspended(below):
            return name
        pending += SYSFS.slaves(below)
    return None
