"""Thin pools that are alive: whose metadata a device is, reading it through a snapshot."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from dmsnap._native.thin import ThinMetadata
from dmsnap.errors import WrongStateError
from dmsnap.host.blockdev import open_shared
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.target import Linear, Target, ThinPool
from dmsnap.host.signals import interruptible
from dmsnap.host.sysfs import SYSFS
from dmsnap.service.inspection.metadata_snapshot import candidates, holding


@dataclass(frozen=True, slots=True)
class LivePool:
    """A pool in use: its name and its metadata device."""

    name: str
    metadata: int


@contextmanager
def metadata_of(pool: LivePool) -> Iterator[tuple[ThinMetadata, bool]]:
    """The metadata of ``pool`` while a snapshot of it is held; True when it was taken here."""
    path = dm.path_by_devno(pool.metadata)
    with (
        interruptible(),
        metadata_snapshot(pool.name) as taken,
        open_shared(path) as fd,
        ThinMetadata.open(fd, str(path), from_snapshot=True) as metadata,
    ):
        yield metadata, taken


def find_pool(devno: int) -> LivePool | None:
    """The pool that ``devno`` is, lies directly over, or serves as its metadata."""
    for name in candidates(devno, "a thin pool"):
        pool = named(name)
        if pool is not None and (pool.metadata == devno or name == SYSFS.dm_name(devno)):
            return pool
    return None


def named(name: str) -> LivePool | None:
    """``name`` as a pool; of LVM's device for the users of a pool, the pool below it."""
    target = _only_target(name)
    if isinstance(target, Linear):
        below = SYSFS.dm_name(target.device)
        target = _only_target(below) if below is not None else None
        name = below or name
    return LivePool(name, target.metadata) if isinstance(target, ThinPool) else None


def block_bytes(pool: LivePool) -> int:
    """The size of the blocks that a pool hands out."""
    target = _only_target(pool.name)
    if not isinstance(target, ThinPool):
        raise WrongStateError(f"{pool.name} is no thin pool any more")
    return target.block_bytes


def _only_target(name: str) -> Target | None:
    table = dm.table(name)
    return table[0].target if len(table) == 1 else None


def metadata_snapshot(name: str) -> AbstractContextManager[bool]:
    """A metadata snapshot of the pool ``name``: True when it was taken here."""
    return holding(
        name,
        lambda: dm.thin_pool_status(name).held_root,
        lambda: dm.message(name, "reserve_metadata_snap"),
        lambda: dm.message(name, "release_metadata_snap"),
    )
