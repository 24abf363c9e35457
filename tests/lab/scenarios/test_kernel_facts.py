"""What dmsnap takes for granted about the kernel, shown with losetup, dmsetup and bare calls alone.

Each fact was measured on every kernel of the lab; one on which a test here fails behaves otherwise,
and the code that leans on that fact has to be looked at.
"""

import contextlib
import errno
import os
import re
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest
from clock_discipline import STA_UNSYNC, set_status, synchronised
from conftest import MIB, SCRATCH, run, sha256, wait_until

from dmsnap.errors import DmsnapError
from dmsnap.host import kernel, mount, mount_tree, synchronisation
from dmsnap.host.mountinfo import mount_at, mounts

pytestmark = pytest.mark.selection

SECTOR_BYTES = 512
SIZE_BYTES = 64 * MIB
SIZE_SECTORS = SIZE_BYTES // SECTOR_BYTES
BLOCK_BYTES = 64 * 1024
CHUNK_BYTES = 4096
WRITTEN_BYTES = 6 * MIB  # little: emulated processors are slow at noise and digests
CHUNK_SECTORS = CHUNK_BYTES // SECTOR_BYTES
SNAP_MAGIC = 0x70416E53

TARGETS = {
    "era": "dm-era",
    "snapshot": "dm-snapshot",
    "snapshot-origin": "dm-snapshot",
    "snapshot-merge": "dm-snapshot",
    "mirror": "dm-mirror",
    "thin-pool": "dm-thin-pool",
    "flakey": "dm-flakey",
    "log-writes": "dm-log-writes",
    "zero": "dm-zero",
    "linear": "dm-mod",
    "error": "dm-mod",
}


@dataclass
class Bench:
    """Loop devices and dm devices of one test, taken down in reverse."""

    directory: Path
    loops: list[str] = field(default_factory=list)
    devices: list[str] = field(default_factory=list)

    def disk(self, size_bytes: int = SIZE_BYTES) -> str:
        """Return a loop device over a sparse file."""
        image = self.directory / f"disk-{len(self.loops)}"
        with image.open("wb") as file:
            file.truncate(size_bytes)
        loop = run("losetup", "--find", "--show", "--direct-io=on", image).strip()
        self.loops.append(loop)
        return loop

    def device(self, table: str) -> str:
        """Create a dm device of one target and return its name."""
        name = f"fact-{uuid4().hex[:8]}"
        run("dmsetup", "create", name, "--table", table)
        self.devices.append(name)
        return name

    def era(self) -> tuple[str, str]:
        """Return an era device's name and its metadata device."""
        metadata = self.disk(4 * MIB)
        blocks = f"{metadata} {self.disk()} {BLOCK_BYTES // SECTOR_BYTES}"
        return self.device(f"0 {SIZE_SECTORS} era {blocks}"), metadata

    def remove(self, name: str) -> None:
        """Remove a dm device."""
        run("dmsetup", "remove", "--retry", name)
        self.devices.remove(name)

    def close(self) -> None:
        """Take everything down, also after a failure half-way."""
        for name in reversed(self.devices):
            for words in (("resume", name), ("remove", "--retry", name)):
                subprocess.run(["dmsetup", *words], capture_output=True, check=False, timeout=60)
        for loop in self.loops:
            subprocess.run(["losetup", "--detach", loop], capture_output=True, check=False)
        run("rm", "-r", self.directory)


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Return an empty bench."""
    run("modprobe", "-a", "loop", *sorted(set(TARGETS.values())))
    directory = SCRATCH / f"facts-{uuid4().hex[:8]}"
    directory.mkdir()
    found = Bench(directory)
    with contextlib.closing(found):
        yield found


def node(name: str) -> str:
    """Return the device node of a dm device."""
    return f"/dev/mapper/{name}"


def status(name: str) -> list[str]:
    """Return the words of a dm device's status, from the target's name on."""
    return run("dmsetup", "status", name).split()[2:]


def era_of(name: str) -> int:
    """Return an era device's current era: the third word of its status line."""
    return int(status(name)[3])


def held_root(name: str) -> str:
    """Return the block of an era device's metadata snapshot, or "-"."""
    return status(name)[4]


def queue_limit(name: str, limit: str) -> Path:
    """Return the sysfs file of a dm device's queue limit."""
    number = Path(node(name)).stat().st_rdev
    return Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/queue/{limit}")


