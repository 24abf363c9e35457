"""dm-thin pool metadata: what thin devices map, and in what two of them differ."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from dmsnap._native._core import ffi, lib
from dmsnap._native.core import check
from dmsnap._native.extent_set import ExtentSet
from dmsnap.errors import NotFoundError
from dmsnap.units import SECTOR_BYTES

if TYPE_CHECKING:
    from dmsnap._native._core import CData

_MAPPING = struct.Struct("=QQQI4x")
_BATCH = 16384


@dataclass(frozen=True, slots=True)
class ThinSuperblock:
    """The live superblock, in the kernel's names; block sizes in sectors, roots in blocks."""

    flags: int
    blocknr: int
    version: int
    time: int
    trans_id: int
    held_root: int  # 0: no metadata snapshot is held
    data_nr_blocks: int
    data_nr_allocated: int
    data_mapping_root: int
    device_details_root: int
    data_block_size: int
    metadata_block_size: int
    metadata_nr_blocks: int

    @property
    def block_size_bytes(self) -> int:
        """The data block's size."""
        return self.data_block_size * SECTOR_BYTES

    @property
    def needs_check(self) -> bool:
        """Whether the kernel found something wrong: it writes no more before ``thin_check``."""
        return bool(self.flags & lib.DMS_THIN_NEEDS_CHECK)


@dataclass(frozen=True, slots=True)
class ThinDevice:
    """A thin device; times count the pool's snapshots, transactions are those of its user."""

    dev_id: int
    mapped_blocks: int
    transaction_id: int
    creation_time: int
    snapshotted_time: int


@dataclass(frozen=True, slots=True)
class ThinMapping:
    """``nr_blocks`` blocks of a thin device, one behind the other on the data device, too."""

    thin_block: int
    data_block: int
    nr_blocks: int
    time: int


@dataclass(frozen=True, slots=True)
class ThinDifference:
    """The bytes that only the second device maps, only the first, both but to different blocks."""

    added: ExtentSet
    removed: ExtentSet
    changed: ExtentSet


class ThinMappings:
    """All mappings of a device, ascending. Owns memory only, which goes with the object."""

    __slots__ = ("_cdata", "_name")

    def __init__(self, cdata: "CData", name: str) -> None:
        self._cdata = ffi.gc(cdata, lib.dms_thin_mappings_destroy)
        self._name = name

    def extents(self) -> ExtentSet:
        """The bytes of the thin device that are mapped; clamp them to its size."""
        place = ffi.new("struct dms_extent_set **")
        check(lib.dms_thin_mappings_extents(self._cdata, place), self._name)
        return ExtentSet.adopt(place[0])

    def __len__(self) -> int:
        return lib.dms_thin_mappings_count(self._cdata)

    def __iter__(self) -> Iterator[ThinMapping]:
        count = len(self)
        mappings = lib.dms_thin_mappings_list(self._cdata)
        for first in range(0, count, _BATCH):
            size = min(_BATCH, count - first) * _MAPPING.size
            packed = ffi.buffer(mappings + first, size)[:]
            for fields in _MAPPING.iter_unpack(packed):
                yield ThinMapping(*fields)


class ThinMetadata:
    """Open metadata: a context manager, made by :meth:`open`."""

    __slots__ = ("_cdata", "_name", "devices", "superblock")

    def __init__(self, cdata: "CData", name: str) -> None:
        self._cdata = cdata
        self._name = name
        superblock = lib.dms_thin_metadata_superblock(cdata)
        fields = {field: int(getattr(superblock, field)) for field in ThinSuperblock.__slots__}
        self.superblock = ThinSuperblock(**fields)
        self.devices = tuple(_devices(cdata))

    @classmethod
    def open(cls, fd: int, name: str, *, from_snapshot: bool = False) -> Self:
        """The metadata on ``fd``, which stays the caller's and open as long as this is.

        A device in use must be opened with O_DIRECT and read ``from_snapshot``: as of its metadata
        snapshot, :class:`WrongStateError` when none is held. :class:`NotThisFormatError` where
        there is no such metadata.
        """
        place = ffi.new("struct dms_thin_metadata **")
        check(lib.dms_thin_metadata_open(fd, from_snapshot, place), name)
        return cls(place[0], name)

    def device(self, dev_id: int) -> ThinDevice:
        """:class:`NotFoundError` when the pool has none of that number."""
        for device in self.devices:
            if device.dev_id == dev_id:
                return device
        raise NotFoundError(
            f"{self._name} has no thin device {dev_id}",
            hint="dmsnap inspect thin lists the devices of a pool",
        )

    def mappings(self, dev_id: int) -> ThinMappings:
        """What the device maps. Reads its whole tree."""
        self.device(dev_id)
        place = ffi.new("struct dms_thin_mappings **")
        check(lib.dms_thin_mappings_read(self._open(), dev_id, place), self._name)
        return ThinMappings(place[0], self._name)

    def difference(self, from_id: int, to_id: int) -> ThinDifference:
        """In what two devices differ, in bytes. Subtrees that they share are not read."""
        self.device(from_id)
        self.device(to_id)
        place = ffi.new("struct dms_thin_difference *")
        check(lib.dms_thin_difference(self._open(), from_id, to_id, place), self._name)
        sets = (place.added, place.removed, place.changed)
        return ThinDifference(*(ExtentSet.adopt(one) for one in sets))

    def close(self) -> None:
        """Free what reading took; the descriptor stays open."""
        if self._cdata is not None:
            lib.dms_thin_metadata_close(self._cdata)
            self._cdata = None

    def _open(self) -> "CData":
        if self._cdata is None:
            raise ValueError(f"the thin metadata of {self._name} is closed")
        return self._cdata

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _devices(cdata: "CData") -> Iterator[ThinDevice]:
    devices = lib.dms_thin_metadata_devices(cdata)
    for index in range(lib.dms_thin_metadata_nr_devices(cdata)):
        fields = {field: int(getattr(devices[index], field)) for field in ThinDevice.__slots__}
        yield ThinDevice(**fields)
