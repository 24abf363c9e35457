"""A recovery volume that grows: its label found and moved, its history out of the replica's way.

::

    [ replica ][ history ][ label ]                            before
    [ replica ][ history                         ][ label ]    after the device was made larger
    [ replica             ][ history             ][ label ]    after the replica was, too

The label lies at the end of the device, which is another one when the device was made larger: it is
looked for backwards from there. It is written to the new end, flushed, and only then wiped where it
was; so whoever comes after a power cut finds one of the two. A label that stayed where it was could
be taken for the truth should the device shrink again.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from uuid import UUID

from dmsnap._native import label, store_merge
from dmsnap._native.copy import Progress
from dmsnap._native.label import HistoryEntry, HistoryFlag, Label
from dmsnap.catalogue.model import Volume, VolumeState
from dmsnap.errors import CorruptError, NoSpaceError
from dmsnap.extent import Extent
from dmsnap.host import blockdev, page_search
from dmsnap.host.blockdev import BlockDevice, open_exclusive, open_shared
from dmsnap.recovery import history, replica
from dmsnap.recovery.replica import Replica
from dmsnap.snapshot import stack

MAGIC = b"DMSNAPLB"


@dataclass(frozen=True, slots=True)
class Located:
    """A label, and where its area begins: at the end of the device, or before that."""

    label: Label
    area_bytes: int


def locate(fd: int, device: BlockDevice, volume: Volume) -> Located:
    """The volume's label, wherever on the device it lies since that was made larger.

    Where there is none, what its end says is the error. What has the right identity and lies where
    its own history does not end is a copy that somebody made, and no label.
    """
    end, name = label.offset(device.size_bytes), str(device.path)
    found = _ours(fd, end, volume, name)
    if found is not None:
        return Located(found, _area_of(found, end))
    for page in page_search.pages_with(fd, MAGIC, volume.size_bytes, end, name):
        for area_bytes in (page - label.SECTOR_BYTES, page):
            found = _ours(fd, area_bytes, volume, name)
            if found is not None and _belongs(found, area_bytes):
                return Located(found, area_bytes)
    current = label.read(fd, device.size_bytes, name)
    replica.check_identity(volume, device, current)
    raise CorruptError(f"{name} carries no label of {volume.name}")


def _ours(fd: int, area_bytes: int, volume: Volume, name: str) -> Label | None:
    try:
        found = label.read(fd, area_bytes + label.AREA_BYTES, name)
    except CorruptError:
        return None
    # Of a promoted volume, which has no recovery volume, only its label knows the other identity.
    same = found.volume_uuid == volume.id and volume.recovery_id in (None, found.recovery_uuid)
    return found if same else None


def _area_of(found: Label, end: int) -> int:
    """Where the area begins that a label at ``end`` is of.

    On a device that grew by less than an area, a part of the former one lies there.
    """
    for area_bytes in (history_end(found) + history.BACKUP_BYTES, history_end(found)):
        if 0 <= end - area_bytes < label.AREA_BYTES:
            return area_bytes
    return history_end(found)


def _belongs(found: Label, area_bytes: int) -> bool:
    """Whether the history goes up to the label's area, or to the catalogue's backup before it."""
    return area_bytes - history_end(found) in (0, history.BACKUP_BYTES)


def history_end(current: Label) -> int:
    """Where the history region ends."""
    return current.history_offset_bytes + current.history_length_bytes


def future_end(device: BlockDevice, located: Located) -> int:
    """Where the history region will end, once the label is at the end of the device."""
    if is_in_place(device, located):
        return history_end(located.label)
    return history.region(located.label.size_bytes, label.offset(device.size_bytes)).end_bytes


@contextmanager
def opened(volume: Volume, *, write: bool = True) -> Iterator[tuple[Replica, Located]]:
    """The recovery volume, O_EXCL, whatever the sizes of device and replica are by now.

    One that was promoted its own stack holds: that nobody else does is checked by UUID.
    """
    device = BlockDevice.probe(replica.recovery_path(volume))
    serving = volume.state is VolumeState.PROMOTED and blockdev.holders(device.devno)
    if serving:
        stack.require_held_by(volume, device)
    open_device = open_shared if serving else open_exclusive
    with open_device(device.path, write=write) as fd:
        located = locate(fd, device, volume)
        replica.require_usable(device.path, located.label)
        yield Replica(device, fd, located.label, volume), located


def is_in_place(device: BlockDevice, located: Located) -> bool:
    """Whether the label is at the end of the device."""
    return located.area_bytes == label.offset(device.size_bytes)


def move_label(current: Replica, located: Located) -> None:
    """Have the label at the end of the device, and the room before it in the history.

    The next backup of the catalogue goes to its place there; until then there is none.
    """
    length_bytes = future_end(current.device, located) - current.label.history_offset_bytes
    current.write_label(replace(current.label, history_length_bytes=length_bytes))
    wipe_former(current, located.area_bytes)


def wipe_former(current: Replica, area_bytes: int) -> None:
    """Wipe what is left of a label where it was before it was moved."""
    end = label.offset(current.device.size_bytes)
    length_bytes = min(label.AREA_BYTES, end - area_bytes)
    if length_bytes <= 0:
        return
    blockdev.write_zeroes(current.fd, area_bytes, length_bytes, str(current.device.path))
    current.bytes_written += length_bytes


def tidy_former(current: Replica, volume: Volume, area_bytes: int) -> None:
    """Wipe a former label that a killed command left; never what was written there since."""
    former = Extent(area_bytes, label.AREA_BYTES)
    if former.offset_bytes < volume.size_bytes:
        return
    for store in map(history.store_extent, current.label.history):
        if store.offset_bytes < former.end_bytes and former.offset_bytes < store.end_bytes:
            return
    if _ours(current.fd, area_bytes, volume, str(current.device.path)) is not None:
        wipe_former(current, area_bytes)


@dataclass(frozen=True, slots=True)
class Way:
    """What of a history is in the way of a larger replica: stores that move, points that go."""

    start_bytes: int
    moves: dict[UUID, Extent]
    dropped: tuple[HistoryEntry, ...]


def make_way(current: Label, size_bytes: int, end_bytes: int) -> Way:
    """How a replica of ``size_bytes`` gets room in a history that ends at ``end_bytes``.

    Stores in its way move behind it while there is room; for what has none the oldest points go.
    :class:`NoSpaceError` when one of those is to be kept. Nothing is written here.
    """
    start_bytes = history.region(size_bytes, end_bytes).offset_bytes
    current = replace(current, history_length_bytes=end_bytes - current.history_offset_bytes)
    left = current
    while (moves := _moves(left, start_bytes)) is None:
        oldest = left.history[-1]
        if oldest.flags & HistoryFlag.KEEP:
            raise NoSpaceError(
                f"the larger replica of {current.name} needs the room of point "
                f"{oldest.point_uuid}, which is to be kept: nothing was changed",
                hint="delete that point, or make the recovery volume larger",
            )
        left = replace(left, history=left.history[:-1])
    return Way(start_bytes, moves, current.history[len(left.history) :])


def _moves(current: Label, start_bytes: int) -> dict[UUID, Extent] | None:
    """Places behind ``start_bytes`` for all stores before it; None where one has none."""
    moves = {}
    for entry in current.history:
        if entry.store_offset_bytes >= start_bytes:
            continue
        free = _behind(history.free_extents(current), start_bytes)
        room = [part for part in free if part.length_bytes >= entry.store_length_bytes]
        if not room:
            return None
        offset_bytes = min(room, key=lambda part: part.length_bytes).offset_bytes
        moves[entry.point_uuid] = Extent(offset_bytes, entry.store_length_bytes)
        taken = replace(entry, store_offset_bytes=offset_bytes)
        current = replace(current, history=(*current.history, taken))
    return moves


def _behind(extents: Sequence[Extent], start_bytes: int) -> list[Extent]:
    """What of extents lies at ``start_bytes`` or behind it."""
    return [
        Extent(begin, extent.end_bytes - begin)
        for extent in extents
        if (begin := max(extent.offset_bytes, start_bytes)) < extent.end_bytes
    ]


def clear_way(current: Replica, way: Way, progress: Progress | None = None) -> None:
    """Do what :func:`make_way` found, each store with a label of its own; then the region begins
    behind the larger replica.

    A store is written whole to free space and flushed before the label names its new place.
    """
    gone = {entry.point_uuid for entry in way.dropped}
    if gone:
        kept = tuple(entry for entry in current.label.history if entry.point_uuid not in gone)
        current.write_label(replace(current.label, history=kept))
    for point_uuid, place in way.moves.items():
        entries = [
            _moved(current, entry, place, progress) if entry.point_uuid == point_uuid else entry
            for entry in current.label.history
        ]
        current.write_label(replace(current.label, history=tuple(entries)))
    begin_history(current, way.start_bytes)


def _moved(
    current: Replica, entry: HistoryEntry, place: Extent, progress: Progress | None
) -> HistoryEntry:
    made = store_merge.merge(
        current.fd,
        current.label.size_bytes,
        [history.store_extent(entry)],
        place,
        progress=progress,
        name=str(current.device.path),
    )
    return replace(
        entry,
        store_offset_bytes=place.offset_bytes,
        store_length_bytes=place.length_bytes,
        chunk_size=made.chunk_size,
    )


def begin_history(current: Replica, start_bytes: int) -> None:
    """Have the history region begin at ``start_bytes``.

    It ends where it did, or goes up to the label where it would be too small beside a backup.
    """
    whole = history.region(start_bytes, label.offset(current.device.size_bytes))
    end = max(history_end(current.label), whole.end_bytes)
    current.write_label(
        replace(
            current.label,
            history_offset_bytes=start_bytes,
            history_length_bytes=end - start_bytes,
        )
    )


def clear(current: Replica, size_bytes: int, progress: Progress | None = None) -> None:
    """Zeroes between the replica's end and the one it is to have: its points hold nothing there."""
    offset_bytes = current.label.size_bytes
    blockdev.write_zeroes(
        current.fd, offset_bytes, size_bytes - offset_bytes, str(current.device.path), progress
    )
