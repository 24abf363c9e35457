"""Reading thin-pool metadata, of pools in use and of image files.

Needs no catalogue, and no root where the file or device can be read. What only devices need is
imported for devices.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from pathlib import Path

from dmsnap._native.extent_set import ExtentSet
from dmsnap._native.thin import ThinDevice, ThinDifference, ThinMappings, ThinMetadata
from dmsnap.service.inspection.inspect_era import block_device_of, opened

# Offset and length in bytes of the thin device; offset on the data device, or what differs there.
Row = tuple[int, int, int | str]


@dataclass(frozen=True, slots=True)
class PoolInspection:
    """What a pool holds. Sizes in bytes; ``rows`` are of the one device that was asked for.

    ``pool`` is the pool that uses the metadata, and ``taken`` says that the metadata snapshot was
    taken for this answer alone.
    """

    block_size: int
    data_nr_blocks: int
    transaction_id: int
    metadata_snapshot: int | None
    needs_check: bool
    devices: tuple[ThinDevice, ...]
    rows: Iterator[Row] | None
    total_bytes: int
    pool: str | None
    taken: bool


def inspect_thin(device: Path, dev_id: int | None, since: int | None) -> PoolInspection:
    """The devices of a pool, what ``dev_id`` maps, or in what it differs from ``since``.

    ``device`` is a pool (root), its metadata device, or an image of that. Metadata in use is read
    through a metadata snapshot: one that is held as it is, else one that is taken and dropped here
    (root).
    """
    devno = block_device_of(device)
    if devno is not None:
        from dmsnap.service.inspection import thin_pool

        pool = thin_pool.find_pool(devno)
        if pool is not None:
            with thin_pool.metadata_of(pool) as (metadata, taken):
                return _inspection(metadata, dev_id, since, pool.name, taken=taken)
    with opened(device) as fd, ThinMetadata.open(fd, str(device)) as metadata:
        return _inspection(metadata, dev_id, since, None, taken=False)


def _inspection(
    metadata: ThinMetadata,
    dev_id: int | None,
    since: int | None,
    pool: str | None,
    *,
    taken: bool,
) -> PoolInspection:
    superblock = metadata.superblock
    size = superblock.block_size_bytes
    rows: Iterator[Row] | None = None
    total_bytes = 0
    if dev_id is not None and since is None:
        mappings = metadata.mappings(dev_id)
        rows, total_bytes = mapping_rows(mappings, size), mappings.extents().bytes
    elif dev_id is not None and since is not None:
        found = metadata.difference(since, dev_id)
        rows = difference_rows(found)
        total_bytes = sum(extents.bytes for extents in kinds(found).values())
    return PoolInspection(
        block_size=size,
        data_nr_blocks=superblock.data_nr_blocks,
        transaction_id=superblock.trans_id,
        metadata_snapshot=superblock.held_root or None,
        needs_check=superblock.needs_check,
        devices=metadata.devices,
        rows=rows,
        total_bytes=total_bytes,
        pool=pool,
        taken=taken,
    )


def mapping_rows(mappings: ThinMappings, block_size: int) -> Iterator[Row]:
    """Each run of blocks: where it is on the thin device, and where on the data device."""
    for run in mappings:
        yield run.thin_block * block_size, run.nr_blocks * block_size, run.data_block * block_size


def kinds(difference: ThinDifference) -> dict[str, ExtentSet]:
    """The three sets of a difference by what they are called."""
    return {
        "added": difference.added,
        "removed": difference.removed,
        "changed": difference.changed,
    }


def difference_rows(difference: ThinDifference) -> Iterator[Row]:
    """All extents that differ, ascending, each with how."""

    def labelled(kind: str, extents: ExtentSet) -> Iterator[Row]:
        return ((offset, length, kind) for offset, length in extents.pairs())

    return merge(*(labelled(kind, extents) for kind, extents in kinds(difference).items()))
