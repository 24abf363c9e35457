"""The thin metadata reader against a slow model that writes the metadata."""

import copy
import random
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from era_model import BLOCK, NODE_SALT, Image
from hypothesis import given, settings
from hypothesis import strategies as st
from thin_model import (
    SUPERBLOCK_SALT,
    Device,
    Mapping,
    Model,
    SharedImage,
    build,
    put_pool,
    superblock,
)

from dmsnap._native.extent_set import ExtentSet
from dmsnap._native.thin import ThinMetadata
from dmsnap.errors import (
    CorruptError,
    NotFoundError,
    NotThisFormatError,
    OperatingSystemError,
    WrongStateError,
)


@contextmanager
def opened(content: bytes | bytearray, *, from_snapshot: bool = False) -> Iterator[ThinMetadata]:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        with ThinMetadata.open(file.fileno(), "meta", from_snapshot=from_snapshot) as thin:
            yield thin


def mapping_of(thin: ThinMetadata, dev_id: int) -> Mapping:
    return {
        run.thin_block + i: (run.data_block + i, run.time)
        for run in thin.mappings(dev_id)
        for i in range(run.nr_blocks)
    }


def blocks(extents: ExtentSet, size: int) -> set[int]:
    found: set[int] = set()
    for offset, length in extents.pairs():
        assert offset % size == 0
        assert length % size == 0
        found.update(range(offset // size, (offset + length) // size))
    return found


def difference(thin: ThinMetadata, old: int, new: int) -> tuple[set[int], ...]:
    found = thin.difference(old, new)
    size = thin.superblock.block_size_bytes
    return tuple(blocks(extents, size) for extents in (found.added, found.removed, found.changed))


def check(thin: ThinMetadata, model: Model) -> None:
    """Every answer that there is."""
    assert [device.dev_id for device in thin.devices] == sorted(model.devices)
    size = thin.superblock.block_size_bytes
    for dev_id, device in model.devices.items():
        found = thin.device(dev_id)
        assert found.mapped_blocks == len(device.mapping)
        assert found.transaction_id == device.transaction_id
        assert (found.creation_time, found.snapshotted_time) == (
            device.creation_time,
            device.snapshotted_time,
        )
        assert mapping_of(thin, dev_id) == device.mapping
        assert blocks(thin.mappings(dev_id).extents(), size) == device.mapping.keys()
        for other in model.devices:
            assert difference(thin, dev_id, other) == model.difference(dev_id, other)


@st.composite
def mappings(draw: st.DrawFn) -> Mapping:
    """Runs of several lengths, here and there far out."""
    seed = random.Random(draw(st.integers(0, 2**32)))
    mapping: Mapping = {}
    for _ in range(draw(st.integers(0, 6))):
        thin = seed.choice([seed.randrange(40), seed.randrange(1500)])
        data, time = seed.randrange(10**6), seed.randrange(3)
        for i in range(seed.choice([1, 2, 5, 12])):
            mapping[thin + i] = (data + i, time)
    return mapping


@st.composite
def pools(draw: st.DrawFn) -> Model:
    """Devices and snapshots of them that went on."""
    model = Model(
        block_size=draw(st.sampled_from([128, 256, 2**21])),
        time=draw(st.integers(0, 2**24 - 1)),
        trans_id=draw(st.integers(0, 2**63)),
    )
    for dev_id in draw(st.lists(st.integers(0, 2**24 - 1), unique=True, max_size=3)):
        model.devices[dev_id] = Device(
            draw(mappings()), draw(st.integers(0, 99)), 1, 2, draw(st.integers(1, 3))
        )
    for dev_id in draw(st.lists(st.integers(0, 2**24 - 1), unique=True, max_size=3)):
        if model.devices and dev_id not in model.devices:
            origin = model.devices[draw(st.sampled_from(sorted(model.devices)))]
            model.devices[dev_id] = draw(changed(origin))
    return model


@st.composite
def changed(draw: st.DrawFn, origin: Device) -> Device:
    snapshot = copy.deepcopy(origin)
    snapshot.mapping |= draw(mappings()) if draw(st.booleans()) else {}
    keys = sorted(snapshot.mapping)
    for key in draw(st.lists(st.sampled_from(keys), max_size=5)) if keys else []:
        snapshot.mapping.pop(key, None)
    return snapshot


@given(pools(), st.sampled_from([3, 4, 120]))
@settings(max_examples=50, deadline=None)
def test_live(model: Model, fan_out: int) -> None:
    with opened(build(model, fan_out=fan_out)) as thin:
        assert thin.superblock.block_size_bytes == model.block_size * 512
        assert thin.superblock.trans_id == model.trans_id
        assert thin.superblock.time == model.time
        assert not thin.superblock.needs_check
        check(thin, model)


@given(pools(), pools())
@settings(max_examples=25, deadline=None)
def test_snapshot(held: Model, model: Model) -> None:
    """What went on since does not show; the geometry is that of now."""
    held.block_size = model.block_size
    content = build(model, held=held)
    with opened(content, from_snapshot=True) as thin:
        check(thin, held)
    with opened(content) as thin:
        check(thin, model)


def pool(**devices: Mapping) -> Model:
    """Devices ``d1``, ``d2``, …"""
    return Model({int(name[1:]): Device(mapping) for name, mapping in devices.items()})


def ascending(count: int, data: int = 0) -> Mapping:
    return {block: (data + block, 0) for block in range(count)}


def test_no_snapshot() -> None:
    content = build(pool())
    with pytest.raises(WrongStateError, match="snapshot"), opened(content, from_snapshot=True):
        pass


def test_needs_check_is_told() -> None:
    with opened(build(Model(flags=1))) as thin:
        assert thin.superblock.needs_check


def test_runs_are_joined_across_nodes() -> None:
    with opened(build(pool(d1=ascending(500, 7)))) as thin:
        (run,) = thin.mappings(1)
    assert (run.thin_block, run.data_block, run.nr_blocks, run.time) == (0, 7, 500, 0)


def test_another_time_is_no_difference() -> None:
    """The kernel writes no data block that two devices map, whenever it was mapped."""
    model = pool(d1={5: (9, 1)}, d2={5: (9, 2)})
    with opened(build(model)) as thin:
        assert difference(thin, 1, 2) == (set(), set(), set())


def test_no_such_device() -> None:
    with opened(build(pool(d1={}))) as thin:
        for ask in (thin.mappings, lambda dev_id: thin.difference(1, dev_id)):
            with pytest.raises(NotFoundError, match="meta has no thin device 2"):
                ask(2)


@pytest.mark.parametrize("content", [b"", b"x", bytes(BLOCK), b"\xff" * 3 * BLOCK])
def test_no_metadata(content: bytes) -> None:
    with pytest.raises(NotThisFormatError), opened(content):
        pass


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Model(version=0), "version 0, known are 1 to 2"),
        (Model(version=3), "version 3"),
        (Model(incompat_flags=4), "incompatible features 0x4"),
        (Model(block_size=0), "data_block_size 0"),
        (Model(block_size=64), "data_block_size 64"),
        (Model(block_size=129), "data_block_size 129"),
        (Model(block_size=2**21 + 128), "data_block_size"),
        (Model(data_nr_blocks=2**48), "nr_blocks 281474976710656"),
        (Model({2**24: Device()}), "device 16777216"),
    ],
)
def test_bad_superblocks(model: Model, message: str) -> None:
    with pytest.raises(CorruptError, match=message), opened(build(model)):
        pass


