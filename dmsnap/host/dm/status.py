"""Status lines of the targets that dmsnap loads: what the kernel prints (``STATUSTYPE_INFO``)."""

import re
from dataclasses import dataclass
from enum import Enum

from dmsnap.errors import CorruptError
from dmsnap.host.sysfs import parse_devno

_ERA = re.compile(r"(\d+) (\d+)/(\d+) (\d+) (\d+|-)")
_SNAPSHOT = re.compile(r"(\d+)/(\d+)(?: (\d+))?")
_THIN_POOL = re.compile(r"(\d+) (\d+)/(\d+) (\d+)/(\d+) (\d+|-) (\w+)(?: .*)?")
_MIRROR = re.compile(r"(\d+) ((?:\d+:\d+ )+)(\d+)/(\d+) 1 (\w+)(?: .*)?")


@dataclass(frozen=True, slots=True)
class EraStatus:
    """Metadata use in blocks of ``metadata_block_size_sectors``; the block of a held snapshot."""

    metadata_block_size_sectors: int
    used: int
    total: int
    current_era: int
    metadata_snap: int | None

    @classmethod
    def parse(cls, text: str) -> "EraStatus":
        """``CorruptError`` when it is none: ``Error`` is what a failed era device says."""
        match = _ERA.fullmatch(text.strip())
        if match is None:
            raise CorruptError(f"dm-era reports {text!r}: its metadata cannot be relied on")
        block_size, used, total, era = (int(match[group]) for group in range(1, 5))
        return cls(block_size, used, total, era, None if match[5] == "-" else int(match[5]))


class SnapshotState(Enum):
    """The kernel's words, but ``OK`` for the usual numbers."""

    OK = "OK"
    INVALID = "Invalid"
    OVERFLOW = "Overflow"
    MERGE_FAILED = "Merge failed"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class SnapshotStatus:
    """How full a store is; the numbers are 0 unless the state is OK.

    ``metadata_sectors`` are part of ``used_sectors``; a merge is done when the two are equal.
    """

    state: SnapshotState
    used_sectors: int = 0
    total_sectors: int = 0
    metadata_sectors: int = 0

    @property
    def merged(self) -> bool:
        return self.state is SnapshotState.OK and self.used_sectors == self.metadata_sectors

    @classmethod
    def parse(cls, text: str) -> "SnapshotStatus":
        """``CorruptError`` for what no kernel writes."""
        match = _SNAPSHOT.fullmatch(text.strip())
        if match:
            return cls(SnapshotState.OK, *(int(number or 0) for number in match.groups()))
        try:
            return cls(SnapshotState(text.strip()))
        except ValueError as error:
            raise CorruptError(f"dm-snapshot reports {text!r}, which is no status") from error


@dataclass(frozen=True, slots=True)
class ThinPoolStatus:
    """The transaction of the pool's user, the metadata block of a held snapshot, how full it is.

    Data in blocks of the pool, metadata in blocks of 4 KiB. ``mode`` is ``rw``, ``ro`` or
    ``out_of_data_space``.
    """

    transaction_id: int
    held_root: int | None
    used_data: int = 0
    total_data: int = 0
    used_metadata: int = 0
    total_metadata: int = 0
    mode: str = "rw"

    @property
    def full(self) -> bool:
        """Whether it takes no new block any more."""
        room = self.used_data < self.total_data and self.used_metadata < self.total_metadata
        return self.mode != "rw" or not room

    @classmethod
    def parse(cls, text: str) -> "ThinPoolStatus":
        """``CorruptError`` when it is none: ``Fail`` or ``Error`` is what a failed pool says."""
        match = _THIN_POOL.fullmatch(text.strip())
        if match is None:
            raise CorruptError(f"dm-thin reports {text!r}: the pool cannot be relied on")
        used_metadata, total_metadata, used_data, total_data = map(int, match.group(2, 3, 4, 5))
        return cls(
            transaction_id=int(match[1]),
            held_root=None if match[6] == "-" else int(match[6]),
            used_data=used_data,
            total_data=total_data,
            used_metadata=used_metadata,
            total_metadata=total_metadata,
            mode=match[7],
        )


@dataclass(frozen=True, slots=True)
class MirrorStatus:
    """Regions in sync of all, and the health of each leg: ``A`` is alive."""

    legs: tuple[int, ...]
    synced_regions: int
    total_regions: int
    health: str

    @property
    def in_sync(self) -> bool:
        return self.synced_regions == self.total_regions and set(self.health) == {"A"}

    @classmethod
    def parse(cls, text: str) -> "MirrorStatus":
        match = _MIRROR.fullmatch(text.strip())
        if match is None:
            raise CorruptError(f"dm-mirror reports {text!r}, which is no status")
        legs = tuple(parse_devno(word) for word in match[2].split())
        return cls(legs, int(match[3]), int(match[4]), match[5])
