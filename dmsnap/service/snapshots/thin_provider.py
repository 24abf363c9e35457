"""The provider ``thin``: snapshots of thin volumes, which share blocks with them in their pool."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dmsnap._native.extent_set import ExtentSet
from dmsnap._native.thin import ThinDifference
from dmsnap.errors import (
    BusyError,
    CorruptError,
    NoSpaceError,
    NotFoundError,
    PointInvalidError,
    WrongStateError,
)
from dmsnap.host import lvm_snapshot
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.status import ThinPoolStatus
from dmsnap.host.dm.target import Thin
from dmsnap.host.lvm_snapshot import LvState
from dmsnap.host.signals import held_back
from dmsnap.host.sysfs import SYSFS
from dmsnap.service.inspection import inspect_thin, thin_pool
from dmsnap.service.inspection.thin_pool import LivePool
from dmsnap.service.snapshots.logical_provider import LogicalProvider
from dmsnap.service.snapshots.logical_snapshot import Taken, with_tail
from dmsnap.service.snapshots.snapshot_provider import Room, Snapshot

log = logging.getLogger(__name__)


class ThinProvider(LogicalProvider):
    """Origins are thin volumes. Snapshots are active only while they are shown: no twins."""

    name = "thin"

    def is_origin(self, volume: LvState) -> bool:
        return volume.is_thin

    def is_snapshot(self, volume: LvState) -> bool:
        return volume.is_thin

    def room_bytes(self, origin: LvState, percent: int) -> int:  # noqa: ARG002 - it has the pool's
        pool = pool_of(origin)
        if require_working(pool).full:
            raise NoSpaceError(
                f"the thin pool {pool.name} is full: no snapshot of {origin.full_name} can be "
                f"relied on",
                hint="give the pool more room with lvextend, or remove what is in it",
                pool=pool.name,
            )
        return 0

    def create(self, origin: LvState, name: str, tags: Sequence[str], room_bytes: int) -> None:  # noqa: ARG002
        lvm_snapshot.create_thin(origin, name, tags)

    def invalid_reason(self, volume: LvState) -> str | None:  # noqa: ARG002
        return None  # a snapshot is as good as its pool

    @contextmanager
    def shown(self, snapshot: Snapshot) -> Iterator[Path]:
        with active(self.taken(snapshot).volume) as volume:
            pool = pool_of(volume)
            require_working(pool)
            yield dm.node(volume.dm_name)
            require_working(pool)

    def changed(self, since: Snapshot, until: Snapshot | None = None) -> ExtentSet:
        """What is mapped to other blocks of the pool."""
        older, other = self.between(since, until)
        with self._awake(older) as volume:
            difference = difference_of(pool_of(volume), older.volume, other)
        return with_tail(all_of(difference), older.volume.size_bytes, other.size_bytes)

    def room(self, snapshot: Snapshot) -> Room:
        taken = self.taken(snapshot)
        origin = self.origin(taken)
        pool = pool_of(origin if origin is not None and origin.active else taken.volume)
        status, block_bytes = require_working(pool), thin_pool.block_bytes(pool)
        return Room(status.used_data * block_bytes, status.total_data * block_bytes)

    @contextmanager
    def _awake(self, taken: Taken) -> Iterator[LvState]:
        """A volume that is active in the pool of a snapshot: the origin, else the snapshot."""
        origin = self.origin(taken)
        if origin is not None and origin.active:
            yield origin
            return
        with active(taken.volume) as volume:
            yield volume


@contextmanager
def active(volume: LvState) -> Iterator[LvState]:
    """Active within the block. One that somebody had activated, or uses at the end, stays so."""
    if volume.active:
        yield volume
        return
    try:
        with held_back():
            lvm_snapshot.activate(volume)
        yield lvm_snapshot.existing(volume.vg, volume.name)
    finally:
        with held_back():
            deactivate(volume)


def deactivate(volume: LvState) -> None:
    """Have a snapshot leave no node, unless it is in use."""
    info = dm.info(volume.dm_name)
    if info is None:
        return
    if info.open_count:
        log.warning("%s is in use, and stays active", volume.full_name)
    else:
        lvm_snapshot.deactivate(volume)


def pool_of(volume: LvState) -> LivePool:
    """The pool below an active thin volume, else :class:`WrongStateError`."""
    if dm.info(volume.dm_name) is None:
        raise WrongStateError(f"{volume.full_name} is not active")
    table = dm.table(volume.dm_name)
    target = table[0].target if len(table) == 1 else None
    name = SYSFS.dm_name(target.pool) if isinstance(target, Thin) else None
    pool = thin_pool.named(name) if name is not None else None
    if pool is None:
        raise WrongStateError(f"{volume.dm_name} is no thin device of the kernel's")
    return pool


def require_working(pool: LivePool) -> ThinPoolStatus:
    """The status of a pool; :class:`PointInvalidError` when it has failed."""
    try:
        return dm.thin_pool_status(pool.name)
    except CorruptError as error:
        raise PointInvalidError(
            f"the thin pool {pool.name} has failed: nothing in it can be relied on",
            pool=pool.name,
        ) from error


def difference_of(pool: LivePool, first: LvState, second: LvState) -> ThinDifference:
    """In what two volumes of a pool differ, by a metadata snapshot that is taken for it."""
    if first.thin_id is None or second.thin_id is None:
        raise NotFoundError(f"{second.full_name} is no thin volume")
    with thin_pool.metadata_of(pool) as (metadata, taken):
        if not taken:
            raise BusyError(
                f"{pool.name} holds a metadata snapshot, which somebody else has taken: what was "
                f"written after it is not in it",
                hint=f"dmsetup message {pool.name} 0 release_metadata_snap drops it",
                pool=pool.name,
            )
        return metadata.difference(first.thin_id, second.thin_id)


def all_of(difference: ThinDifference) -> ExtentSet:
    """All extents that differ, in whatever way."""
    extents = ExtentSet()
    for kind in inspect_thin.kinds(difference).values():
        extents.merge(kind)
    return extents