def write(device: str, offset_bytes: int, length_bytes: int, piece_bytes: int) -> None:
    """Write noise past the page cache, in pieces of `piece_bytes`."""
    offset, count = offset_bytes // piece_bytes, length_bytes // piece_bytes
    where = (f"seek={offset}", f"count={count}", f"bs={piece_bytes}")
    flags = ("oflag=direct", "conv=notrunc", "status=none", "iflag=fullblock")
    run("dd", "if=/dev/urandom", f"of={device}", *where, *flags)


def roll(name: str, *options: str) -> None:
    """Suspend and resume a dm device."""
    run("dmsetup", "suspend", *options, name)
    run("dmsetup", "resume", name)


def blocks_since(metadata: str, era: int) -> set[int]:
    """Return the blocks that thin-provisioning-tools say were written since an era."""
    xml = run("era_invalidate", "--written-since", era, metadata)
    ranges = re.findall(r'<range begin="(\d+)" end\s*=\s*"(\d+)"', xml)
    single = {int(block) for block in re.findall(r'<block block="(\d+)"', xml)}
    return single | {block for begin, end in ranges for block in range(int(begin), int(end))}


@pytest.mark.parametrize(("target", "module"), TARGETS.items())
def test_the_kernel_has_the_target(target: str, module: str) -> None:
    run("modprobe", module)
    assert target in [line.split()[0] for line in run("dmsetup", "targets").splitlines()]


def test_dm_clone_is_not_in_stock_kernels() -> None:
    stock = os.environ["LAB_KERNEL"].startswith("deb")
    run("modprobe", "dm-clone", expected=1 if stock else 0)


@pytest.mark.parametrize("options", [(), ("--noflush",), ("--nolockfs",)])
def test_suspend_and_resume_roll_the_era_by_one(bench: Bench, options: tuple[str, ...]) -> None:
    era, _metadata = bench.era()
    before = era_of(era)
    roll(era, *options)
    assert era_of(era) == before + 1


def test_a_metadata_snapshot_shows_its_root_and_rolls_the_era(bench: Bench) -> None:
    era, _metadata = bench.era()
    before = era_of(era)
    assert held_root(era) == "-"
    run("dmsetup", "message", era, "0", "take_metadata_snap")
    assert int(held_root(era)) > 0
    assert era_of(era) == before + 1
    run("dmsetup", "message", era, "0", "drop_metadata_snap")
    assert held_root(era) == "-"


def test_the_status_of_a_suspended_era_device_waits_for_its_resume(bench: Bench) -> None:
    era, _metadata = bench.era()
    run("dmsetup", "suspend", era)
    with subprocess.Popen(["dmsetup", "status", era], stdout=subprocess.DEVNULL) as asking:
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                asking.wait(2)
        finally:
            run("dmsetup", "resume", era)
        assert asking.wait(120) == 0


def test_without_room_for_a_writeset_an_era_device_stays_suspended(bench: Bench) -> None:
    """Each resume makes one, of a bit a block (era_preresume): without room nobody can resume it.

    A metadata snapshot keeps the old era array, of 1018 blocks to a metadata block; for another
    there is no room. So the writesets cannot be digested, and their number rises.
    """
    nr_blocks, metadata = 126 * 1018, bench.disk(MIB)
    data = bench.disk(nr_blocks * 4096)
    era = bench.device(f"0 {nr_blocks * 8} era {metadata} {data} 8")
    run("dmsetup", "message", era, "0", "take_metadata_snap")
    descriptor = os.open(node(era), os.O_WRONLY)
    for number in range(126):
        os.pwrite(descriptor, b"x" * 4096, number * 1018 * 4096)
    os.fsync(descriptor)
    os.close(descriptor)
    refused = None
    for _ in range(100):
        run("dmsetup", "suspend", era)
        refused = subprocess.run(
            ["dmsetup", "resume", era], capture_output=True, text=True, check=False
        )
        if refused.returncode:
            break
    assert refused is not None
    assert "No space left on device" in refused.stderr
    assert (
        run("dmsetup", "info", "-C", "--noheadings", "-o", "suspended", era).strip() == "Suspended"
    )
    run("dmsetup", "resume", era, expected=1)


