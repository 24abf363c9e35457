"""Merging a level down by the kernel (snapshot-merge), under a front that serves.

A merge that met an I/O error is given up by the kernel: what is not merged is in the store still,
and shown. Its table cannot be loaded over itself, and a snapshot in its place would take over what
it has in memory, which is wrong by then (drivers/md/dm-snap-persistent.c, persistent_commit_merge:
the entries of an area that could not be written are cleared). But the kernel knows who takes over
from whom by the store's device alone (drivers/md/dm-snap.c, __find_snapshots_sharing_cow). So the
store gets another device, a linear one over it, and the merge is loaded over that: the kernel reads
the store anew, as after a boot.

That is right where the store has what is in memory. It has: a merge that failed writes nothing to
it any more, and who uses the level writes to chunks that it has, or to what lies below. Only where
an area could not be written nobody knows whether it was: what has been written since, to chunks of
which the store may not know any more, would be lost. To a level below an overlay nobody writes;
of an overlay the kernel's log says what failed, as long as it reaches back to where the merge
began. Where it does not, or says anything else, a boot is left, for which the same holds.
"""

import logging

from dmsnap.catalogue.model import Volume
from dmsnap.errors import DmsnapError, PointInvalidError
from dmsnap.host import kernel_log
from dmsnap.host.blockdev import BlockDevice, open_shared
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.cookie import UdevFlags
from dmsnap.host.dm.status import SnapshotState
from dmsnap.host.dm.target import Linear, Snapshot, SnapshotMerge, Table, Target, single
from dmsnap.recovery import chain
from dmsnap.service.session import Session
from dmsnap.service.swaps import trial
from dmsnap.snapshot import cow_store, stack
from dmsnap.snapshot.exchange import exchange
from dmsnap.snapshot.stack import DmName

log = logging.getLogger(__name__)

# A merge moves what changed since the point, at the speed of the disk; a day is a stuck one.
MERGE_SECONDS = 86400.0

SNAPSHOTS = "device-mapper: snapshots: "

# What the kernel says of a merge that it gave up before it changed the store (merge_callback,
# snapshot_merge_next_chunks).
STORE_AS_IT_WAS = (
    "Read error: shutting down merge",
    "Write error: shutting down merge",
    "Flush after merge failed: shutting down merge",
    "Read error in exception store: shutting down merge",
)


def merge(
    session: Session, volume: Volume, device: DmName, merging: SnapshotMerge, finished: Target
) -> None:
    """Merge a level down and put ``finished`` in its place; goes on where it was left.

    Each exchange of its table is a window: the front above is used, and waits for it.
    :class:`PointInvalidError` when the kernel gave the merge up, at an I/O error.
    """
    (line,) = dm.table(stack.require(device).name)
    target: Target = line.target
    if isinstance(target, Snapshot):
        _begin(session, volume, device, merging)
        target = merging
    elif isinstance(target, SnapshotMerge) and has_failed(device):
        _begin_anew(session, volume, device, target, merging)
    if isinstance(target, SnapshotMerge):
        _wait_merged(volume, device)
        _exchange(session, device, single(volume.size_bytes, finished))
    stack.remove(stack.store_again(device))


def has_failed(device: DmName) -> bool:
    """Whether the kernel gave the merge of a level up."""
    return dm.snapshot_status(device.name).state is SnapshotState.MERGE_FAILED


def _begin(session: Session, volume: Volume, device: DmName, merging: SnapshotMerge) -> None:
    try:
        kernel_log.mark(_beginning(device))
    except DmsnapError as error:  # it is for a failure alone
        log.debug("%s", error)
    _exchange(session, device, single(volume.size_bytes, merging))


def _beginning(device: DmName) -> str:
    return f"dmsnap: merging {device.uuid}"


def _begin_anew(
    session: Session,
    volume: Volume,
    device: DmName,
    failed: SnapshotMerge,
    merging: SnapshotMerge,
) -> None:
    """The merge over another device of the same store than that over which it failed."""
    try:
        _require_store(volume, device, merging)
        again = stack.store_again(device)
        if failed.cow == merging.cow:
            stack.remove(again)
            store = BlockDevice.probe(dm.path_by_devno(merging.cow))
            table = single(store.size_bytes, Linear(store.devno, 0))
            cow = dm.create(again.name, again.uuid, table).devno
        else:
            cow = merging.cow
        _begin(session, volume, device, SnapshotMerge(merging.origin, cow, merging.chunk_bytes))
    except DmsnapError as error:
        if isinstance(error, PointInvalidError):
            raise
        raise PointInvalidError(
            f"merging {device.name} failed: {SnapshotState.MERGE_FAILED.value}, and {error}",
            hint=way_on(volume, device),
            device=device.name,
        ) from error


def _require_store(volume: Volume, device: DmName, merging: SnapshotMerge) -> None:
    """Raise unless the store can be read, and what is in it is what the kernel has in memory."""
    if not is_known(volume, device):
        raise PointInvalidError(
            f"merging {device.name} failed: {SnapshotState.MERGE_FAILED.value}",
            hint=way_on(volume, device),
            device=device.name,
        )
    store = BlockDevice.probe(dm.path_by_devno(merging.cow))
    with open_shared(store.path) as fd:
        name = f"the exception store of {device.name}"
        cow_store.require_whole(fd, 0, store.size_bytes, merging.chunk_bytes, name)


def is_known(volume: Volume, device: DmName) -> bool:
    """Whether what the store of a failed merge has is certainly what the kernel has in memory."""
    if device != stack.origin(volume):
        return True
    try:
        said = kernel_log.since(_beginning(device))
    except DmsnapError as error:
        log.debug("%s", error)
        return False
    of_snapshots = [line.removeprefix(SNAPSHOTS) for line in said or () if SNAPSHOTS in line]
    return bool(of_snapshots) and all(line.rstrip(". ") in STORE_AS_IT_WAS for line in of_snapshots)


def _wait_merged(volume: Volume, device: DmName) -> None:
    try:
        dm.wait_merged(device.name, MERGE_SECONDS)
    except PointInvalidError as error:
        error.hint = way_on(volume, device)
        raise


def way_on(volume: Volume, device: DmName) -> str:
    """What is to be done about a merge that the kernel gave up."""
    going_on = f"dmsnap swap commit {volume.name} goes on where it was left"
    if not is_known(volume, device):
        going_on = f"a restart of this host has the stores read anew, and {going_on}"
    return (
        f"/dev/mapper/{volume.name} goes on serving as far as the disks below do; when they are "
        f"well again, {going_on}; {trial.way_out(volume)}"
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
        if merges and has_failed(device):
            return f"the merge of {info.name} met an I/O error: {way_on(volume, device)}"
    return None


def _exchange(session: Session, device: DmName, table: Table) -> None:
    deadline_ms = session.configuration.window_deadline_ms
    exchange(stack.require(device), table, deadline_ms, udev=UdevFlags.HIDDEN, freeze=False)
