"""Reading era metadata, of devices and of image files.

Needs no catalogue, and no root where the file or device can be read. What only devices need is
imported for devices: for an image that would take longer than reading it.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dmsnap._native.block_set import BlockSet
from dmsnap._native.era import EraMetadata
from dmsnap.host.sysfs import SYSFS
from dmsnap.host.system_call import system_call

if TYPE_CHECKING:
    from dmsnap.service.inspection.era_front import EraFront


@dataclass(frozen=True, slots=True)
class EraInspection:
    """What was written since an era. Sizes in bytes; ``extents`` are clamped to the volume.

    ``metadata_snapshot`` is the metadata block of the snapshot that is held, None where none is.
    ``front`` is the era device that uses the metadata, and ``taken`` says that the snapshot was
    taken for this answer alone; the answer is as of the moment when it was taken.
    """

    block_size: int
    nr_blocks: int
    current_era: int
    metadata_snapshot: int | None
    since: int
    extents: BlockSet
    front: str | None = None
    taken: bool = False


def inspect_era(device: Path, since: int) -> EraInspection:
    """The extents written in era ``since`` or later.

    ``device`` is an era device (root), its metadata device, or an image of that. Metadata in use
    is read through a metadata snapshot: one that is held as it is, else one that is taken and
    dropped here (root).
    """
    devno = block_device_of(device)
    if devno is not None:
        from dmsnap.service.inspection import era_front

        front = era_front.find_front(devno)
        if front is not None:
            with era_front.metadata_of(front) as (metadata, taken):
                return _inspection(metadata, since, front, taken=taken)
    with opened(device) as fd, EraMetadata.open(fd, str(device)) as metadata:
        return _inspection(metadata, since, None, taken=False)


def _inspection(
    metadata: EraMetadata, since: int, front: "EraFront | None", *, taken: bool
) -> EraInspection:
    superblock = metadata.superblock
    extents = metadata.written_blocks(since, from_snapshot=front is not None)
    whole_bytes = superblock.nr_blocks * superblock.block_size_bytes
    extents.clamp(min(front.size_bytes, whole_bytes) if front else whole_bytes)
    return EraInspection(
        block_size=superblock.block_size_bytes,
        nr_blocks=superblock.nr_blocks,
        current_era=superblock.current_era,
        metadata_snapshot=superblock.metadata_snap or None,
        since=since,
        extents=extents,
        front=front.name if front else None,
        taken=taken,
    )


@contextmanager
def opened(device: Path) -> Iterator[int]:
    """A descriptor for reading: past the page cache where the kernel may write behind it."""
    if not device.is_file():
        from dmsnap.host.blockdev import open_shared

        with open_shared(device) as fd:
            yield fd
        return
    with system_call(f"open {device}"):
        fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def block_device_of(device: Path) -> int | None:
    """The number of a block device, or of the loop device over a file; None for a plain file."""
    with system_call(f"look at {device}"):
        is_file = stat.S_ISREG(device.stat().st_mode)
    if not is_file:
        from dmsnap.host.blockdev import BlockDevice

        return BlockDevice.probe(device).devno
    # By its path, as sysfs has it: asking the loop driver itself would need root.
    path = str(device.resolve())
    loops = SYSFS.disks("loop").values()
    return next((devno for devno in loops if SYSFS.loop_backing_file(devno) == path), None)
