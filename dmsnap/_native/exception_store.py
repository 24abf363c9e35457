"""dm-snapshot's persistent exception stores, read: which chunks of the origin they hold."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from dmsnap._native._core import ffi, lib
from dmsnap._native.core import check
from dmsnap._native.extent_set import ExtentSet
from dmsnap.units import SECTOR_BYTES, to_sectors

if TYPE_CHECKING:
    from dmsnap._native._core import CData

_RUN = struct.Struct("=QQQ")  # struct dms_exception_run: old_chunk, new_chunk, count


@dataclass(frozen=True, slots=True)
class ExceptionStoreHeader:
    """A store's header; ``chunk_size`` in sectors. When not ``valid``, nothing else is either."""

    valid: bool
    version: int
    chunk_size: int

    @property
    def chunk_size_bytes(self) -> int:
        """The chunk's size."""
        return self.chunk_size * SECTOR_BYTES


@dataclass(frozen=True, slots=True)
class StoreException:
    """Chunk ``old_chunk`` of the origin is kept in chunk ``new_chunk`` of the store."""

    old_chunk: int
    new_chunk: int


class ExceptionStore:
    """An open store: a context manager, made by :meth:`open`."""

    __slots__ = ("_cdata", "_name", "header")

    def __init__(self, cdata: "CData", name: str, header: ExceptionStoreHeader) -> None:
        self._cdata = cdata
        self._name = name
        self.header = header

    @classmethod
    def open(cls, fd: int, offset_bytes: int, length_bytes: int, name: str) -> Self:
        """Read the header and all metadata areas of the store at ``offset_bytes`` of ``fd``.

        :class:`NotThisFormatError` where there is no store. One that the kernel marked invalid
        opens, for its header.
        """
        place = ffi.new("struct dms_exception_store **")
        check(lib.dms_exception_store_open(fd, offset_bytes, length_bytes, place), name)
        header = lib.dms_exception_store_header(place[0])
        return cls(
            place[0],
            name,
            ExceptionStoreHeader(
                valid=bool(header.valid),
                version=int(header.version),
                chunk_size=int(header.chunk_size),
            ),
        )

    def extents(self) -> ExtentSet:
        """The bytes of the origin that the store holds; clamp them to the origin's size.

        :class:`PointInvalidError` when the kernel marked the store invalid.
        """
        place = ffi.new("struct dms_extent_set **")
        check(lib.dms_exception_store_extents(self._open(), place), self._name)
        return ExtentSet.adopt(place[0])

    def __len__(self) -> int:
        return lib.dms_exception_store_count(self._open())

    def __iter__(self) -> Iterator[StoreException]:
        """Every exception, in the order they were made."""
        nr_runs = lib.dms_exception_store_nr_runs(self._open())
        if not nr_runs:
            return iter(())
        runs = lib.dms_exception_store_runs(self._open())
        packed = ffi.buffer(runs, nr_runs * _RUN.size)[:]
        return (
            StoreException(old + at, new + at)
            for old, new, count in _RUN.iter_unpack(packed)
            for at in range(count)
        )

    def close(self) -> None:
        """Free what reading took; the descriptor stays open."""
        if self._cdata is not None:
            lib.dms_exception_store_close(self._cdata)
            self._cdata = None

    def _open(self) -> "CData":
        if self._cdata is None:
            raise ValueError(f"the exception store of {self._name} is closed")
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


def size_bytes(nr_exceptions: int, chunk_size_bytes: int) -> int:
    """What a store of that many exceptions takes, its terminating area included."""
    return lib.dms_exception_store_size(nr_exceptions, to_sectors(chunk_size_bytes))
