"""Reading era metadata, exception stores and labels, of devices and of image files.

Needs no catalogue, and no root where the file or device can be read.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from dmsnap._native import label
from dmsnap._native.block_set import BlockSet
from dmsnap._native.era import EraMetadata
from dmsnap._native.exception_store import ExceptionStore
from dmsnap._native.extent_set import ExtentSet
from dmsnap._native.label import Label
from dmsnap.errors import NotPermittedError, WrongStateError
from dmsnap.host.blockdev import BlockDevice, device_or_file_size, open_shared
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.target import Era
from dmsnap.host.locks import volume_lock
from dmsnap.host.signals import interruptible
from dmsnap.host.sysfs import SYSFS
from dmsnap.host.system_call import system_call


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


@dataclass(frozen=True, slots=True)
class StoreInspection:
    """What an exception store holds. One that is not valid holds nothing of worth."""

    chunk_size: int
    valid: bool
    exceptions: int
    extents: ExtentSet


@dataclass(frozen=True, slots=True)
class EraFront:
    """A live era device: its name, its metadata device, the bytes it has."""

    name: str
    ours: bool
    metadata: int
    size_bytes: int


def inspect_era(device: Path, since: int) -> EraInspection:
    """The extents written in era ``since`` or later.

    ``device`` is an era device (root), its metadata device, or an image of that. Metadata in use
    is read through a metadata snapshot: one that is held as it is, else one that is taken and
    dropped here (root).
    """
    devno = block_device_of(device)
    front = find_front(devno) if devno is not None else None
    if front is None:
        with opened(device) as fd, EraMetadata.open(fd, str(device)) as metadata:
            return _inspection(metadata, since, None, taken=False)
    path = dm.path_by_devno(front.metadata)
    with (
        interruptible(),
        lock_of(front),
        metadata_snapshot(front.name) as taken,
        open_shared(path) as fd,
        EraMetadata.open(fd, str(path)) as metadata,
    ):
        return _inspection(metadata, since, front, taken=taken)


def _inspection(
    metadata: EraMetadata, since: int, front: EraFront | None, *, taken: bool
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


def inspect_store(device: Path) -> StoreInspection:
    """The extents of its origin that an exception store holds, in whole chunks."""
    length_bytes = device_or_file_size(device)
    with opened(device) as fd, ExceptionStore.open(fd, 0, length_bytes, str(device)) as store:
        valid = store.header.valid
        return StoreInspection(
            chunk_size=store.header.chunk_size_bytes,
            valid=valid,
            exceptions=len(store) if valid else 0,
            extents=store.extents() if valid else ExtentSet(),
        )


def inspect_label(device: Path) -> Label:
    """The newest whole label of a recovery volume."""
    size_bytes = device_or_file_size(device)
    with opened(device) as fd:
        return label.read(fd, size_bytes, str(device))


def opened(device: Path) -> AbstractContextManager[int]:
    """A descriptor for reading: past the page cache where the kernel may write behind it."""
    with system_call(f"look at {device}"):
        direct = stat.S_ISBLK(device.stat().st_mode)
    return open_shared(device, direct=direct)


def block_device_of(device: Path) -> int | None:
    """The number of a block device, or of the loop device over a file; None for a plain file."""
    with system_call(f"look at {device}"):
        is_file = stat.S_ISREG(device.stat().st_mode)
    if not is_file:
        return BlockDevice.probe(device).devno
    # By its path, as sysfs has it: asking the loop driver itself would need root.
    path = str(device.resolve())
    loops = SYSFS.disks("loop").values()
    return next((devno for devno in loops if SYSFS.loop_backing_file(devno) == path), None)


def find_front(devno: int) -> EraFront | None:
    """The era device that ``devno`` is, or that uses it as its metadata."""
    for user in (devno, *SYSFS.holders(devno)):
        name = SYSFS.dm_name(user)
        if name is None or (user == devno and os.geteuid() != 0):
            continue
        if os.geteuid() != 0:
            raise NotPermittedError(
                f"{SYSFS.display_name(devno)} is in use by {SYSFS.display_name(user)}: only root "
                f"can tell whether that is an era device",
                hint="run it as root",
            )
        front = _era_front(name)
        if front is not None and devno in (user, front.metadata):
            return front
    return None


def _era_front(name: str) -> EraFront | None:
    for line in dm.table(name):
        if isinstance(line.target, Era):
            state = dm.existing(name)
            return EraFront(name, state.ours, line.target.metadata, line.length_bytes)
    return None


@contextmanager
def metadata_snapshot(name: str) -> Iterator[bool]:
    """A metadata snapshot of the era device ``name``: True when it was taken here.

    Raises ``WrongStateError`` at the end when it was dropped meanwhile: what was read is worth
    nothing then.
    """
    taken = dm.era_status(name).metadata_snap is None
    if taken:
        dm.message(name, "take_metadata_snap")
    held = dm.era_status(name).metadata_snap
    try:
        yield taken
    finally:
        still_held = dm.era_status(name).metadata_snap
        if taken and still_held == held:
            dm.message(name, "drop_metadata_snap")
    if still_held != held:
        raise WrongStateError(
            f"the metadata snapshot of {name} was dropped by somebody else while it was read",
            hint="run the command again",
        )


def lock_of(front: EraFront) -> AbstractContextManager[None]:
    """The volume's lock, so that no sync takes and drops metadata snapshots meanwhile.

    The configuration knows where locks lie; reading it costs more than reading metadata does, so
    it is not imported for files.
    """
    if not front.ours:
        return nullcontext()
    settings: Any = import_module("dmsnap.service.configuration").load()
    return volume_lock(settings.run_directory / "locks", front.name, settings.lock_wait_seconds)
