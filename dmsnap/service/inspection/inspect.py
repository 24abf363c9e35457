"""Reading exception stores, of devices and of image files.

Needs no catalogue, and no root where the file or device can be read.
"""

import stat
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from dmsnap._native.exception_store import ExceptionStore
from dmsnap._native.extent_set import ExtentSet
from dmsnap.host.blockdev import device_or_file_size, open_shared
from dmsnap.host.system_call import system_call


@dataclass(frozen=True, slots=True)
class StoreInspection:
    """What an exception store holds. One that is not valid holds nothing of worth."""

    chunk_size: int
    valid: bool
    exceptions: int
    extents: ExtentSet


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


def opened(device: Path) -> AbstractContextManager[int]:
    """A descriptor for reading: past the page cache where the kernel may write behind it."""
    with system_call(f"look at {device}"):
        direct = stat.S_ISBLK(device.stat().st_mode)
    return open_shared(device, direct=direct)
