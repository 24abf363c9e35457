"""Where the fuzzers start: seeds.py DIRECTORY writes DIRECTORY/HARNESS/NAME for each of them.

Images that a kernel wrote, without the blocks that nothing refers to, and images made by the
models of the unit tests, small, but with every structure in them. An input is 16 bytes of control,
and what lies on the medium (native/fuzz/fuzz.h).
"""

import gzip
import random
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import era_model
import exception_store_model
import label_model
import thin_model

TESTS = Path(__file__).resolve().parents[2]
IMAGES = TESTS / "native" / "images"
BLOCK = 4096
MAX_BLOCKS = 16

Seeds = Iterator[tuple[str, bytes]]


def recorded(pattern: str) -> Iterator[tuple[str, bytes]]:
    """The images that a kernel wrote."""
    for path in sorted(IMAGES.glob(pattern)):
        yield path.name.removesuffix(".img.gz"), gzip.decompress(path.read_bytes())


class Compaction:
    """The blocks of an era image that are referred to, moved together."""

    def __init__(self, image: bytes) -> None:
        self.image = image
        self.blocks: list[bytes] = [b""]  # the superblock is put there last
        self.moved: dict[int, int] = {}

    def block(self, blocknr: int) -> bytearray:
        return bytearray(self.image[blocknr * BLOCK : (blocknr + 1) * BLOCK])

    def put(self, blocknr: int, salt: int, blocknr_at: int, block: bytearray) -> int:
        """Append a block that was changed; returns its new number."""
        new = len(self.blocks)
        struct.pack_into("<Q", block, blocknr_at, new)
        self.blocks.append(era_model.Image.sealed(salt, bytes(block[4:])))
        self.moved[blocknr] = new
        return new

    def array_block(self, blocknr: int) -> int:
        if blocknr in self.moved:
            return self.moved[blocknr]
        return self.put(blocknr, era_model.ARRAY_SALT, 16, self.block(blocknr))

    def array(self, root: int) -> int:
        return self.tree(root, 0, self.array_block)

    def tree(self, blocknr: int, value_at: int, move: Callable[[int], int]) -> int:
        """A btree whose values have a block number at ``value_at``, which ``move`` replaces."""
        if blocknr in self.moved:
            return self.moved[blocknr]
        block = self.block(blocknr)
        flags, _, nr_entries, max_entries, size = struct.unpack_from("<IQIII", block, 4)
        internal = flags & 1
        for i in range(nr_entries):
            at = 32 + max_entries * 8 + i * size + (0 if internal else value_at)
            (child,) = struct.unpack_from("<Q", block, at)
            new = self.tree(child, value_at, move) if internal else move(child)
            struct.pack_into("<Q", block, at, new)
        return self.put(blocknr, era_model.NODE_SALT, 8, block)

    def superblock(self, blocknr: int) -> bytearray:
        """With the trees that it refers to moved."""
        block = self.block(blocknr)
        current, writesets, eras = struct.unpack_from("<QQQ", block, 192)
        struct.pack_into(
            "<QQQ",
            block,
            192,
            self.array(current) if current and not blocknr else 0,
            self.tree(writesets, 4, self.array),
            self.array(eras),
        )
        return block

    def compact(self) -> bytes:
        live = self.superblock(0)
        (snap,) = struct.unpack_from("<Q", live, 216)
        if snap:
            snap = self.put(snap, era_model.SUPERBLOCK_SALT, 8, self.superblock(snap))
            struct.pack_into("<Q", live, 216, snap)
        self.blocks[0] = era_model.Image.sealed(era_model.SUPERBLOCK_SALT, bytes(live[4:]))
        return b"".join(self.blocks)


def era_models() -> Iterator[tuple[str, bytes]]:
    """Small, deep where the fan-out is small."""
    chance = random.Random(1)
    writesets = [era_model.Writeset(era, 100, {era, 70}) for era in (2, 3, 4, 5)]
    for nr_blocks in (0, 1, 1018, 1019, 3000):
        eras = [chance.choice([0, 0, 0, 1, 2]) for _ in range(nr_blocks)]
        for snapshot in (False, True):
            model = era_model.Model(current_era=6, eras=eras)
            yield f"empty-{nr_blocks}-{snapshot}", era_model.build(model, snapshot=snapshot)
    model = era_model.Model(current_era=6, eras=[1] * 100, archived=writesets[:3])
    yield "deep", era_model.build(model, fan_out=2, spare=0)
    model.current = writesets[3]
    model.archived = writesets[:1]
    yield "current", era_model.build(model, spare=1)
    model.nr_blocks = 50
    yield "shrunk", era_model.build(model, snapshot=True, spare=0)


