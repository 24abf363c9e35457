"""Exception stores between us and the kernel: it shows what we wrote, we read what it wrote."""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from conftest import MIB, Lab, run, sha256

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
        merge = devices.create(f"0 {size // 512} snapshot-merge {replica} {store} P 8")
        event = 0
        while (used := usage(merge))[0] != used[1]:
            event += 1
            run("dmsetup", "wait", merge.name, event, timeout=60)
        devices.remove(merge)
        assert sha256(replica) == sums[step]


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
