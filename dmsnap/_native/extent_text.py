"""Extents out of the core's memory, as numbers or as text."""

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dmsnap._native._core import ffi, lib

if TYPE_CHECKING:
    from dmsnap._native._core import CData

BATCH = 16384

_PAIR = struct.Struct("=QQ")


def pairs_of(extents: "CData", count: int) -> Iterator[tuple[int, int]]:
    """``(offset_bytes, length_bytes)`` of each, copied before the first is given."""
    packed = ffi.buffer(extents, count * _PAIR.size)[:]
    return _PAIR.iter_unpack(packed)


def text_of(extents: "CData", count: int, *, json: bool) -> str:
    """Members of a JSON array, ``[offset,length],[offset,length]``, or lines of two columns."""
    text = ffi.new("char[]", count * lib.DMS_EXTENT_TEXT_BYTES)
    length = lib.dms_extent_text(extents, count, json, text)
    return str(ffi.buffer(text, length)[:], "ascii")