def era() -> Seeds:
    for name, image in recorded("era-*.gz"):
        small = Compaction(image).compact()
        if len(small) <= MAX_BLOCKS * BLOCK:
            yield name, struct.pack("<IIQ", 2, 0, 0) + small
    for name, image in era_models():
        yield name, struct.pack("<IIQ", 2, 0, 0) + image


def era_superblock() -> Seeds:
    for name, image in era_models():
        snap = int.from_bytes(image[216:224], "little")
        blocks = image[:BLOCK] + image[snap * BLOCK : (snap + 1) * BLOCK]
        yield name, struct.pack("<QQ", 0, len(image)) + blocks


def btree() -> Seeds:
    for size, fan_out, count in ((12, 2, 7), (8, 3, 20), (8, 252, 100), (12, 3, 0), (64, 4, 9)):
        image = era_model.Image(fan_out)
        entries = [(i * i, bytes([i % 256]) * size) for i in range(count)]
        root = image.tree(size, entries)
        control = struct.pack("<QII", root, size - 1, 0)
        yield f"{size}-{fan_out}-{count}", control + b"".join(image.blocks)


def array() -> Seeds:
    for form, fan_out, count in (("<I", 2, 4000), ("<Q", 3, 1100), ("<Q", 200, 100), ("<I", 3, 0)):
        image = era_model.Image(fan_out)
        size = struct.calcsize(form)
        root = image.array(form, [i % 251 for i in range(count)])
        control = struct.pack("<QII", root, size - 1, 0)
        yield f"{size}-{fan_out}-{count}", control + b"".join(image.blocks)


def bitset() -> Seeds:
    chance = random.Random(2)
    for nr_bits, fan_out in ((0, 2), (1, 2), (64, 2), (1000, 2), (32577, 2), (100000, 2)):
        image = era_model.Image(fan_out)
        blocks = set(chance.choices(range(nr_bits), k=20)) if nr_bits else set()
        root = image.bitset(era_model.Writeset(1, nr_bits, blocks))
        control = struct.pack("<QII", root, nr_bits, nr_bits + chance.randint(-1, 1) * 5 & 0x7FFFF)
        yield f"{nr_bits}-{fan_out}", control + b"".join(image.blocks)


def exception_store() -> Seeds:
    def control(image: bytes, offset: int = 0) -> bytes:
        return struct.pack("<IIQ", offset, max(0, len(image) - MAX_BLOCKS * BLOCK), 1000)

    for name, image in recorded("store-*.gz"):
        yield name, control(image) + image[: MAX_BLOCKS * BLOCK].rstrip(b"\0")
    for chunk_size in (1, 2, 8):
        for count in (0, 1, 31, 32, 33, 64, 100):
            news = exception_store_model.data_chunks(chunk_size, count)
            pairs = [(old * 7 % 1009, new) for old, new in enumerate(news)]
            store = bytes(exception_store_model.build(chunk_size, pairs))
            if len(store) <= MAX_BLOCKS * BLOCK:
                yield f"{chunk_size}-{count}", control(store, 512 * count) + store
    yield "invalid", control(b"") + exception_store_model.build(1, [(1, 2)], valid=0)


def store_merge() -> Seeds:
    """Stores of one volume of 30 chunks: of equal and of mixed chunk sizes, sorted and not."""
    cases: dict[str, list[tuple[int, list[int]]]] = {
        "one": [(8, [0, 3, 4, 29])],
        "two": [(8, [1, 2, 9]), (8, [2, 3, 28])],
        "larger-first": [(16, [0, 2]), (8, [1, 3, 20])],
        "larger-last": [(8, [1, 3, 20]), (16, [0, 1])],
        "unsorted": [(8, [7, 3, 5]), (8, [9, 2])],
        "four": [(8, [number, number + 1]) for number in range(4)],
        "empty": [(8, []), (8, [])],
    }
    for name, kept in cases.items():
        length = MAX_BLOCKS // len(kept) * BLOCK
        stores = b""
        for number, (chunk_size, olds) in enumerate(kept):
            pairs = list(
                zip(olds, exception_store_model.data_chunks(chunk_size, len(olds)), strict=True)
            )
            store = bytearray(exception_store_model.build(chunk_size, pairs))
            for old, new in pairs:
                at = new * chunk_size * 512
                store[at : at + 4] = struct.pack("<HH", number, old)
            stores += bytes(store).ljust(length, b"\0")
        yield name, struct.pack("<IIII", len(kept) - 1, 239, 120000, 3) + stores