def test_cut_off() -> None:
    content = build(pool(d1=ascending(10)), spare=2)
    with pytest.raises(CorruptError, match="metadata_nr_blocks"), opened(content[:-BLOCK]):
        pass


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({0: (2**20, 0)}, "data block 1048576, the data device has 1048576"),
        ({2**47: (0, 0)}, "beyond 2.63 bytes"),
    ],
)
def test_bad_mappings(mapping: Mapping, message: str) -> None:
    content = build(Model({1: Device(mapping), 2: Device({})}), fan_out=120)
    with opened(content) as thin:
        with pytest.raises(CorruptError, match=message):
            thin.mappings(1)
        with pytest.raises(CorruptError, match=message):
            thin.difference(1, 2)
        assert mapping_of(thin, 2) == {}


class Pool:
    """A pool whose blocks are changed one by one, checksums repaired."""

    def __init__(self, model: Model) -> None:
        self.image = SharedImage(3)
        self.model = model
        self.roots = put_pool(self.image, model)

    def rewrite(self, blocknr: int, salt: int, at: int, packed: bytes) -> None:
        body = bytearray(self.image.blocks[blocknr])
        body[at : at + len(packed)] = packed
        self.image.blocks[blocknr] = Image.sealed(salt, bytes(body[4:]))

    def value(self, blocknr: int, index: int) -> int:
        """A value of a node of eight-byte values, whose max_entries is 3."""
        (found,) = struct.unpack_from("<Q", self.image.blocks[blocknr], 56 + 8 * index)
        return int(found)

    def set_value(self, blocknr: int, index: int, value: int) -> None:
        self.rewrite(blocknr, NODE_SALT, 56 + 8 * index, struct.pack("<Q", value))

    def content(self) -> bytes:
        body = superblock(self.model, 0, self.roots, 0, len(self.image.blocks), live=True)
        self.image.blocks[0] = Image.sealed(SUPERBLOCK_SALT, body)
        return b"".join(self.image.blocks)


