"""Exception stores between us and the kernel: it shows what we wrote, we read what it wrote."""

import mmap
import os
import random
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from conftest import MIB, Lab, dmsnap, run, sha256, wait_until

from dmsnap._native import copy, exception_store
from dmsnap._native.copy import UndoStore
from dmsnap._native.exception_store import ExceptionStore
from dmsnap._native.extent_set import ExtentSet
from dmsnap.extent import Extent

PAGE = 4096
STORE = 16 * MIB


class Devices:
    """Loop devices and dm devices of one scenario; dm devices go when it ends, newest first."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._names: list[str] = []

    def disk(self, size_bytes: int) -> Path:
        return Path(self._lab.disk(size_bytes))

    def create(self, table: str, *options: str) -> Path:
        name = f"store-{uuid4().hex[:8]}"
        run("dmsetup", "create", name, "--uuid", f"DMSNAP-test-{name}", "--table", table, *options)
        run("dmsetup", "mknodes")
        self._names.append(name)
        return Path("/dev/mapper") / name

    def snapshot(self, origin: Path, store: Path, chunk_size: int) -> Path:
        return self.create(f"0 {sectors(origin)} snapshot {origin} {store} P {chunk_size}")

    def remove(self, path: Path) -> None:
        run("dmsetup", "remove", path.name)
        self._names.remove(path.name)

    def close(self) -> None:
        for name in reversed(self._names):
            run("dmsetup", "remove", "--retry", name)


@pytest.fixture
def devices(lab: Lab) -> Iterator[Devices]:
    opened = Devices(lab)
    try:
        yield opened
    finally:
        opened.close()


def chance(seed: int) -> random.Random:
    return random.Random(seed)


def sectors(path: Path) -> int:
    return int(run("blockdev", "--getsz", path))


def write(path: Path, offset_bytes: int, data: bytes) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        assert os.pwrite(fd, data, offset_bytes) == len(data)
        os.fsync(fd)
    finally:
        os.close(fd)


def change_pages(path: Path, pages: list[int], size_bytes: int) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        for page in pages:
            data = os.urandom(min(PAGE, size_bytes - page * PAGE))
            assert os.pwrite(fd, data, page * PAGE) == len(data)
        os.fsync(fd)
    finally:
        os.close(fd)


def keep_and_apply(
    new: Path, replica: Path, store: Path, chunk_size: int, size_bytes: int, length_bytes: int
) -> int:
    """What a sync does: undo store, then the new content. The number of exceptions."""
    fds = [os.open(path, os.O_RDWR | os.O_DIRECT) for path in (new, replica, store)]
    try:
        whole = ExtentSet.from_extents([Extent(0, size_bytes)])
        _, different, undo = copy.compare(
            fds[0], fds[1], size_bytes, whole,
            undo=UndoStore(fds[2], 0, length_bytes, chunk_size), name="test",
        )  # fmt: skip
        copy.apply(fds[0], fds[1], size_bytes, different, name="test")
    finally:
        for fd in fds:
            os.close(fd)
    assert undo is not None
    return undo.nr_exceptions


@pytest.mark.parametrize(
    ("chunk_size", "nr_pages"),
    [
        *((8, nr_pages) for nr_pages in (0, 1, 255, 256, 257, 512, 2000)),
        *((16, 512), (32, 300), (128, 40), (2048, 5)),
    ],
)
def test_the_kernel_shows_what_we_kept(devices: Devices, chunk_size: int, nr_pages: int) -> None:
    """The store's device is exactly as large as the store: the kernel must not read behind it.

    The volume ends inside a page. Pages are a chunk apart, so that each has one of its own.
    """
    size = 9 * MIB + 7 * 512
    step = chunk_size * 512 // PAGE
    new, replica = devices.disk(size), devices.disk(size)
    change_pages(replica, [0, 5, size // PAGE], size)
    run("dd", f"if={replica}", f"of={new}", "bs=1M", "status=none", "conv=fsync")
    chunks = size // (chunk_size * 512) + 1
    chosen = chance(nr_pages).sample(range(chunks), nr_pages)
    change_pages(new, [chunk * step for chunk in chosen], size)
    old_sum, new_sum = sha256(replica), sha256(new)
    exact = exception_store.size_bytes(nr_pages, chunk_size * 512)
    store = devices.disk(exact)

    assert keep_and_apply(new, replica, store, chunk_size, size, exact) == nr_pages
    assert sha256(replica) == new_sum
    snapshot = devices.snapshot(replica, store, chunk_size)
    assert sha256(snapshot) == old_sum
    used, metadata = usage(snapshot)
    assert metadata == (nr_pages // (chunk_size * 32) + 2) * chunk_size
    assert used >= metadata + nr_pages * chunk_size


def usage(device: Path) -> tuple[int, int]:
    """Sectors allocated in the store, and those of them that are metadata."""
    words = run("dmsetup", "status", device.name).split()
    assert "/" in words[3], words
    return int(words[3].split("/")[0]), int(words[4])


@pytest.mark.selection
def test_two_stores_stacked_and_merged(devices: Devices) -> None:
    """Both earlier contents, then the way back for good by the kernel's snapshot-merge."""
    size = 9 * MIB
    new, replica = devices.disk(size), devices.disk(size)
    sums = [sha256(replica)]
    stores = []
    for seed in range(2):
        change_pages(new, chance(seed).sample(range(size // PAGE), 600), size)
        write(new, 5 * MIB, os.urandom(2 * MIB))
        store = devices.disk(STORE)
        keep_and_apply(new, replica, store, 8, size, STORE)
        stores.append(store)
        sums.append(sha256(replica))
    assert sums[2] == sha256(new)

    upper = devices.snapshot(replica, stores[1], 8)
    lower = devices.snapshot(upper, stores[0], 8)
    assert sha256(upper) == sums[1]
    assert sha256(lower) == sums[0]
    devices.remove(lower)
    devices.remove(upper)

    for step, store in ((1, stores[1]), (0, stores[0])):
        merge(devices, replica, store, 8)
        assert sha256(replica) == sums[step]


@pytest.mark.parametrize(
    ("chunk_size", "nr_pages"), [(8, 256), (8, 700), (16, 512), (64, 40), (512, 9), (2048, 5)]
)
def test_the_kernel_merges_full_stores(devices: Devices, chunk_size: int, nr_pages: int) -> None:
    """The store fills its device to the last chunk; 256 and 512 fill their areas as well."""
    size = 9 * MIB
    step = chunk_size * 512 // PAGE
    new, replica = devices.disk(size), devices.disk(size)
    change_pages(replica, [0, 1, size // PAGE - 1], size)
    run("dd", f"if={replica}", f"of={new}", "bs=1M", "status=none", "conv=fsync")
    before = sha256(replica)
    chosen = chance(nr_pages).sample(range(size // PAGE // step), nr_pages)
    change_pages(new, [chunk * step for chunk in chosen], size)
    exact = exception_store.size_bytes(nr_pages, chunk_size * 512)
    store = devices.disk(exact)
    assert keep_and_apply(new, replica, store, chunk_size, size, exact) == nr_pages
    assert sha256(replica) != before
    merge(devices, replica, store, chunk_size)
    assert sha256(replica) == before


def merge(devices: Devices, replica: Path, store: Path, chunk_size: int) -> None:
    """By the kernel's snapshot-merge, to the end."""
    table = f"0 {sectors(replica)} snapshot-merge {replica} {store} P {chunk_size}"
    device = devices.create(table)

    def is_merged() -> bool:
        used, metadata = usage(device)
        return used == metadata

    # There is an event when a merge fails, and none when it is done (dm-snap.c).
    wait_until(f"{device} is merged", is_merged, 240)
    devices.remove(device)


@pytest.mark.parametrize("chunk_size", [8, 64, 2048])
def test_data_is_never_read(devices: Devices, chunk_size: int) -> None:
    """A store whose every data chunk is a bad sector: all that is asked for lies elsewhere."""
    size, nr_pages = 9 * MIB, 5 if chunk_size == 2048 else 40 if chunk_size == 64 else 600
    step = chunk_size * 512 // PAGE
    new, replica = devices.disk(size), devices.disk(size)
    chosen = sorted(chance(1).sample(range(size // PAGE // step), nr_pages))
    change_pages(new, [chunk * step for chunk in chosen], size)
    exact = exception_store.size_bytes(nr_pages, chunk_size * 512)
    store = devices.disk(exact)
    keep_and_apply(new, replica, store, chunk_size, size, exact)
    bad = devices.create(table_without_data(store, chunk_size, exact))
    run("dd", f"if={bad}", "of=/dev/null", f"bs={chunk_size * 512}", "skip=2", "count=1",
        "iflag=direct", expected=1)  # fmt: skip
    found = dmsnap("inspect", "store", bad)
    assert found["exceptions"] == nr_pages
    assert sum(length for _, length in found["extents"]) == nr_pages * chunk_size * 512
    assert {offset // (chunk_size * 512) for offset, _ in found["extents"]} <= set(chosen)


def table_without_data(store: Path, chunk_size: int, length_bytes: int) -> str:
    """A table in which header and areas are what they are, and all else is an error."""
    lines = [f"0 {chunk_size} linear {store} 0"]
    chunk, chunks = 1, length_bytes // 512 // chunk_size
    pairs = chunk_size * 512 // 16
    while chunk < chunks:
        at = chunk * chunk_size
        lines.append(f"{at} {chunk_size} linear {store} {at}")
        nr_data = min(pairs, chunks - chunk - 1)
        if nr_data:
            lines.append(f"{at + chunk_size} {nr_data * chunk_size} error")
        chunk += pairs + 1
    return "\n".join(lines)


@pytest.mark.parametrize("chunk_size", [8, 2048])
def test_a_chunk_at_the_end_of_an_exbibyte(devices: Devices, chunk_size: int) -> None:
    """Chunk numbers as large as the kernel makes them, on an origin of 4 EiB that needs no room."""
    origin_sectors = 1 << 53
    origin = devices.create(f"0 {origin_sectors} zero")
    cow = devices.disk(STORE)
    snapshot = devices.create(f"0 {origin_sectors} snapshot {origin} {cow} P {chunk_size}")
    last = origin_sectors * 512 - chunk_size * 512
    fd = os.open(snapshot, os.O_WRONLY | os.O_DIRECT)
    try:
        data = mmap.mmap(-1, PAGE)
        assert os.pwrite(fd, data, last) == PAGE
    finally:
        os.close(fd)
    devices.remove(snapshot)
    assert dmsnap("inspect", "store", cow)["extents"] == [[last, chunk_size * 512]]


def test_we_roll_back_what_we_kept(devices: Devices) -> None:
    size = 9 * MIB + 7 * 512
    new, replica, store = devices.disk(size), devices.disk(size + MIB), devices.disk(STORE)
    before = sha256(replica)
    write(new, 3 * MIB, os.urandom(MIB + 12345))
    write(new, size - 100, os.urandom(100))
    keep_and_apply(new, replica, store, 16, size, STORE)
    assert sha256(replica, size) == sha256(new)
    fds = [os.open(path, os.O_RDWR | os.O_DIRECT) for path in (store, replica)]
    try:
        copy.roll_back(fds[0], 0, STORE, fds[1], size, name="test")
    finally:
        for fd in fds:
            os.close(fd)
    assert sha256(replica) == before


@pytest.mark.parametrize("chunk_size", [8, 64])
def test_we_read_what_the_kernel_wrote(devices: Devices, chunk_size: int) -> None:
    """A kernel's store under writes of all sizes: its extents, and our way back from it."""
    size = 9 * MIB
    volume, cow = devices.disk(size), devices.disk(STORE)
    write(volume, 0, os.urandom(size))
    before = sha256(volume)
    # The snapshot first: the origin's resume behind it sets the size that writes are split at.
    snapshot = devices.snapshot(volume, cow, chunk_size)
    origin = devices.create(f"0 {size // 512} snapshot-origin {volume}")
    written = ExtentSet()
    dice = chance(chunk_size)
    for _ in range(150):
        length = dice.choice([512, PAGE, 20 * 1024, 300 * 1024])
        offset = dice.randrange(0, (size - length) // 512) * 512
        write(origin, offset, os.urandom(length))
        written.add(offset, length)
    assert sha256(snapshot) == before
    devices.remove(origin)
    devices.remove(snapshot)

    # Buffered writes of less than a page reach the device as whole pages.
    written.align(max(chunk_size * 512, PAGE))
    fds = [os.open(path, os.O_RDWR | os.O_DIRECT) for path in (cow, volume)]
    try:
        with ExceptionStore.open(fds[0], 0, STORE, "the kernel's store") as store:
            assert store.header.valid
            assert store.header.chunk_size == chunk_size
            assert store.extents() == written
        copy.roll_back(fds[0], 0, STORE, fds[1], size, name="test")
    finally:
        for fd in fds:
            os.close(fd)
    assert sha256(volume) == before


def test_the_kernel_refuses_an_unfinished_store(devices: Devices) -> None:
    """A zeroed header would do as an empty store, and show the replica unchanged."""
    size = 4 * MIB
    new, replica = devices.disk(size), devices.disk(size)
    store = devices.disk(8 * PAGE)
    write(new, 0, os.urandom(size))
    with pytest.raises(Exception, match="the exception store is full"):
        keep_and_apply(new, replica, store, 8, size, 8 * PAGE)
    with pytest.raises(AssertionError, match="reload ioctl"):
        devices.snapshot(replica, store, 8)
