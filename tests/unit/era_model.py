"""dm-era metadata, written the slow and obvious way: as drivers/md/dm-era-target.c leaves it."""

import random
import struct
from dataclasses import dataclass, field

BLOCK = 4096
SUPERBLOCK_SALT = 146538381
NODE_SALT = 121107
ARRAY_SALT = 595846735
MAGIC = 2126579579


def crc32c(data: bytes) -> int:
    """CRC-32C without inversions, seeded with all ones; a byte at a time."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc


def _entry(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_TABLE = [_entry(byte) for byte in range(256)]


@dataclass
class Writeset:
    """What was written in an era; ``nr_bits`` was the device's size then."""

    era: int
    nr_bits: int
    blocks: set[int]


@dataclass
class Model:
    """An era device as it is remembered. ``eras`` has one entry per block."""

    block_size: int = 128
    current_era: int = 1
    eras: list[int] = field(default_factory=list)
    archived: list[Writeset] = field(default_factory=list)
    current: Writeset | None = None
    nr_blocks: int | None = None  # when it is not what ``eras`` has

    def written_since(self, since: int, *, from_snapshot: bool = False) -> set[int]:
        """The blocks that a reader must find."""
        nr_blocks = len(self.eras) if self.nr_blocks is None else self.nr_blocks
        found = {block for block, era in enumerate(self.eras) if era >= since}
        current = [self.current] if self.current and not from_snapshot else []
        for writeset in [*self.archived, *current]:
            if writeset.era >= since:
                found |= {block for block in writeset.blocks if block < writeset.nr_bits}
        return {block for block in found if block < nr_blocks}


class Image:
    """Blocks, allocated one after the other.

    With ``chance``, nodes are as full as chance has it: inserting and removing leaves any.
    """

    def __init__(self, fan_out: int, chance: random.Random | None = None) -> None:
        self.blocks: list[bytes] = [bytes(BLOCK)]
        self.fan_out = fan_out
        self.chance = chance

    def put(self, salt: int, body: bytes) -> int:
        """Append a block of ``body``, which begins behind the checksum; returns its number."""
        self.blocks.append(self.sealed(salt, body))
        return len(self.blocks) - 1

    @staticmethod
    def sealed(salt: int, body: bytes) -> bytes:
        body = body.ljust(BLOCK - 4, b"\0")
        return struct.pack("<I", crc32c(body) ^ salt) + body

    def node(self, flags: int, size: int, entries: list[tuple[int, bytes]]) -> int:
        keys = b"".join(struct.pack("<Q", key) for key, _ in entries)
        head = struct.pack("<IQIIII", flags, len(self.blocks), len(entries), self.fan_out, size, 0)
        values = b"".join(value for _, value in entries)
        return self.put(NODE_SALT, head + keys.ljust(8 * self.fan_out, b"\0") + values)

    def tree(self, size: int, entries: list[tuple[int, bytes]]) -> int:
        """A btree of sorted ``entries``; returns its root."""
        flags = 2
        while True:
            parts = self.parts(entries) or [[]]
            level = [
                (part[0][0] if part else 0, struct.pack("<Q", self.node(flags, size, part)))
                for part in parts
            ]
            if len(level) == 1:
                return int.from_bytes(level[0][1], "little")
            entries, flags, size = level, 1, 8

    def parts(self, entries: list[tuple[int, bytes]]) -> list[list[tuple[int, bytes]]]:
        """What goes into each node of a level; never one by one, which would not end."""
        found = []
        while entries:
            nr = self.fan_out if self.chance is None else self.chance.randint(2, self.fan_out)
            found.append(entries[:nr])
            entries = entries[nr:]
        return found

    def array(self, form: str, values: list[int]) -> int:
        """An array of ``values``, packed as ``form``; returns its root."""
        size = struct.calcsize(form)
        per_block = (BLOCK - 24) // size
        entries = []
        for index in range(0, len(values), per_block):
            part = values[index : index + per_block]
            head = struct.pack("<IIIQ", per_block, len(part), size, len(self.blocks))
            packed = b"".join(struct.pack(form, value) for value in part)
            entries.append(struct.pack("<Q", self.put(ARRAY_SALT, head + packed)))
        return self.tree(8, list(enumerate(entries)))

    def bitset(self, writeset: Writeset) -> int:
        words = [0] * -(-writeset.nr_bits // 64)
        for block in writeset.blocks:
            if block < writeset.nr_bits:
                words[block // 64] |= 1 << block % 64
        return self.array("<Q", words)


def build(
    model: Model,
    *,
    fan_out: int = 3,
    snapshot: bool = False,
    spare: int = 3,
    chance: random.Random | None = None,
) -> bytes:
    """The metadata of ``model``; with ``snapshot``, one is held, and knows the same."""
    image = Image(fan_out, chance)
    writesets = [
        (writeset.era, struct.pack("<IQ", writeset.nr_bits, image.bitset(writeset)))
        for writeset in sorted(model.archived, key=lambda writeset: writeset.era)
    ]
    writeset_tree = image.tree(12, writesets)
    era_array = image.array("<I", model.eras)
    current = image.bitset(model.current) if model.current else 0
    nr_blocks = len(model.eras) if model.nr_blocks is None else model.nr_blocks

    def superblock(blocknr: int, metadata_snap: int) -> bytes:
        return (
            struct.pack("<IQ16xQI128x", 0, blocknr, MAGIC, 1)
            + struct.pack("<IIII", model.block_size, 8, nr_blocks, model.current_era)
            + struct.pack("<IQ", model.current.nr_bits if model.current else 0, current)
            + struct.pack("<QQQ", writeset_tree, era_array, metadata_snap)
        )

    snap = image.put(SUPERBLOCK_SALT, superblock(len(image.blocks), 0)) if snapshot else 0
    image.blocks[0] = image.sealed(SUPERBLOCK_SALT, superblock(0, snap))
    return b"".join(image.blocks) + bytes(spare * BLOCK)
