"""What a replica leaves out: extents that the first copy skipped and no sync has written since.

To forget them is always safe: they are compared and written like any others then. To believe in
one that was written since is not, so a record names the points of the replica that it is good for.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from uuid import UUID

from dmsnap._native.extent_set import ExtentSet
from dmsnap.catalogue.statements import Row, Statements, from_json
from dmsnap.catalogue.store import Catalogue

_PAIR = struct.Struct("<QQ")
# A file system in a million pieces is packed and unpacked by so many of them at once, or by so much
# of what is packed: 4 KiB become 4 MiB at the most.
_MANY = 16384
_PACKED_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Skipped:
    """``points``: what the replica held, and holds when the sync under way is done.

    While a recovery volume is the primary it holds no point: then its volume's id stands for one.
    """

    recovery_id: UUID
    points: tuple[UUID, ...]
    extents: ExtentSet


def record(catalogue: Catalogue, skipped: Skipped) -> None:
    """Record ``skipped`` in place of what was recorded of that recovery volume."""
    row = {
        "recovery_id": skipped.recovery_id,
        "points": [str(point) for point in skipped.points],
        "extents": _packed(skipped.extents),
    }
    with catalogue.statements() as statements:
        _forget(statements, skipped.recovery_id)
        if skipped.extents:
            statements.insert("skipped", [row])


def of_replica(catalogue: Catalogue, recovery_id: UUID, point_id: UUID | None) -> ExtentSet:
    """What the replica leaves out while it holds ``point_id``; nothing, when that is not known."""
    query = "SELECT points, extents FROM skipped WHERE recovery_id = :id"
    with catalogue.statements() as statements:
        found = statements.rows(query, id=recovery_id)
    extents = ExtentSet()
    for row in found:
        if str(point_id) in from_json(row["points"]):
            for offset, length in _unpacked(row["extents"]):
                extents.add(offset, length)
    return extents


def bytes_in(row: Row, point_id: UUID | None) -> int:
    """How much of a replica a recorded row leaves out while it holds ``point_id``."""
    if str(point_id) not in from_json(row["points"]):
        return 0
    return sum(length for _, length in _unpacked(row["extents"]))


def _packed(extents: ExtentSet) -> bytes:
    pairs, packing = extents.pairs(), zlib.compressobj(1)
    packed = bytearray()
    while some := list(islice(pairs, _MANY)):
        packed += packing.compress(b"".join(_PAIR.pack(*pair) for pair in some))
    return bytes(packed + packing.flush())


def _unpacked(packed: bytes) -> Iterator[tuple[int, int]]:
    unpacking, rest = zlib.decompressobj(), b""
    for first in range(0, len(packed), _PACKED_BYTES):
        rest += unpacking.decompress(packed[first : first + _PACKED_BYTES])
        whole = len(rest) - len(rest) % _PAIR.size
        yield from _PAIR.iter_unpack(rest[:whole])
        rest = rest[whole:]
    if rest or not unpacking.eof:
        raise zlib.error("what a replica leaves out is recorded in part")


def carry_over(catalogue: Catalogue, recovery_id: UUID, point_id: UUID | None, to: UUID) -> None:
    """What is left out at ``point_id`` counts for ``to`` from now on, and for nothing else."""
    record(catalogue, Skipped(recovery_id, (to,), of_replica(catalogue, recovery_id, point_id)))


def forget(catalogue: Catalogue, recovery_id: UUID) -> None:
    """Know nothing of that recovery volume any more."""
    with catalogue.statements() as statements:
        _forget(statements, recovery_id)


def _forget(statements: Statements, recovery_id: UUID) -> None:
    statements.execute("DELETE FROM skipped WHERE recovery_id = :id", id=recovery_id)
