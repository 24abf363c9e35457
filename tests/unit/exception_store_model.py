"""dm-snapshot's persistent exception store, written the slow and obvious way."""

import struct

MAGIC = 0x70416E53
SECTOR_BYTES = 512


def pairs_per_area(chunk_size: int) -> int:
    """How many (old, new) pairs a chunk of ``chunk_size`` sectors holds."""
    return chunk_size * SECTOR_BYTES // 16


def data_chunks(chunk_size: int, count: int) -> list[int]:
    """The chunks that the kernel hands out one after the other: all but header and areas."""
    stride = pairs_per_area(chunk_size) + 1
    found: list[int] = []
    chunk = 2
    while len(found) < count:
        if chunk % stride != 1:
            found.append(chunk)
        chunk += 1
    return found


def build(chunk_size: int, pairs: list[tuple[int, int]], *, valid: int = 1) -> bytearray:
    """A store of ``pairs``, as long as it must be, the data left out (zero)."""
    chunk_bytes = chunk_size * SECTOR_BYTES
    per_area = pairs_per_area(chunk_size)
    nr_areas = len(pairs) // per_area + 1
    nr_chunks = max([2, 1 + (nr_areas - 1) * (per_area + 1) + 1, *(new + 1 for _, new in pairs)])
    store = bytearray(nr_chunks * chunk_bytes)
    struct.pack_into("<IIII", store, 0, MAGIC, valid, 1, chunk_size)
    for i, (old, new) in enumerate(pairs):
        area = 1 + i // per_area * (per_area + 1)
        struct.pack_into("<QQ", store, area * chunk_bytes + i % per_area * 16, old, new)
    return store


def read(store: bytes | bytearray) -> list[tuple[int, int]] | None:
    """The pairs of a store, as the kernel finds them; None if it would make no sense.

    Of a store that the kernel marked invalid there are none.
    """
    if len(store) < 16:
        return None
    magic, valid, version, chunk_size = struct.unpack_from("<IIII", store)
    if magic != MAGIC or version != 1 or chunk_size not in [1 << bit for bit in range(22)]:
        return None
    chunk_bytes = chunk_size * SECTOR_BYTES
    nr_chunks = len(store) // chunk_bytes
    if nr_chunks < 2:
        return None
    pairs = _pairs(store, chunk_size, nr_chunks) if valid else []
    if pairs is None or any(len(set(side)) != len(pairs) for side in zip(*pairs, strict=True)):
        return None
    return pairs


def _pairs(
    store: bytes | bytearray, chunk_size: int, nr_chunks: int
) -> list[tuple[int, int]] | None:
    """Those up to the first without a new chunk, if each lies where data can lie."""
    chunk_bytes = chunk_size * SECTOR_BYTES
    stride = pairs_per_area(chunk_size) + 1
    pairs: list[tuple[int, int]] = []
    for area in range(1, nr_chunks, stride):
        for at in range(area * chunk_bytes, (area + 1) * chunk_bytes, 16):
            old, new = struct.unpack_from("<QQ", store, at)
            if not new:
                return pairs
            if new >= nr_chunks or new % stride == 1 or (old + 1) * chunk_bytes >= 2**63:
                return None
            pairs.append((old, new))
    return None