def label() -> Seeds:
    device_bytes = 1 << 20
    control = struct.pack("<IIQ", device_bytes - label_model.AREA, 100, 0)
    history = [
        label_model.Entry(UUID(int=i + 1), i, (128 + 2 * i) * BLOCK, BLOCK, 2**i, i % 2)
        for i in range(6)
    ]
    older = label_model.Model(size_bytes=65536, name=b"data", state=1)
    newer = label_model.Model(
        generation=2,
        size_bytes=128 * BLOCK,
        volume_uuid=UUID(int=1 << 100),
        point_uuid=UUID(int=7),
        state=3,
        flags=1,
        history_offset=128 * BLOCK,
        history_length=100 * BLOCK,
        name="größer".encode(),
        fs_type=b"xfs",
        fs_uuid=b"7f8a3c1e-3b52-4f7c-9f0b-0a4a5cf35b11",
        host=b"h" * 64,
        history=history,
    )
    owned = replace(
        newer,
        host_uuid=UUID(int=9 << 64),
        lease_time_ns=5,
        block_size=128,
        chunk_size=8,
        device=b"/dev/disk/by-id/wwn-0x5000c500a1b2c3d4",
        store=b"/var/lib/dmsnap/store",
        mount_point=b"/srv",
        mount_options=b"rw,noatime",
    )
    for name, sectors in {
        "owned": owned.encode() * 2,
        "taken-over": newer.encode() + replace(owned, generation=3).encode(),
        "first": older.encode(),
        "both": older.encode() + newer.encode(),
        "second": bytes(BLOCK) + newer.encode(),
        "none": b"",
    }.items():
        yield name, control + sectors


def extent_set() -> Seeds:
    chance = random.Random(3)
    for shift in (0, 12, 55):
        operations = b"".join(
            struct.pack(
                "<BBHH",
                chance.choice([0, 1, 2, 3, 4, 5, 6, 6, 6, 6, 6, 7]),
                chance.randrange(4),
                chance.randrange(256),
                chance.randrange(256),
            )
            for _ in range(60)
        )
        yield f"{shift}", struct.pack("<IIQ", shift, shift % 2, 0) + operations


def thin() -> Seeds:
    """Devices that share nodes; the recorded images have more nodes than fit."""
    origin = {block: (block + 100, 1) for block in range(40) if block % 17}
    clone = {**origin, 5: (500, 2), 60: (501, 2), 61: (502, 2)}
    del clone[12]
    for per_node, fan_out in ((3, 9), (9, 5), (4, 252)):
        model = thin_model.Model(time=2, trans_id=3)
        for dev_id, mapping in ((0, origin), (1, clone), (7, {0: (9, 2)})):
            shown = {block: to for block, to in mapping.items() if block < 7 * per_node}
            model.devices[dev_id] = thin_model.Device(shown, per_node=per_node)
        image = bytes(thin_model.build(model, fan_out=fan_out, spare=0))
        yield f"{per_node}-{fan_out}", struct.pack("<IIII", 0, 0, 1, 0) + image
    held = thin_model.Model(devices={3: thin_model.Device({1: (1, 1), 4: (2, 1)})})
    image = bytes(thin_model.build(thin_model.Model(), held=held, spare=1))
    yield "held", struct.pack("<IIII", 1, 0, 0, 0) + image


HARNESSES: dict[str, Callable[[], Seeds]] = {
    "array": array,
    "bitset": bitset,
    "btree": btree,
    "era": era,
    "era_superblock": era_superblock,
    "exception_store": exception_store,
    "extent_set": extent_set,
    "label": label,
    "store_merge": store_merge,
    "thin": thin,
}


def main() -> None:
    for harness, seeds in HARNESSES.items():
        directory = Path(sys.argv[1]) / harness
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in seeds():
            (directory / name).write_bytes(content)


if __name__ == "__main__":
    main()
