"""The label of a recovery volume: the truth about its replica. Every byte: docs/FORMATS.md."""

from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING
from uuid import UUID

from dmsnap._native._core import ffi, lib
from dmsnap._native.core import check, text

if TYPE_CHECKING:
    from dmsnap._native._core import CData

SECTOR_BYTES: int = lib.DMS_LABEL_SECTOR_BYTES
AREA_BYTES: int = lib.DMS_LABEL_AREA_BYTES
MAX_HISTORY: int = lib.DMS_LABEL_MAX_HISTORY

_NIL = UUID(int=0)

NUMBERS = (
    "generation",
    "size_bytes",
    "point_time_ns",
    "next_point_time_ns",
    "history_offset_bytes",
    "history_length_bytes",
    "lease_time_ns",
    "block_size",
    "chunk_size",
)
TEXTS = (
    "name",
    "fs_type",
    "fs_uuid",
    "host",
    "device",
    "store",
    "mount_point",
    "mount_options",
)


class LabelState(IntEnum):
    """What the replica is right now."""

    COPYING = lib.DMS_LABEL_COPYING  # first full copy under way: it holds no point
    CONSISTENT = lib.DMS_LABEL_CONSISTENT  # it is the point, byte for byte
    APPLYING = lib.DMS_LABEL_APPLYING  # between two points: finish or roll back
    MERGING = lib.DMS_LABEL_MERGING  # a commit merges undo stores or an overlay into it
    PRIMARY = lib.DMS_LABEL_PRIMARY  # promoted: it is the volume now


class LabelTwin(IntEnum):
    """What the other of the two sectors holds."""

    SAME = lib.DMS_LABEL_TWIN_SAME
    EARLIER = lib.DMS_LABEL_TWIN_EARLIER  # an earlier label, or none yet
    DAMAGED = lib.DMS_LABEL_TWIN_DAMAGED  # none that is whole, and no later one is lost
    DOUBTFUL = lib.DMS_LABEL_TWIN_DOUBTFUL  # none that is whole: it may have been a later one


class HistoryFlag(IntFlag):
    """Marks of a point, on the replica or in its history."""

    KEEP = lib.DMS_LABEL_KEEP


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """An undo store, which turns the next newer content into the point that it names."""

    point_uuid: UUID
    point_time_ns: int
    store_offset_bytes: int
    store_length_bytes: int
    chunk_size: int  # sectors
    flags: HistoryFlag


@dataclass(frozen=True, slots=True)
class Label:
    """A label's content. ``generation`` is what was read; :func:`write` chooses the next.

    ``host_uuid`` is whose recovery volume it is, None: nobody's; ``host`` is who wrote the label.
    """

    generation: int
    size_bytes: int
    volume_uuid: UUID
    recovery_uuid: UUID
    state: LabelState
    flags: HistoryFlag  # of the replica's point
    point_uuid: UUID | None
    point_time_ns: int
    next_point_uuid: UUID | None
    next_point_time_ns: int
    history_offset_bytes: int
    history_length_bytes: int
    name: str
    fs_type: str
    fs_uuid: str
    host: str
    history: tuple[HistoryEntry, ...] = ()  # newest first
    # What version 2 has: zero or empty where it is not known.
    host_uuid: UUID | None = None
    lease_time_ns: int = 0
    block_size: int = 0  # of dm-era, sectors
    chunk_size: int = 0  # of live points, sectors
    device: str = ""
    store: str = ""
    mount_point: str = ""
    mount_options: str = ""
    twin: LabelTwin = LabelTwin.SAME


def offset(device_bytes: int) -> int:
    """Where the label area begins on a device of ``device_bytes``."""
    return lib.dms_label_offset(device_bytes)


def fits(field: str, value: str) -> bool:
    """Whether a text can be said in that field of a label: as long as that, and printable."""
    room = len(getattr(ffi.new("struct dms_label *"), field))
    return value.isprintable() and len(value.encode(errors="replace")) < room


def read(fd: int, device_bytes: int, name: str) -> Label:
    """The newest label on the device that passes every check.

    :class:`NotThisFormatError` where there is none, :class:`CorruptError` where none is whole.
    """
    place = ffi.new("struct dms_label *")
    check(lib.dms_label_read(fd, device_bytes, place), name)
    return _from_c(place)


def write(fd: int, device_bytes: int, label: Label, name: str) -> Label:
    """Write ``label`` as the newest to both sectors, one after the other, each with a flush.

    Returns it as it is on the disk: with the next generation.
    """
    place = _to_c(label)
    check(lib.dms_label_write(fd, device_bytes, place), name)
    return replace(label, generation=int(place.generation), twin=LabelTwin.SAME)


