"""Merging a level down by the kernel (snapshot-merge), under a front that serves."""

from dmsnap.catalogue.model import Volume
from dmsnap.errors import PointInvalidError
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.cookie import UdevFlags
from dmsnap.host.dm.status import SnapshotState
from dmsnap.host.dm.target import Snapshot, SnapshotMerge, Table, Target, single
from dmsnap.recovery import chain
from dmsnap.service.session import Session
from dmsnap.snapshot import stack
from dmsnap.snapshot.exchange import exchange
from dmsnap.snapshot.stack import DmName

# A merge moves what changed since the point, at the speed of the disk; a day is a stuck one.
MERGE_SECONDS = 86400.0


def merge(
    session: Session, volume: Volume, device: DmName, merging: SnapshotMerge, finished: Target
) -> None:
    """Merge a level down and put ``finished`` in its place; goes on where it was left.

    Each exchange of its table is a window: the front above is used, and waits for it.
    :class:`PointInvalidError` when the kernel gave the merge up, at an I/O error: what is not
    merged is in the store still, and shown. It is not begun anew under who uses it: its table
    cannot be loaded over itself, and what a snapshot would take over from it is wrong by then
    (drivers/md/dm-snap-persistent.c, persistent_commit_merge: the entries of an area that could
    not be written are cleared in memory, and next_free is no place that is free).
    """
    (line,) = dm.table(stack.require(device).name)
    target: Target = line.target
    if isinstance(target, Snapshot):
        _exchange(session, device, single(volume.size_bytes, merging))
        target = merging
    if isinstance(target, SnapshotMerge):
        _wait_merged(volume, device)
        _exchange(session, device, single(volume.size_bytes, finished))


def _wait_merged(volume: Volume, device: DmName) -> None:
    try:
        dm.wait_merged(device.name, MERGE_SECONDS)
    except PointInvalidError as error:
        error.hint = way_on(volume)
        raise


def way_on(volume: Volume) -> str:
    """What is to be done about a merge that the kernel gave up."""
    return (
        f"/dev/mapper/{volume.name} goes on serving as far as the disks below do; when they are "
        f"well again, a restart of this host has the stores read anew, and dmsnap swap commit "
        f"{volume.name} goes on where it was left"
    )


def failure(volume: Volume) -> str | None:
    """That the kernel gave a merge of a commit up, and what is to be done; None: it did not."""
    levels = [level.shown for level in chain.existing(volume, chain.TRIAL)]
    points = [stack.live_point(volume, volume.trial_point)] if volume.trial_point else []
    for device in (*levels, *points, stack.origin(volume)):
        info = stack.find(device)
        if info is None or not info.live_table:
            continue
        merges = isinstance(dm.table(info.name)[0].target, SnapshotMerge)
        if merges and dm.snapshot_status(info.name).state is SnapshotState.MERGE_FAILED:
            return f"the merge of {info.name} met an I/O error: {way_on(volume)}"
    return None


def _exchange(session: Session, device: DmName, table: Table) -> None:
    deadline_ms = session.configuration.window_deadline_ms
    exchange(stack.require(device), table, deadline_ms, udev=UdevFlags.HIDDEN, freeze=False)
