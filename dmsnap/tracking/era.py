"""The ``era`` tracker: blocks that dm-era saw written, out of a metadata snapshot."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dmsnap._native.era import EraMetadata
from dmsnap._native.extent_set import MOST_EXTENTS, ExtentSet
from dmsnap.host.blockdev import open_shared
from dmsnap.host.dm import device as dm

# The kernel's first era; 0 stands for never written.
FIRST = 1


@contextmanager
def metadata_snapshot(name: str) -> Iterator[None]:
    """Hold a metadata snapshot of the era device ``name``: taken fresh, always dropped.

    One that is held already was left by somebody who died; it is too old to be used.
    """
    drop(name)
    try:
        dm.message(name, "take_metadata_snap")
        yield
    finally:
        drop(name)


def drop(name: str) -> None:
    """Drop the metadata snapshot of the era device ``name``, if it holds one."""
    if dm.era_status(name).metadata_snap is not None:
        dm.message(name, "drop_metadata_snap")


def written_since(front: str, metadata: Path, since: int, size_bytes: int) -> ExtentSet:
    """The extents of the front written in era ``since`` or later, clamped to ``size_bytes``.

    May hold more than was written since: a superset is harmless. Needs root.
    """
    with (
        metadata_snapshot(front),
        open_shared(metadata) as fd,
        EraMetadata.open(fd, str(metadata)) as era,
    ):
        extents = era.written_since(since, from_snapshot=True, most=MOST_EXTENTS)
    extents.clamp(size_bytes)
    return extents
