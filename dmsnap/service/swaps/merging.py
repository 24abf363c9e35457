"""Merging a level down by the kernel (snapshot-merge), under a front that serves."""

from dmsnap.catalogue.model import Volume
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.target import Snapshot, SnapshotMerge, Target, single
from dmsnap.snapshot import stack
from dmsnap.snapshot.stack import DmName

# A merge moves what changed since the point, at the speed of the disk; a day is a stuck one.
MERGE_SECONDS = 86400.0


def merge(volume: Volume, device: DmName, merging: SnapshotMerge, finished: Target) -> None:
    """Merge a level down and put ``finished`` in its place; goes on where it was left."""
    (line,) = dm.table(stack.require(device).name)
    target: Target = line.target
    if isinstance(target, Snapshot):
        dm.reload(device.name, single(volume.size_bytes, merging), freeze=False)
        target = merging
    if isinstance(target, SnapshotMerge):
        dm.wait_merged(device.name, MERGE_SECONDS)
        dm.reload(device.name, single(volume.size_bytes, finished), freeze=False)
