"""dm-thin metadata, written the slow and obvious way: as drivers/md/dm-thin-metadata.c leaves it.

Trees are kept as Python values; writing one gives a block the number that an equal subtree has
already. So devices share what they have in common, as the kernel's copy on write leaves them.
"""

import struct
from dataclasses import dataclass, field

from era_model import BLOCK, Image

SUPERBLOCK_SALT = 160774
MAGIC = 27022010
TIME_BITS = 24

Mapping = dict[int, tuple[int, int]]  # thin block: data block, time


@dataclass
class Device:
    """A thin device as it is remembered."""

    mapping: Mapping = field(default_factory=dict)
    transaction_id: int = 0
    creation_time: int = 0
    snapshotted_time: int = 0
    # Keys at which nodes end whatever else is mapped, so that devices that differ have nodes in
    # common; as after removals, when nodes are not full.
    per_node: int = 3


@dataclass
class Model:
    """A pool."""

    devices: dict[int, Device] = field(default_factory=dict)
    block_size: int = 128
    data_nr_blocks: int = 1 << 20
    time: int = 0
    trans_id: int = 0
    flags: int = 0
    version: int = 2
    incompat_flags: int = 0

    def difference(self, old: int, new: int) -> tuple[set[int], set[int], set[int]]:
        """Added, removed and changed blocks."""
        one, other = self.devices[old].mapping, self.devices[new].mapping
        both = one.keys() & other.keys()
        return (
            other.keys() - one.keys(),
            one.keys() - other.keys(),
            {block for block in both if one[block][0] != other[block][0]},
        )


class SharedImage(Image):
    """Equal nodes are one node."""

    def __init__(self, fan_out: int) -> None:
        super().__init__(fan_out)
        self.known: dict[tuple[int, int, tuple[tuple[int, bytes], ...]], int] = {}

    def shared_node(self, flags: int, size: int, entries: list[tuple[int, bytes]]) -> int:
        key = (flags, size, tuple(entries))
        if key not in self.known:
            self.known[key] = self.node(flags, size, entries)
        return self.known[key]

    def mapping_tree(self, device: Device) -> int:
        """Nodes are cut at multiples of a number of keys, level by level; returns the root."""
        entries = [
            (block, struct.pack("<Q", data << TIME_BITS | time))
            for block, (data, time) in sorted(device.mapping.items())
        ]
        flags, span = 2, device.per_node
        while True:
            groups: dict[int, list[tuple[int, bytes]]] = {}
            for key, value in entries:
                groups.setdefault(key // span, []).append((key, value))
            parts = list(groups.values()) or [[]]
            level = [
                (part[0][0] if part else 0, struct.pack("<Q", self.shared_node(flags, 8, part)))
                for part in parts
            ]
            if len(level) == 1:
                return int.from_bytes(level[0][1], "little")
            entries, flags, span = level, 1, span * self.fan_out


def superblock(
    model: Model, blocknr: int, roots: tuple[int, int], held: int, nr_blocks: int, live: bool
) -> bytes:
    """Everything behind the checksum. A metadata snapshot has no space maps."""
    data_space_map = struct.pack("<QQ", model.data_nr_blocks, 0) if live else b""
    return (
        struct.pack("<IQ16xQII", model.flags, blocknr, MAGIC, model.version, model.time)
        + struct.pack("<QQ", model.trans_id, held)
        + data_space_map.ljust(128, b"\0")
        + bytes(128)
        + struct.pack("<QQIIQ", *roots, model.block_size, 8, nr_blocks)
        + struct.pack("<III", 0, 0, model.incompat_flags)
    )


def put_pool(image: SharedImage, model: Model) -> tuple[int, int]:
    """The trees of a pool: mapping root and details root."""
    details, mapping = [], []
    for dev_id, device in sorted(model.devices.items()):
        packed = struct.pack(
            "<QQII", len(device.mapping), device.transaction_id, device.creation_time,
            device.snapshotted_time,
        )  # fmt: skip
        details.append((dev_id, packed))
        mapping.append((dev_id, struct.pack("<Q", image.mapping_tree(device))))
    return image.tree(8, mapping), image.tree(24, details)


def build(
    model: Model, *, fan_out: int = 3, held: Model | None = None, spare: int = 3
) -> bytearray:
    """The metadata of ``model``; ``held`` is what the metadata snapshot knows."""
    image = SharedImage(fan_out)
    snapshot = 0
    if held is not None:
        roots = put_pool(image, held)
        snapshot = image.put(
            SUPERBLOCK_SALT, superblock(held, len(image.blocks), roots, 0, 0, live=False)
        )
    roots = put_pool(image, model)
    nr_blocks = len(image.blocks) + spare
    image.blocks[0] = image.sealed(
        SUPERBLOCK_SALT, superblock(model, 0, roots, snapshot, nr_blocks, live=True)
    )
    return bytearray(b"".join(image.blocks) + bytes(spare * BLOCK))