def test_an_era_device_takes_zeroing_as_writes(bench: Bench) -> None:
    era, metadata = bench.era()
    assert queue_limit(era, "write_zeroes_max_bytes").read_text().strip() == "0"
    since = era_of(era)
    length = str(10 * BLOCK_BYTES)
    run(
        "blkdiscard",
        "--force",
        "--zeroout",
        "--offset",
        str(BLOCK_BYTES),
        "--length",
        length,
        node(era),
    )
    bench.remove(era)
    assert blocks_since(metadata, since) == set(range(1, 11))


def test_every_block_of_a_large_write_is_marked(bench: Bench) -> None:
    era, metadata = bench.era()
    begin = era_of(era)
    write(node(era), 0, 8 * MIB, MIB)
    roll(era)
    since = era_of(era)
    write(node(era), 16 * MIB, 4 * MIB, 4 * MIB)
    bench.remove(era)
    later = set(range(16 * MIB // BLOCK_BYTES, 20 * MIB // BLOCK_BYTES))
    assert blocks_since(metadata, since) == later
    assert blocks_since(metadata, begin) == later | set(range(8 * MIB // BLOCK_BYTES))


def discarded(bench: Bench, offset_bytes: int, length_bytes: int, limit_bytes: int) -> set[int]:
    """Return the blocks that a discard marks, cut by the queue limit if that is not zero."""
    era, metadata = bench.era()
    since = era_of(era)
    if limit_bytes:
        queue_limit(era, "discard_max_bytes").write_text(f"{limit_bytes}\n")
    where = ("--offset", str(offset_bytes), "--length", str(length_bytes))
    run("blkdiscard", *where, node(era))
    bench.remove(era)
    return blocks_since(metadata, since)


def test_a_large_discard_marks_only_its_first_block(bench: Bench) -> None:
    first = MIB // BLOCK_BYTES
    assert discarded(bench, MIB, 32 * MIB, 0) == {first}


def test_discards_cut_to_the_granularity_mark_every_block(bench: Bench) -> None:
    assert discarded(bench, MIB, 2 * MIB, 4096) == set(range(16, 48))


def test_unaligned_discards_cut_to_the_block_miss_the_last(bench: Bench) -> None:
    offset = MIB + BLOCK_BYTES // 2
    assert discarded(bench, offset, 2 * MIB, BLOCK_BYTES) == set(range(16, 48))  # 48 is the miss


@pytest.mark.parametrize("kind", ["snapshot-origin", "snapshot", "snapshot-merge"])
def test_over_an_origin_or_a_snapshot_nobody_can_turn_discards_on(bench: Bench, kind: str) -> None:
    """What dmsnap has dm-era lie on takes none, and so dm-era does not: whatever somebody asks for,
    and whoever died before they were turned off.
    """
    disk, sectors = bench.disk(), BLOCK_BYTES // SECTOR_BYTES
    assert int(Path(f"/sys/block/{Path(disk).name}/queue/discard_max_hw_bytes").read_text()) > 0
    store = "" if kind == "snapshot-origin" else f" {bench.disk()} P {CHUNK_SECTORS}"
    origin = bench.device(f"0 {SIZE_SECTORS} {kind} {disk}{store}")
    metadata = bench.disk(4 * MIB)
    era = bench.device(f"0 {SIZE_SECTORS} era {metadata} {node(origin)} {sectors}")
    assert queue_limit(era, "discard_max_hw_bytes").read_text() == "0\n"
    with contextlib.suppress(OSError):
        queue_limit(era, "discard_max_bytes").write_text(f"{BLOCK_BYTES}\n")
    assert queue_limit(era, "discard_max_bytes").read_text() == "0\n"
    assert subprocess.run(["blkdiscard", node(era)], capture_output=True, check=False).returncode


def snapshot_table(origin: str, store: str, kind: str = "P") -> str:
    """Return the table of a snapshot of a whole disk."""
    return f"0 {SIZE_SECTORS} snapshot {origin} {store} {kind} {CHUNK_SECTORS}"


def snapshot_under_writes(bench: Bench, *, resume_origin: bool) -> tuple[str, str, str]:
    """Take a snapshot and write 4 MiB in pieces of 64 chunks.

    Return the digests of the origin before and of the snapshot after it, and the store.
    """
    disk, store = bench.disk(), bench.disk(16 * MIB)
    write(disk, 0, WRITTEN_BYTES, MIB)
    origin = bench.device(f"0 {SIZE_SECTORS} snapshot-origin {disk}")
    before = sha256(node(origin), WRITTEN_BYTES)
    if resume_origin:
        name = bench.device(f"0 {SIZE_SECTORS} error")
        run("dmsetup", "load", name, "--table", snapshot_table(disk, store))
        run("dmsetup", "suspend", "--nolockfs", origin)
        roll(name)
        run("dmsetup", "resume", origin)
    else:
        name = bench.device(snapshot_table(disk, store))
    write(node(origin), MIB, 4 * MIB, 64 * CHUNK_BYTES)
    after = sha256(node(name), WRITTEN_BYTES)
    bench.remove(name)
    return before, after, store


def exceptions(store: str) -> list[tuple[int, int]]:
    """Read a persistent exception store's pairs (old chunk, new chunk), areas in their order."""
    with open(store, "rb") as file:
        magic, valid, version, chunk_sectors = struct.unpack("<4I", file.read(16))
        assert (magic, valid, version) == (SNAP_MAGIC, 1, 1)
        chunk_bytes = chunk_sectors * SECTOR_BYTES
        per_area = chunk_bytes // 16
        found: list[tuple[int, int]] = []
        for area in range(1 << 16):
            file.seek((1 + area * (per_area + 1)) * chunk_bytes)
            pairs = list(struct.iter_unpack("<2Q", file.read(chunk_bytes)))
            used = [pair for pair in pairs if pair[1]]
            found += [(old, new) for old, new in used]
            if len(used) < per_area:
                return found
    raise AssertionError("the store has no end")


def test_a_snapshot_keeps_every_chunk_of_large_writes(bench: Bench) -> None:
    before, after, _store = snapshot_under_writes(bench, resume_origin=True)
    assert after == before


def test_without_a_resume_of_the_origin_a_snapshot_loses_chunks(bench: Bench) -> None:
    before, after, store = snapshot_under_writes(bench, resume_origin=False)
    assert after != before
    written = 4 * MIB // CHUNK_BYTES
    assert len(exceptions(store)) < written // 8  # not many more than one of each write of 64


def test_the_layout_of_the_persistent_store(bench: Bench) -> None:
    _before, _after, store = snapshot_under_writes(bench, resume_origin=True)
    first = MIB // CHUNK_BYTES
    pairs = exceptions(store)
    assert {old for old, _new in pairs} == set(range(first, first + 4 * MIB // CHUNK_BYTES))
    areas = {1 + area * (CHUNK_BYTES // 16 + 1) for area in range(16)}
    places = [new for _old, new in pairs]
    assert len(set(places)) == len(places)
    assert min(places) == 2
    assert not areas & set(places)


def test_a_store_written_by_user_space_is_accepted(bench: Bench) -> None:
    disk, store = bench.disk(), bench.disk(MIB)
    kept = os.urandom(CHUNK_BYTES)
    with open(store, "r+b") as file:
        file.write(struct.pack("<4I", SNAP_MAGIC, 1, 1, CHUNK_SECTORS).ljust(CHUNK_BYTES, b"\0"))
        file.write(struct.pack("<2Q", 7, 2).ljust(CHUNK_BYTES, b"\0"))
        file.write(kept)
        os.fsync(file.fileno())
    snapshot = bench.device(snapshot_table(disk, store))
    with open(node(snapshot), "rb") as file:
        file.seek(6 * CHUNK_BYTES)
        assert file.read(3 * CHUNK_BYTES) == bytes(CHUNK_BYTES) + kept + bytes(CHUNK_BYTES)


@pytest.mark.parametrize("kind", ["P", "PO"])
def test_a_store_that_the_origin_fills_ends_the_snapshot_for_good(bench: Bench, kind: str) -> None:
    disk, store = bench.disk(), bench.disk(256 * 1024)
    origin = bench.device(f"0 {SIZE_SECTORS} snapshot-origin {disk}")
    snapshot = bench.device(snapshot_table(disk, store, kind))
    roll(origin)
    write(node(origin), 0, MIB, 64 * 1024)
    assert status(snapshot)[1] == "Invalid"
    with open(node(snapshot), "rb", buffering=0) as file, pytest.raises(OSError, match="Errno 5"):
        file.read(CHUNK_BYTES)


def test_a_store_that_the_snapshot_fills_reports_overflow(bench: Bench) -> None:
    disk, store = bench.disk(), bench.disk(256 * 1024)
    snapshot = bench.device(snapshot_table(disk, store, "PO"))
    words = ("if=/dev/zero", f"of={node(snapshot)}", "bs=1M", "count=1", "oflag=direct")
    run("dd", *words, expected=1)
    assert status(snapshot)[1] == "Overflow"
    with open(node(snapshot), "rb", buffering=0) as file:
        assert len(file.read(CHUNK_BYTES)) == CHUNK_BYTES


def sectors_written(device: str) -> int:
    """Return the kernel's count of a device's written and discarded sectors."""
    number = Path(device).stat().st_rdev
    path = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat")
    fields = path.read_text().split()
    return int(fields[6]) + int(fields[13])


def test_a_stack_and_the_device_below_count_the_same_writes(bench: Bench) -> None:
    """At rest, sector for sector, with a live snapshot, too; what goes past the stack is extra."""
    disk, store = bench.disk(), bench.disk(16 * MIB)
    origin = bench.device(f"0 {SIZE_SECTORS} snapshot-origin {disk}")
    begun = sectors_written(disk)
    write(node(origin), 0, MIB, 4096)
    bench.device(snapshot_table(disk, store))
    roll(origin)
    write(node(origin), 0, 2 * MIB, MIB)
    with open(node(origin), "r+b") as file:
        file.write(os.urandom(12345))
        os.fsync(file.fileno())
    assert sectors_written(disk) - begun == sectors_written(node(origin))
    write(disk, 4 * MIB, 8192, 8192)
    assert sectors_written(disk) - begun == sectors_written(node(origin)) + 16
    run("blkdiscard", "--force", "--offset", str(5 * MIB), "--length", "8192", disk)
    run("blkdiscard", "--force", "--zeroout", "--offset", str(6 * MIB), "--length", "8192", disk)
    assert sectors_written(disk) - begun == sectors_written(node(origin)) + 48


def switch_of(device: str) -> Path:
    """Return the file that switches a device's counters on and off."""
    number = Path(device).stat().st_rdev
    return Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/queue/iostats")


@pytest.mark.parametrize("kind", ["disk", "origin", "era"])
def test_a_device_that_is_not_counted_goes_on_from_where_it_stood(bench: Bench, kind: str) -> None:
    """It is counted by itself; others that a write passes through go on counting. So do dm devices
    before Linux 6.5, whose switch does nothing, and is off from the beginning.
    """
    heeds = kernel.version() >= (6, 5)
    disk, metadata = bench.disk(), bench.disk(4 * MIB)
    origin = node(bench.device(f"0 {SIZE_SECTORS} snapshot-origin {disk}"))
    blocks = f"{metadata} {origin} {BLOCK_BYTES // SECTOR_BYTES}"
    era = node(bench.device(f"0 {SIZE_SECTORS} era {blocks}"))
    devices = {"disk": disk, "origin": origin, "era": era}
    as_made = {name: switch_of(each).read_text().strip() for name, each in devices.items()}
    assert as_made == {"disk": "1", "origin": str(int(heeds)), "era": str(int(heeds))}
    begun = {name: sectors_written(each) for name, each in devices.items()}
    switch = switch_of(devices[kind])
    switch.write_text("0")
    write(era, 0, MIB, 4096)
    switch.write_text("1")
    write(era, 0, MIB, 4096)
    counted = {name: sectors_written(each) - begun[name] for name, each in devices.items()}
    sectors = MIB // SECTOR_BYTES
    stood = kind if heeds or kind == "disk" else None
    assert counted == {name: sectors if name == stood else 2 * sectors for name in devices}


def test_a_table_that_goes_live_switches_counting_on_from_6_11_on(bench: Bench) -> None:
    """dm makes all limits of the queue anew then (drivers/md/dm-table.c), of which it is one."""
    disk = bench.disk()
    name = bench.device(f"0 {SIZE_SECTORS} snapshot-origin {disk}")
    switch = switch_of(node(name))
    switch.write_text("0")
    roll(name)
    assert switch.read_text() == "0\n"
    run("dmsetup", "suspend", name)
    run("dmsetup", "load", name, "--table", f"0 {SIZE_SECTORS} linear {disk} 0")
    run("dmsetup", "resume", name)
    assert switch.read_text() == ("1\n" if kernel.version() >= (6, 11) else "0\n")


def test_the_time_of_a_switch_is_kept_once_it_was_set(bench: Bench) -> None:
    """Whoever opens it anew sets another one; who only writes to it does not, nor does reading."""
    disk = bench.disk()
    switch = switch_of(disk)
    os.utime(switch, ns=(10**18, 10**18))
    Path("/proc/sys/vm/drop_caches").write_text("2")
    descriptor = os.open(switch, os.O_WRONLY)
    assert os.write(descriptor, b"0") == 1
    os.close(descriptor)
    assert (switch.read_text(), switch.stat().st_mtime_ns) == ("0\n", 10**18)
    switch.write_text("1")
    assert switch.stat().st_mtime_ns > 10**18


def ext4_with(device: str, name: str, place: Path) -> None:
    """A small ext4 on ``device`` with one empty file."""
    run("mkfs.ext4", "-q", "-F", device)
    run("mount", device, place)
    (place / name).touch()
    run("umount", place)


def names_in(directory: Path) -> set[str]:
    return {each.name for each in directory.iterdir()}


def test_one_device_has_one_superblock_whatever_table_it_got(bench: Bench, tmp_path: Path) -> None:
    """So nothing of another file system can lie beneath a mount of the same front."""
    before, after = bench.disk(), bench.disk()
    place, beside = tmp_path / "place", tmp_path / "beside"
    for each in (place, beside):
        each.mkdir()
    ext4_with(before, "before", place)
    ext4_with(after, "after", place)
    name = bench.device(f"0 {SIZE_SECTORS} linear {before} 0")
    run("mount", "-o", "ro", node(name), place)  # it would write its superblock to the other disk
    try:
        assert names_in(place) == {"before", "lost+found"}
        run("dmsetup", "suspend", name)
        run("dmsetup", "load", name, "--table", f"0 {SIZE_SECTORS} linear {after} 0")
        run("dmsetup", "resume", name)
        run("mount", "-o", "ro", node(name), beside)
        assert names_in(beside) == {"before", "lost+found"}
        run("umount", beside)
    finally:
        run("umount", place)
    run("mount", "-o", "ro", node(name), place)
    try:
        assert names_in(place) == {"after", "lost+found"}
    finally:
        run("umount", place)


# umount2(2): only what is idle, and of that only what was found so before.
MNT_EXPIRE = 4

with_beneath = pytest.mark.skipif(kernel.version() < (6, 5), reason="new in Linux 6.5")


@pytest.fixture(params=["private", "shared"])
def parent(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A mount that may be shared with other name spaces, as all are under systemd."""
    run("mount", "-t", "tmpfs", "parent", tmp_path)
    run("mount", f"--make-{request.param}", tmp_path)
    yield tmp_path
    run("umount", "-R", tmp_path)


def tmpfs(place: Path) -> str:
    """Mount one by the name of its directory; return that."""
    place.mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", place.name, place)
    return place.name


def source_at(place: Path) -> str | None:
    found = mount_at(place)
    return found.source if found else None


def put_beneath(source: str, place: Path) -> None:
    with mount_tree.made("tmpfs", {"source": source}) as root:
        mount_tree.move_beneath(root, place)


def test_beneath_another_mount_from_6_5_on(parent: Path) -> None:
    """It is seen when that is unmounted; it is its parent then, and busy as long."""
    place = parent / "place"
    above = tmpfs(place)
    if kernel.version() < (6, 5):
        with pytest.raises(DmsnapError, match="Invalid argument"):
            put_beneath("beneath", place)
        return
    put_beneath("beneath", place)
    assert source_at(place) == above
    below, top = (e for e in mounts() if e.mount_point == place)
    if below.source == above:
        below, top = top, below
    assert top.parent_id == below.mount_id
    with (place / "file").open("w"):
        assert mount.try_unmount(place) == errno.EBUSY
    assert mount.try_unmount(place) == 0
    assert source_at(place) == "beneath"
    assert mount.try_unmount(place) == 0
    assert source_at(place) is None


@with_beneath
def test_what_is_mounted_can_be_put_beneath_as_a_clone(parent: Path) -> None:
    """With what mount(8) made of its options; what it covers then goes at once (MNT_DETACH)."""
    place, stage = parent / "place", parent / "place" / "stage"
    tmpfs(place)
    stage.mkdir()
    mount_tree.make_private(place)
    run("mount", "-t", "tmpfs", "-o", "noatime,nosuid,mode=700,size=1m", "next", stage)
    staged = mount_at(stage)
    assert staged is not None
    with mount_tree.cloned(stage) as root:
        mount_tree.move_beneath(root, place)
    assert mount.try_unmount(place) == errno.EBUSY  # it has one of its own in it
    assert mount.try_unmount(stage) == 0
    mount.detach(place)
    found = mount_at(place)
    assert found is not None
    assert (found.source, found.devno) == ("next", staged.devno)
    assert (found.options, found.super_options) == (staged.options, staged.super_options)


@with_beneath
def test_other_name_spaces_see_what_lies_beneath(tmp_path: Path) -> None:
    """Where they follow ours, what they have at the place goes and comes as here."""
    run("mount", "-t", "tmpfs", "parent", tmp_path)
    run("mount", "--make-shared", tmp_path)
    place = tmp_path / "place"
    tmpfs(place)
    words = ("unshare", "--mount", "--propagation", "slave", "sh", "-c", "echo; exec sleep 600")
    try:
        with subprocess.Popen(words, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            other.stdout.readline()

            def there() -> list[str]:
                rows = Path(f"/proc/{other.pid}/mountinfo").read_text().splitlines()
                here = [row.partition(" - ")[2] for row in rows if f" {place} " in row]
                return sorted(each.split()[1] for each in here)

            try:
                put_beneath("beneath", place)
                assert there() == ["beneath", "place"]
                assert mount.try_unmount(place) == 0
                assert there() == ["beneath"]
                put_beneath("next", place)
                assert there() == ["beneath", "next"]
                mount.detach(place)
                assert there() == ["next"]
            finally:
                other.kill()
    finally:
        run("umount", "-R", tmp_path)


def test_an_idle_mount_is_told_from_a_busy_one(parent: Path) -> None:
    """A second look unmounts it; but not when somebody has opened it in between."""
    place = parent / "place"
    tmpfs(place)
    expire = mount.UMOUNT_NOFOLLOW | MNT_EXPIRE
    with (place / "file").open("w"):
        assert mount.try_unmount(place, expire) == errno.EBUSY
    assert mount.try_unmount(place, expire) == errno.EAGAIN
    os.close(os.open(place, os.O_PATH))
    assert mount.try_unmount(place, expire) == errno.EAGAIN
    assert mount.try_unmount(place, expire) == 0
    assert source_at(place) is None


# disks that fail


@dataclass
class Failing:
    """A dm device over a disk; every request to it, or every write, fails from a moment on."""

    name: str
    disk: str
    sectors: int

    def load(self, table: str) -> None:
        run("dmsetup", "suspend", "--noflush", "--nolockfs", self.name)
        run("dmsetup", "load", self.name, "--table", f"0 {self.sectors} {table}")
        run("dmsetup", "resume", self.name)

    def fail(self) -> None:
        self.load("error")

    def fail_writes(self) -> None:
        self.load(f"flakey {self.disk} 0 0 3600 1 error_writes")

    def heal(self) -> None:
        self.load(f"linear {self.disk} 0")


def failing_disk(bench: Bench, size_bytes: int) -> Failing:
    disk, sectors = bench.disk(size_bytes), size_bytes // SECTOR_BYTES
    return Failing(bench.device(f"0 {sectors} linear {disk} 0"), disk, sectors)


def era_on(bench: Bench, metadata: Failing) -> tuple[str, str]:
    """Return an era device, and the device that it lies over."""
    origin = bench.device(f"0 {SIZE_SECTORS} linear {bench.disk()} 0")
    blocks = f"{node(metadata.name)} {node(origin)} {BLOCK_BYTES // SECTOR_BYTES}"
    return bench.device(f"0 {SIZE_SECTORS} era {blocks}"), origin


def is_suspended(name: str) -> bool:
    return "SUSPENDED" in run("dmsetup", "info", name)


def test_an_era_device_that_cannot_write_its_metadata_is_not_resumed(bench: Bench) -> None:
    """It stays suspended, and takes a table without dm-era then."""
    metadata = failing_disk(bench, 4 * MIB)
    era, origin = era_on(bench, metadata)
    metadata.fail()
    run("dmsetup", "suspend", era)
    run("dmsetup", "resume", era, expected=1)
    assert is_suspended(era)
    run("dmsetup", "load", era, "--table", f"0 {SIZE_SECTORS} linear {node(origin)} 0")
    run("dmsetup", "resume", era)
    assert not is_suspended(era)
    write(node(era), 0, BLOCK_BYTES, BLOCK_BYTES)


def test_dm_era_fails_writes_that_it_cannot_mark(bench: Bench) -> None:
    """They are counted by its device and not below. What it has marked, it goes on writing."""
    metadata = failing_disk(bench, 4 * MIB)
    era, origin = era_on(bench, metadata)
    write(node(era), 0, BLOCK_BYTES, BLOCK_BYTES)
    assert sectors_written(node(era)) == sectors_written(node(origin))
    metadata.fail_writes()
    write(node(era), 0, BLOCK_BYTES, BLOCK_BYTES)
    assert sectors_written(node(era)) == sectors_written(node(origin))
    with open(node(era), "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), bytes(CHUNK_BYTES), MIB)
        with pytest.raises(OSError, match="Errno 5"):
            os.fsync(file.fileno())
    assert sectors_written(node(era)) == sectors_written(node(origin)) + CHUNK_SECTORS
    assert status(era)[1:] == ["Error"]


def test_a_snapshot_that_cannot_write_its_store_is_invalid_and_its_origin_is_written(
    bench: Bench,
) -> None:
    disk, store = bench.disk(), failing_disk(bench, 16 * MIB)
    origin = bench.device(f"0 {SIZE_SECTORS} snapshot-origin {disk}")
    snapshot = bench.device(snapshot_table(disk, node(store.name)))
    roll(origin)
    store.fail()
    write(node(origin), 0, MIB, MIB)
    assert status(snapshot)[1] == "Invalid"
    store.heal()
    assert status(snapshot)[1] == "Invalid"
    # It could not say so on the disk: whoever reads the store again is told nothing.
    with open(node(store.name), "rb") as file:
        assert struct.unpack("<2I", file.read(8)) == (SNAP_MAGIC, 1)


def test_a_merge_that_failed_shows_what_it_showed_and_is_not_loaded_again(bench: Bench) -> None:
    """Read from its store anew it goes on. A snapshot in its place would take over what it has in
    memory, which is wrong where an area could not be written.
    """
    disk, store = bench.disk(), failing_disk(bench, 16 * MIB)
    snapshot = bench.device(snapshot_table(disk, node(store.name)))
    write(node(snapshot), 0, MIB, MIB)
    content = sha256(node(snapshot), WRITTEN_BYTES)
    merging = snapshot_table(disk, node(store.name)).replace("snapshot", "snapshot-merge")
    store.fail_writes()
    run("dmsetup", "load", snapshot, "--table", merging)
    roll(snapshot)
    wait_until("the kernel gives the merge up", lambda: "failed" in status(snapshot))
    assert sha256(node(snapshot), WRITTEN_BYTES) == content
    store.heal()
    run("dmsetup", "load", snapshot, "--table", merging, expected=1)
    bench.remove(snapshot)
    snapshot = bench.device(merging)
    wait_until("all is merged", lambda: is_merged(snapshot))
    assert sha256(node(snapshot), WRITTEN_BYTES) == sha256(disk, WRITTEN_BYTES) == content


def is_merged(name: str) -> bool:
    """Return whether a merging snapshot's store holds its own metadata alone."""
    _, used, metadata = status(name)
    return used.partition("/")[0] == metadata


def test_who_sets_the_clock_by_hand_ends_its_synchronisation() -> None:
    """So a clock that the kernel calls synchronised was set by who tells it the time."""
    assert not synchronisation.is_synchronised()
    with synchronised():
        assert synchronisation.is_synchronised()
        time.clock_settime_ns(time.CLOCK_REALTIME, time.time_ns())
        assert not synchronisation.is_synchronised()
        set_status(0)
        assert synchronisation.is_synchronised()
        set_status(STA_UNSYNC)
        assert not synchronisation.is_synchronised()