def fails(content: bytes | bytearray, ask: Callable[[ThinMetadata], object], message: str) -> None:
    with pytest.raises(CorruptError, match=message), opened(content) as thin:
        ask(thin)


def two_devices() -> tuple[Pool, int, int]:
    """Two devices of two levels without a common node; the pool, and their roots."""
    made = Pool(pool(d1=ascending(9), d2=ascending(9, 100)))
    mapping_root = made.roots[0]
    return made, made.value(mapping_root, 0), made.value(mapping_root, 1)


@pytest.mark.parametrize("ask", [lambda thin: thin.mappings(1), lambda thin: thin.difference(1, 2)])
class TestWrongSharing:
    """A block that is reached twice in one device's tree, from anywhere in it."""

    def test_a_node_twice(self, ask: Callable[[ThinMetadata], object]) -> None:
        made, root, _ = two_devices()
        made.set_value(root, 2, made.value(root, 1))
        fails(made.content(), ask, "was reached before")

    def test_a_cycle(self, ask: Callable[[ThinMetadata], object]) -> None:
        made, root, _ = two_devices()
        made.set_value(root, 0, root)
        fails(made.content(), ask, "was reached before")

    def test_a_node_of_the_tree_of_devices(self, ask: Callable[[ThinMetadata], object]) -> None:
        made, _, _ = two_devices()
        made.set_value(made.roots[0], 0, made.roots[0])
        fails(made.content(), ask, "was reached before")

    def test_a_node_of_the_details_tree(self, ask: Callable[[ThinMetadata], object]) -> None:
        made, root, _ = two_devices()
        made.set_value(root, 1, made.roots[1])
        fails(made.content(), ask, "was reached before")

    def test_the_superblock(self, ask: Callable[[ThinMetadata], object]) -> None:
        made, root, _ = two_devices()
        made.set_value(root, 1, 0)
        fails(made.content(), ask, "block 0 ")

    def test_outside(self, ask: Callable[[ThinMetadata], object]) -> None:
        made, root, _ = two_devices()
        made.set_value(root, 1, 10**6)
        fails(made.content(), ask, "block 1000000 ")

    def test_another_devices_node_at_other_keys(
        self, ask: Callable[[ThinMetadata], object]
    ) -> None:
        """Sharing is legal, but not out of place: the node's keys are not those expected."""
        made, root, other = two_devices()
        made.set_value(root, 2, made.value(other, 1))
        fails(made.content(), ask, "range|out of order")


def test_a_bottomless_tree() -> None:
    made, root, _ = two_devices()
    for _ in range(30):
        root = made.image.node(1, 8, [(0, struct.pack("<Q", root))])
    made.set_value(made.roots[0], 0, root)
    fails(made.content(), lambda thin: thin.mappings(1), "deeper than levels: 24")
    fails(made.content(), lambda thin: thin.difference(1, 2), "deeper than levels: 24")
    fails(made.content(), lambda thin: thin.difference(2, 1), "deeper than levels: 24")


def test_leaves_at_several_levels() -> None:
    """Where the lowest keys lie decides what height is expected of all the others."""
    made, root, other = two_devices()
    made.set_value(root, 1, made.image.node(1, 8, [(3, struct.pack("<Q", made.value(root, 1)))]))
    fails(made.content(), lambda thin: thin.mappings(1), "a leaf among internal nodes")
    fails(made.content(), lambda thin: thin.difference(1, 2), "a leaf among internal nodes")
    for shared in (0, 2):
        made.set_value(other, shared, made.value(root, shared))
    fails(made.content(), lambda thin: thin.difference(1, 2), "leaves at several levels")


def test_trees_of_different_heights() -> None:
    """The root was split after the two parted: shared leaves lie at different depths."""
    model = pool(d1=ascending(9), d2=ascending(200))
    with opened(build(model)) as thin:
        assert difference(thin, 1, 2) == (set(range(9, 200)), set(), set())
        assert difference(thin, 2, 1) == (set(), set(range(9, 200)), set())


