"""Sets of blocks that live in the native core: a bit for each block, however scattered they are."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

from dmsnap._native._core import ffi, lib
from dmsnap._native.core import check
from dmsnap._native.extent_text import BATCH, pairs_of, text_of

if TYPE_CHECKING:
    from dmsnap._native._core import CData
    from dmsnap._native.extent_set import ExtentSet


class BlockSet:
    """Blocks of one size as byte ranges, ascending, disjoint and merged.

    It owns memory only, which goes with the object: nothing needs to be closed.
    """

    __slots__ = ("_cdata",)

    def __init__(self, cdata: "CData") -> None:
        self._cdata = cdata

    @classmethod
    def adopt(cls, pointer: "CData") -> Self:
        """Take over a set that the core returned."""
        return cls(ffi.gc(pointer, lib.dms_block_set_destroy))

    def clamp(self, size_bytes: int) -> None:
        """Drop what lies at or beyond ``size_bytes``."""
        lib.dms_block_set_clamp(self._cdata, size_bytes)

    @property
    def bytes(self) -> int:
        """How many bytes all blocks have together."""
        return lib.dms_block_set_bytes(self._cdata)

    def pairs(self) -> Iterator[tuple[int, int]]:
        """``(offset_bytes, length_bytes)`` of every extent."""
        for extents, count in self._batches():
            yield from pairs_of(extents, count)

    def texts(self, *, json: bool) -> Iterator[str]:
        """The extents as text, a batch in each: as :func:`text_of` writes them."""
        return (text_of(extents, count, json=json) for extents, count in self._batches())

    def add_to(self, extents: "ExtentSet") -> None:
        """Add all of them."""
        check(lib.dms_block_set_add_to(self._cdata, extents.cdata), "")

    def _batches(self) -> Iterator[tuple["CData", int]]:
        """Extents in the core's memory, valid until the next batch."""
        extents = ffi.new("struct dms_extent[]", BATCH)
        position = ffi.new("uint64_t *")
        while count := lib.dms_block_set_next(self._cdata, position, extents, BATCH):
            yield extents, count

    def __len__(self) -> int:
        """How many extents the blocks make."""
        return lib.dms_block_set_count(self._cdata)

    def __repr__(self) -> str:
        return f"<BlockSet: {len(self)} extents, {self.bytes} bytes>"
