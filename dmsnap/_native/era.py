"""dm-era metadata: which blocks were written since an era."""

from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from dmsnap._native._core import ffi, lib
from dmsnap._native.block_set import BlockSet
from dmsnap._native.core import check
from dmsnap.units import SECTOR_BYTES

if TYPE_CHECKING:
    from dmsnap._native._core import CData
    from dmsnap._native.extent_set import ExtentSet


@dataclass(frozen=True, slots=True)
class EraSuperblock:
    """The live superblock, in the kernel's names; block sizes in sectors, roots in blocks.

    ``metadata_nr_allocated`` of ``metadata_nr_blocks`` were in use when it was committed.
    """

    flags: int
    blocknr: int
    version: int
    metadata_nr_blocks: int
    metadata_nr_allocated: int
    data_block_size: int
    metadata_block_size: int
    nr_blocks: int
    current_era: int
    current_writeset_nr_bits: int
    current_writeset_root: int
    writeset_tree_root: int
    era_array_root: int
    metadata_snap: int  # 0: none held

    @property
    def block_size_bytes(self) -> int:
        """The data block's size."""
        return self.data_block_size * SECTOR_BYTES


class EraMetadata:
    """Open metadata: a context manager, made by :meth:`open`."""

    __slots__ = ("_cdata", "_name", "superblock")

    def __init__(self, cdata: "CData", name: str, superblock: EraSuperblock) -> None:
        self._cdata = cdata
        self._name = name
        self.superblock = superblock

    @classmethod
    def open(cls, fd: int, name: str) -> Self:
        """The metadata on ``fd``, which stays the caller's and open as long as this is.

        A device in use must be opened with O_DIRECT, and only its metadata snapshot can be
        trusted. :class:`NotThisFormatError` where there is no such metadata.
        """
        place = ffi.new("struct dms_era_metadata **")
        check(lib.dms_era_metadata_open(fd, place), name)
        superblock = lib.dms_era_metadata_superblock(place[0])
        fields = {field: int(getattr(superblock, field)) for field in EraSuperblock.__slots__}
        return cls(place[0], name, EraSuperblock(**fields))

    def written_blocks(self, since: int, *, from_snapshot: bool = False) -> BlockSet:
        """Every block written in era ``since`` or later.

        With ``from_snapshot`` as of the moment the metadata snapshot was taken.
        :class:`WrongStateError` when none is held, and when the metadata was written while it was
        read, or the snapshot dropped. The last block may reach beyond a device whose size is no
        multiple of the block size: clamp it. Eras begin at 1: ``since`` 0 gives every block,
        written or not.
        """
        place = ffi.new("struct dms_block_set **")
        check(lib.dms_era_written_blocks(self._open(), since, from_snapshot, place), self._name)
        return BlockSet.adopt(place[0])

    def written_since(
        self, since: int, *, from_snapshot: bool = False, most: int = 0
    ) -> "ExtentSet":
        """The same as extents; where there are more than ``most``, coarser ones."""
        # Who prints blocks makes none.
        from dmsnap._native.extent_set import ExtentSet

        extents = ExtentSet(most)
        self.written_blocks(since, from_snapshot=from_snapshot).add_to(extents)
        return extents

    def close(self) -> None:
        """Free what reading took; the descriptor stays open."""
        if self._cdata is not None:
            lib.dms_era_metadata_close(self._cdata)
            self._cdata = None

    def _open(self) -> "CData":
        if self._cdata is None:
            raise ValueError(f"the era metadata of {self._name} is closed")
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