def wipe(fd: int, device_bytes: int, name: str) -> None:
    """Overwrite both sectors with zeroes and flush, the newest last."""
    check(lib.dms_label_wipe(fd, device_bytes), name)


def decode(sector: bytes, device_bytes: int, name: str) -> Label:
    """The label in one sector's bytes."""
    if len(sector) != SECTOR_BYTES:
        raise ValueError(f"a label has {SECTOR_BYTES} bytes, not {len(sector)}")
    place = ffi.new("struct dms_label *")
    check(lib.dms_label_decode(ffi.from_buffer(sector), device_bytes, place), name)
    return _from_c(place)


def encode(label: Label) -> bytes:
    """One sector's bytes, with the label's own generation."""
    sector = ffi.new("uint8_t[]", SECTOR_BYTES)
    check(lib.dms_label_encode(_to_c(label), sector), label.name)
    return bytes(ffi.buffer(sector))


def _uuid(octets: "CData") -> UUID:
    return UUID(bytes=bytes(ffi.buffer(octets)))


def _optional_uuid(octets: "CData") -> UUID | None:
    found = _uuid(octets)
    return None if found == _NIL else found


def _from_c(label: "CData") -> Label:
    return Label(
        generation=int(label.generation),
        size_bytes=int(label.size_bytes),
        volume_uuid=_uuid(label.volume_uuid),
        recovery_uuid=_uuid(label.recovery_uuid),
        state=LabelState(label.state),
        flags=HistoryFlag(label.flags),
        point_uuid=_optional_uuid(label.point_uuid),
        point_time_ns=int(label.point_time_ns),
        next_point_uuid=_optional_uuid(label.next_point_uuid),
        next_point_time_ns=int(label.next_point_time_ns),
        history_offset_bytes=int(label.history_offset_bytes),
        history_length_bytes=int(label.history_length_bytes),
        name=text(label.name),
        fs_type=text(label.fs_type),
        fs_uuid=text(label.fs_uuid),
        host=text(label.host),
        history=tuple(_entry_from_c(label.history[i]) for i in range(label.nr_history)),
        host_uuid=_optional_uuid(label.host_uuid),
        lease_time_ns=int(label.lease_time_ns),
        block_size=int(label.block_size),
        chunk_size=int(label.chunk_size),
        device=text(label.device),
        store=text(label.store),
        mount_point=text(label.mount_point),
        mount_options=text(label.mount_options),
        twin=LabelTwin(label.twin),
    )


def _entry_from_c(entry: "CData") -> HistoryEntry:
    return HistoryEntry(
        point_uuid=_uuid(entry.point_uuid),
        point_time_ns=int(entry.point_time_ns),
        store_offset_bytes=int(entry.store_offset_bytes),
        store_length_bytes=int(entry.store_length_bytes),
        chunk_size=int(entry.chunk_size),
        flags=HistoryFlag(entry.flags),
    )


def _to_c(label: Label) -> "CData":
    if len(label.history) > MAX_HISTORY:
        raise ValueError(f"a label has room for {MAX_HISTORY} history entries")
    place = ffi.new("struct dms_label *")
    for field in NUMBERS:
        setattr(place, field, getattr(label, field))
    place.volume_uuid = label.volume_uuid.bytes
    place.recovery_uuid = label.recovery_uuid.bytes
    place.state = int(label.state)
    place.flags = int(label.flags)
    place.point_uuid = (label.point_uuid or _NIL).bytes
    place.next_point_uuid = (label.next_point_uuid or _NIL).bytes
    place.host_uuid = (label.host_uuid or _NIL).bytes
    for field in TEXTS:
        setattr(place, field, _encoded(field, getattr(label, field), len(getattr(place, field))))
    place.nr_history = len(label.history)
    for i, entry in enumerate(label.history):
        _entry_to_c(entry, place.history[i])
    return place


def _entry_to_c(entry: HistoryEntry, place: "CData") -> None:
    place.point_uuid = entry.point_uuid.bytes
    place.point_time_ns = entry.point_time_ns
    place.store_offset_bytes = entry.store_offset_bytes
    place.store_length_bytes = entry.store_length_bytes
    place.chunk_size = entry.chunk_size
    place.flags = int(entry.flags)


def _encoded(field: str, value: str, size: int) -> bytes:
    encoded = value.encode()
    if len(encoded) >= size or b"\0" in encoded:
        raise ValueError(f"{field} {value!r} does not fit into {size - 1} bytes of a label")
    return encoded
