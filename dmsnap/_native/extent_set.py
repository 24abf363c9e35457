"""Sets of byte ranges that live in the native core."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Self

from dmsnap._native._core import ffi, lib
from dmsnap._native.core import check
from dmsnap._native.extent_text import BATCH, pairs_of, text_of
from dmsnap.extent import Extent

if TYPE_CHECKING:
    from dmsnap._native._core import CData


# What is only copied or compared may be more than it has to be: of so many extents, 8 MiB, at most.
MOST_EXTENTS = 1 << 19


class ExtentSet:
    """Byte ranges, always ascending, disjoint and merged. Mutable, not for several threads.

    It owns memory only, which goes with the object: nothing needs to be closed. Made for ``most``
    extents, it grows coarser where there would be more: it has bytes then that were not added, also
    behind the last one. Sets that are made of it are not bound.
    """

    __slots__ = ("cdata",)

    def __init__(self, most: int = 0) -> None:
        place = ffi.new("struct dms_extent_set **")
        check(lib.dms_extent_set_create(place), "")
        self.cdata = ffi.gc(place[0], lib.dms_extent_set_destroy)
        if most:
            check(lib.dms_extent_set_bound(self.cdata, most), "")

    @classmethod
    def adopt(cls, pointer: "CData") -> Self:
        """Take over a set that the core returned."""
        adopted = cls.__new__(cls)
        adopted.cdata = ffi.gc(pointer, lib.dms_extent_set_destroy)
        return adopted

    @classmethod
    def from_extents(cls, extents: Iterable[Extent]) -> Self:
        """A set of ``extents``, in any order; they may overlap."""
        new = cls()
        for extent in extents:
            new.add(extent.offset_bytes, extent.length_bytes)
        return new

    @classmethod
    def whole(cls, size_bytes: int) -> Self:
        """All of a device."""
        new = cls()
        new.add(0, size_bytes)
        return new

    def add(self, offset_bytes: int, length_bytes: int) -> None:
        """Add one range; an empty one adds nothing. Cheapest in ascending order."""
        check(lib.dms_extent_set_add(self.cdata, offset_bytes, length_bytes), "")

    def align(self, granularity_bytes: int) -> None:
        """Grow every extent outwards to multiples of ``granularity_bytes``, a power of two."""
        check(lib.dms_extent_set_align(self.cdata, granularity_bytes), "")

    def clamp(self, size_bytes: int) -> None:
        """Drop what lies at or beyond ``size_bytes``."""
        check(lib.dms_extent_set_clamp(self.cdata, size_bytes), "")

    def merge(self, other: "ExtentSet") -> None:
        """Add every extent of ``other``."""
        check(lib.dms_extent_set_merge(self.cdata, other.cdata), "")

    def subtract(self, other: "ExtentSet") -> None:
        """Remove every byte that is in ``other``."""
        check(lib.dms_extent_set_subtract(self.cdata, other.cdata), "")

    def without(self, other: "ExtentSet") -> "ExtentSet":
        """A new set of the bytes that are not in ``other``."""
        new = ExtentSet()
        new.merge(self)
        new.subtract(other)
        return new

    def within(self, other: "ExtentSet") -> "ExtentSet":
        """A new set of the bytes that are in both."""
        return self.without(self.without(other))

    @property
    def bytes(self) -> int:
        """How many bytes all extents have together."""
        return lib.dms_extent_set_bytes(self.cdata)

    def pairs(self) -> Iterator[tuple[int, int]]:
        """``(offset_bytes, length_bytes)`` of every extent, as it is now; made for many."""
        count = lib.dms_extent_set_count(self.cdata)
        if not count:
            return iter(())
        return pairs_of(lib.dms_extent_set_extents(self.cdata), count)

    def texts(self, *, json: bool) -> Iterator[str]:
        """The extents as text, a batch in each: as :func:`text_of` writes them."""
        extents = lib.dms_extent_set_extents(self.cdata)
        count = lib.dms_extent_set_count(self.cdata)
        for first in range(0, count, BATCH):
            yield text_of(extents + first, min(BATCH, count - first), json=json)

    def __len__(self) -> int:
        return lib.dms_extent_set_count(self.cdata)

    def __iter__(self) -> Iterator[Extent]:
        return (Extent(offset, length) for offset, length in self.pairs())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ExtentSet):
            return NotImplemented
        return list(self.pairs()) == list(other.pairs())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<ExtentSet: {len(self)} extents, {self.bytes} bytes>"
