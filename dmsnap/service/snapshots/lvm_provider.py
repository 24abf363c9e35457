"""The provider ``lvm``: thick snapshots of logical volumes, each with an exception store."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dmsnap._native.extent_set import ExtentSet
from dmsnap.errors import NoSpaceError, PointInvalidError, WrongStateError
from dmsnap.host import lvm, lvm_snapshot
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.status import SnapshotState, SnapshotStatus
from dmsnap.host.dm.target import Snapshot as SnapshotTarget
from dmsnap.host.lvm_snapshot import LvState
from dmsnap.service.snapshots.cow_provider import kept
from dmsnap.service.snapshots.logical_provider import LogicalProvider
from dmsnap.service.snapshots.logical_snapshot import with_tail
from dmsnap.service.snapshots.snapshot_provider import Room, Snapshot
from dmsnap.units import MIB, align_up, format_size, to_bytes

CHUNK_BYTES = 4096
MIN_STORE_BYTES = 4 * MIB


class LvmProvider(LogicalProvider):
    """Origins are logical volumes that are neither thin nor snapshots."""

    name = "lvm"

    def is_origin(self, volume: LvState) -> bool:
        others = ("pool", "snapshot", "thicksnapshot", "private")
        return not volume.is_thin and not {*volume.layout, *volume.roles} & {*others}

    def is_snapshot(self, volume: LvState) -> bool:
        return volume.is_thick_snapshot

    def room_bytes(self, origin: LvState, percent: int) -> int:
        group = lvm.complete_group(origin.vg)
        wanted = percent or self.session.configuration.cow_percent
        room_bytes = align_up(store_bytes(origin.size_bytes, wanted), group.extent_bytes)
        if room_bytes > group.free_bytes:
            raise NoSpaceError(
                f"the volume group {group.name} has {format_size(group.free_bytes)} free, a "
                f"snapshot of {origin.full_name} needs {format_size(room_bytes)}",
                vg=group.name,
                free_bytes=group.free_bytes,
                size_bytes=room_bytes,
            )
        return room_bytes

    def create(self, origin: LvState, name: str, tags: Sequence[str], room_bytes: int) -> None:
        lvm_snapshot.create_thick(origin, name, room_bytes, tags)

    def invalid_reason(self, volume: LvState) -> str | None:
        if not volume.active:
            return None
        state = dm.snapshot_status(volume.dm_name).state
        return None if state is SnapshotState.OK else f"the kernel reports it as {state.value}"

    @contextmanager
    def shown(self, snapshot: Snapshot) -> Iterator[Path]:
        volume = self.taken(snapshot).volume
        require_valid(volume)
        yield dm.node(volume.dm_name)
        require_valid(volume)

    def changed(self, since: Snapshot, until: Snapshot | None = None) -> ExtentSet:
        """What the older one has kept: see the provider ``cow``."""
        older, other = self.between(since, until)
        require_valid(older.volume)
        extents = kept(store_of(older.volume))
        require_valid(older.volume)
        return with_tail(extents, readable_bytes(older.volume), readable_bytes(other))

    def room(self, snapshot: Snapshot) -> Room:
        status = require_valid(self.taken(snapshot).volume)
        return Room(to_bytes(status.used_sectors), to_bytes(status.total_sectors))


def store_bytes(size_bytes: int, percent: int) -> int:
    """Room for ``percent`` of an origin's chunks, the store's metadata areas included."""
    data_bytes = align_up(size_bytes * percent // 100, CHUNK_BYTES)
    return max(MIN_STORE_BYTES, data_bytes + data_bytes // CHUNK_BYTES * 16 + MIB)


def readable_bytes(volume: LvState) -> int:
    """The size of an active volume, as the kernel has it: what lies behind it is nobody's."""
    return BlockDevice.probe(dm.node(volume.dm_name)).size_bytes


def require_valid(volume: LvState) -> SnapshotStatus:
    """The status of a snapshot that shows what it should; :class:`PointInvalidError` otherwise."""
    if not volume.active:
        raise WrongStateError(
            f"{volume.full_name} is not active: nobody can say whether it followed its origin",
            hint=f"lvchange --activate y {volume.vg}/{volume.origin}",
        )
    status = dm.snapshot_status(volume.dm_name)
    if status.state is not SnapshotState.OK:
        raise PointInvalidError(
            f"the snapshot {volume.full_name} is {status.state.value}: its exception store could "
            f"not take all that was written to its origin",
            hint="give snapshots more room with --cow-percent",
            snapshot=volume.full_name,
        )
    return status


def store_of(volume: LvState) -> BlockDevice:
    """The hidden device that holds a snapshot's exception store."""
    table = dm.table(volume.dm_name)
    if len(table) != 1 or not isinstance(table[0].target, SnapshotTarget):
        raise WrongStateError(f"{volume.dm_name} is no snapshot of the kernel's")
    return BlockDevice.probe(dm.path_by_devno(table[0].target.cow))
