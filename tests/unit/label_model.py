"""The label of a recovery volume, written the slow and obvious way: as docs/FORMATS.md has it."""

import struct
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from uuid import UUID

from era_model import crc32c

SECTOR = 4096
AREA = 2 * SECTOR
CRC_XOR = 0x4D534E4C
NONE = UUID(int=0)
MAX_HISTORY = 64
POWERS = (0, *(2**i for i in range(32)))


@dataclass
class Entry:
    """A step back."""

    point_uuid: UUID
    point_time_ns: int
    store_offset: int
    store_length: int
    chunk_size: int
    flags: int = 0


@dataclass
class Model:
    """Every field of a sector; what is not valid can be said, too."""

    generation: int = 1
    size_bytes: int = SECTOR
    volume_uuid: UUID = NONE
    recovery_uuid: UUID = NONE
    state: int = 2
    flags: int = 0
    point_uuid: UUID = NONE
    point_time_ns: int = 0
    next_point_uuid: UUID = NONE
    next_point_time_ns: int = 0
    history_offset: int = 0
    history_length: int = 0
    name: bytes = b""
    fs_type: bytes = b""
    fs_uuid: bytes = b""
    host: bytes = b""
    history: list[Entry] = field(default_factory=list)
    host_uuid: UUID = NONE
    lease_time_ns: int = 0
    block_size: int = 0
    chunk_size: int = 0
    device: bytes = b""
    store: bytes = b""
    mount_point: bytes = b""
    mount_options: bytes = b""
    magic: bytes = b"DMSNAPLB"
    version: int | None = None  # when it is not what the rest makes it
    nr_history: int | None = None  # when it is not what ``history`` has
    patches: dict[int, int] = field(default_factory=dict)  # bytes that are something else

    @classmethod
    def decode(cls, sector: bytes) -> "Model | None":
        """What a sector says; None unless each of its bytes is one that :meth:`encode` writes."""

        def take(at: int, form: str) -> tuple[Any, ...]:
            return struct.unpack_from(form, sector, at)

        def text(at: int, size: int) -> bytes:
            return sector[at : at + size].rstrip(b"\0")

        found = cls(*take(16, "<QQ"), *_uuids(sector, 32, 48), *take(64, "<II"))
        found.point_uuid, found.next_point_uuid = _uuids(sector, 72, 96)
        (found.point_time_ns,), (found.next_point_time_ns,) = take(88, "<Q"), take(112, "<Q")
        found.history_offset, found.history_length, nr_history = take(120, "<QQI")
        found.name, found.fs_type = text(144, 64), text(208, 16)
        found.fs_uuid, found.host = text(224, 40), text(264, 64)
        (found.host_uuid,) = _uuids(sector, 328)
        found.lease_time_ns, found.block_size, found.chunk_size = take(344, "<QII")
        found.device, found.store = text(360, 192), text(552, 128)
        found.mount_point, found.mount_options = text(680, 128), text(808, 128)
        for at in range(1024, 1024 + 48 * min(nr_history, MAX_HISTORY), 48):
            (point_uuid,) = _uuids(sector, at)
            found.history.append(Entry(point_uuid, *take(at + 16, "<QQQII")))
        return found if found.encode() == sector else None

    def encode(self) -> bytes:
        sector = bytearray(SECTOR)

        def put(at: int, form: str, *values: object) -> None:
            struct.pack_into(form, sector, at, *values)

        nr_history = len(self.history) if self.nr_history is None else self.nr_history
        put(0, "<8s", self.magic)
        put(12, "<I", self.right_version if self.version is None else self.version)
        put(16, "<QQ", self.generation, self.size_bytes)
        put(32, "16s16s", self.volume_uuid.bytes, self.recovery_uuid.bytes)
        put(64, "<II", self.state, self.flags)
        put(72, "<16sQ", self.point_uuid.bytes, self.point_time_ns)
        put(96, "<16sQ", self.next_point_uuid.bytes, self.next_point_time_ns)
        put(120, "<QQ", self.history_offset, self.history_length)
        put(136, "<I", nr_history)
        put(144, "64s16s40s64s", self.name, self.fs_type, self.fs_uuid, self.host)
        put(328, "<16sQII", self.host_uuid.bytes, self.lease_time_ns, self.block_size,
            self.chunk_size)  # fmt: skip
        put(360, "192s128s128s128s", self.device, self.store, self.mount_point, self.mount_options)
        for i, entry in enumerate(self.history):
            put(1024 + 48 * i, "<16sQ", entry.point_uuid.bytes, entry.point_time_ns)
            put(1048 + 48 * i, "<QQ", entry.store_offset, entry.store_length)
            put(1064 + 48 * i, "<II", entry.chunk_size, entry.flags)
        for at, byte in self.patches.items():
            sector[at] = byte
        return seal(bytes(sector))

    @property
    def right_version(self) -> int:
        """Version 2 says whose it is, where what lies and how it was mounted, or some of it."""
        sizes = (self.lease_time_ns, self.block_size, self.chunk_size)
        texts = (self.device, self.store, self.mount_point, self.mount_options)
        said = any(text.strip(b"\0") for text in texts)
        return 2 if self.host_uuid.int or any(sizes) or said else 1

    def is_valid(self, device_bytes: int) -> bool:
        """Whether a reader must take it, by the checks that docs/FORMATS.md lists."""
        end = area_offset(device_bytes)
        texts = (self.name, self.fs_type, self.fs_uuid, self.host)
        owners = (self.device, self.store, self.mount_point, self.mount_options)
        return (
            self.magic == b"DMSNAPLB"
            and self.version in (None, self.right_version)
            and all(size in POWERS for size in (self.block_size, self.chunk_size))
            and self.generation > 0
            and 0 < self.size_bytes <= end
            and 1 <= self.state <= 5
            and self.flags in (0, 1)
            and (not self.history_length or self._region_is_valid(end))
            and self.nr_history in (None, len(self.history))
            and len(self.history) <= 64
            and all(map(is_text, texts + owners))
            and not self.patches
            and all(self._entry_is_valid(entry) for entry in self.history)
            and not self._stores_overlap()
        )

    def _region_is_valid(self, end: int) -> bool:
        return (
            self.history_offset % SECTOR == 0
            and self.history_length % SECTOR == 0
            and self.size_bytes <= self.history_offset
            and self.history_offset + self.history_length <= end
        )

    def _entry_is_valid(self, entry: Entry) -> bool:
        return (
            entry.store_offset % SECTOR == 0
            and entry.store_length % SECTOR == 0
            and entry.store_length > 0
            and self.history_offset <= entry.store_offset
            and entry.store_offset + entry.store_length <= self.history_offset + self.history_length
            and entry.chunk_size in [2**i for i in range(22)]
            and entry.flags in (0, 1)
        )

    def _stores_overlap(self) -> bool:
        taken = sorted((e.store_offset, e.store_offset + e.store_length) for e in self.history)
        return any(first[1] > second[0] for first, second in pairwise(taken))


def newest(area: bytes, device_bytes: int) -> Model | None:
    """The label in the two slots of an area: of those that pass every check the latest."""
    slots = (Model.decode(area[at : at + SECTOR]) for at in (0, SECTOR))
    found = [each for each in slots if each is not None and each.is_valid(device_bytes)]
    return max(found, key=lambda each: each.generation, default=None)


def _uuids(sector: bytes, *places: int) -> list[UUID]:
    return [UUID(bytes=sector[at : at + 16]) for at in places]


def area_offset(device_bytes: int) -> int:
    """Where the two slots begin."""
    return device_bytes // SECTOR * SECTOR - AREA


def seal(sector: bytes) -> bytes:
    """The sector with its checksum."""
    crc = crc32c(sector[:8] + bytes(4) + sector[12:]) ^ CRC_XOR
    return sector[:8] + struct.pack("<I", crc) + sector[12:]


def is_text(text: bytes) -> bool:
    """UTF-8 without control characters, filled up with zero bytes."""
    try:
        shown = text.rstrip(b"\0").decode()
    except UnicodeDecodeError:
        return False
    return not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in shown)