def shared_leaf() -> tuple[bytearray, int]:
    """Two devices that differ in their last blocks; and a leaf that both have."""
    model = pool(d1=ascending(200), d2=ascending(200) | {199: (999, 0)})
    content = build(model)
    with opened(content) as thin:
        for blocknr in range(1, len(content) // BLOCK):
            flags, _, nr, _, size = struct.unpack_from("<4xIQIII", content, blocknr * BLOCK)
            keys = struct.unpack_from("<3Q", content, blocknr * BLOCK + 32)
            if (flags, size, nr) == (2, 8, 3) and keys == (90, 91, 92):
                assert thin.difference(1, 2)
                return content, blocknr
    raise AssertionError("the model shares nothing")


def test_what_is_shared_is_not_read() -> None:
    """A subtree that both have may be full of rubbish: only reading a device finds it."""
    content, blocknr = shared_leaf()
    content[blocknr * BLOCK + 1000] ^= 1
    with opened(content) as thin:
        assert difference(thin, 1, 2) == (set(), set(), {199})
        for dev_id in (1, 2):
            with pytest.raises(CorruptError, match=f"block {blocknr}: checksum"):
                thin.mappings(dev_id)


def test_details_must_agree() -> None:
    made = Pool(pool(d1=ascending(5)))
    made.rewrite(made.roots[1], NODE_SALT, 56, struct.pack("<Q", 6))
    fails(made.content(), lambda thin: thin.mappings(1), "maps 5 blocks, its details say 6")


def test_a_device_without_details_or_tree() -> None:
    made = Pool(pool(d1={}, d2={}))
    made.rewrite(made.roots[1], NODE_SALT, 40, struct.pack("<Q", 3))
    fails(made.content(), lambda thin: thin.devices, "device 2 has no details")
    made = Pool(pool(d1={}, d2={}))
    made.rewrite(made.roots[0], NODE_SALT, 16, struct.pack("<I", 1))
    fails(made.content(), lambda thin: thin.devices, "device 2 is missing")
    made = Pool(pool(d1={}))
    made.set_value(made.roots[0], 0, 0)
    fails(made.content(), lambda thin: thin.devices, "block 0 as its root")


@pytest.mark.parametrize("from_snapshot", [False, True])
def test_metadata_that_changes_is_refused(from_snapshot: bool) -> None:
    """A metadata snapshot stays while the pool goes on; anything else does not."""
    first, second = pool(d1=ascending(9)), pool(d1=ascending(10))
    with tempfile.TemporaryFile() as file:
        file.write(build(first, held=first))
        file.flush()
        with ThinMetadata.open(file.fileno(), "meta", from_snapshot=from_snapshot) as thin:
            assert mapping_of(thin, 1) == first.devices[1].mapping
            file.seek(0)
            file.write(build(second, held=first)[:BLOCK])
            file.flush()
            if from_snapshot:
                assert mapping_of(thin, 1) == first.devices[1].mapping
                file.seek(0)
                file.write(build(second)[:BLOCK])
                file.flush()
            with pytest.raises(WrongStateError, match="while it was read"):
                thin.mappings(1)
            with pytest.raises(WrongStateError, match="while it was read"):
                thin.difference(1, 1)


@given(pools(), st.data())
@settings(max_examples=40, deadline=None)
def test_truncated(model: Model, data: st.DataObject) -> None:
    content = build(model, spare=0)
    size = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(CorruptError), opened(content[:size]) as thin:
        check(thin, model)


def read_all(thin: ThinMetadata) -> None:
    for device in thin.devices:
        thin.mappings(device.dev_id)


@given(pools(), st.data())
@settings(max_examples=60, deadline=None)
def test_flipped_bit(model: Model, data: st.DataObject) -> None:
    content = build(model, spare=0)
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CorruptError), opened(content) as thin:
        read_all(thin)


@given(pools(), st.data())
@settings(max_examples=80, deadline=None)
def test_repaired_checksums(model: Model, data: st.DataObject) -> None:
    """Whatever a block says, the answer is an error or makes sense."""
    content = build(model, spare=0)
    blocknr = data.draw(st.integers(1, len(content) // BLOCK - 1))
    body = bytearray(content[blocknr * BLOCK + 4 : (blocknr + 1) * BLOCK])
    at = data.draw(st.integers(0, 16)) * 4
    value = data.draw(st.sampled_from([0, 1, 2, 3, 2**31, 2**32 - 1]) | st.integers(0, 30))
    body[at : at + 4] = struct.pack("<I", value)
    content[blocknr * BLOCK : (blocknr + 1) * BLOCK] = Image.sealed(NODE_SALT, bytes(body))
    try:
        with opened(content) as thin:
            for device in thin.devices:
                assert len(mapping_of(thin, device.dev_id)) == device.mapped_blocks
            for device in thin.devices:
                difference(thin, thin.devices[0].dev_id, device.dev_id)
    except CorruptError:
        pass


def test_not_a_descriptor() -> None:
    with pytest.raises(OperatingSystemError, match="Bad file descriptor"):
        ThinMetadata.open(10**6, "meta")


def test_closed() -> None:
    with opened(build(pool(d1={}))) as thin:
        pass
    with pytest.raises(ValueError, match="closed"):
        thin.mappings(1)
