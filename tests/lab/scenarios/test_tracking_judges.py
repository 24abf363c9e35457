"""Tracking and syncs against judges that are not ours: era tools, fio, fsck, prefixes of a log."""

import mmap
import os
import random
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from conftest import MIB, Lab, configured, dmsnap, rarely, run
from patience import until
from raw_volume import KIB, SECTOR, Protected, protected, write_direct

from dmsnap.host.dm import device as dm

# era_invalidate and era_dump


def era_metadata_device(name: str) -> str:
    """The metadata device out of the front's live table."""
    devno = run("dmsetup", "table", name).split()[3]
    return f"/dev/{Path(f'/sys/dev/block/{devno}').resolve().name}"


def held_snapshot(name: str) -> str:
    """The metadata block that a metadata snapshot begins at, as the status line has it."""
    return run("dmsetup", "status", name).split()[-1]


def snapshot_option(block: str) -> list[str]:
    """1.x wants the snapshot's block, 0.9 finds it."""
    old = "0.9" in run("era_invalidate", "-V")
    return ["--metadata-snapshot"] if old else ["--metadata-snapshot", block]


def invalidated(metadata: str, since: int, option: list[str]) -> set[int]:
    """The blocks that ``era_invalidate`` names."""
    text = run("era_invalidate", *option, "--written-since", since, metadata)
    blocks: set[int] = set()
    for element in ET.fromstring(text):
        if element.tag == "block":
            blocks.add(int(element.attrib["block"]))
        else:
            blocks.update(range(int(element.attrib["begin"]), int(element.attrib["end"])))
    return blocks


def dumped(image: Path, since: int) -> set[int]:
    """The blocks that ``era_dump`` gives an era of ``since`` or later, writesets folded in."""
    root = ET.fromstring(run("era_dump", "--logical", image))
    return {
        int(element.attrib["block"])
        for element in root.iter("era")
        if int(element.attrib["era"]) >= since
    }


def inspected(device: str | Path, since: int, block_bytes: int) -> set[int]:
    found = dmsnap("inspect", "era", device, "--since", since)
    blocks: set[int] = set()
    for offset, length in found["extents"]:
        blocks.update(range(offset // block_bytes, (offset + length - 1) // block_bytes + 1))
    return blocks


def roll_era(name: str) -> None:
    dm.suspend(name)
    dm.resume(name)


def current_era(name: str) -> int:
    return int(dm.era_status(name).current_era)


@contextmanager
def metadata_snapshot(name: str) -> Iterator[str]:
    run("dmsetup", "message", name, "0", "take_metadata_snap")
    try:
        yield held_snapshot(name)
    finally:
        run("dmsetup", "message", name, "0", "drop_metadata_snap")


@pytest.mark.selection
def test_inspect_era_equals_era_invalidate(lab: Lab) -> None:
    """For every era there was, and one block and one sector more than the bitsets' words."""
    block_bytes = 4 * KIB
    volume = protected(
        lab, 16 * MIB + SECTOR, block_bytes=block_bytes, history_bytes=8 * MIB, filled=False
    )
    chosen = random.Random(7)
    nr_blocks = 16 * MIB // block_bytes + 1
    # Known by us alone: the last era that each block was written in at the earliest.
    written: dict[int, int] = {}
    for _ in range(6):
        era = current_era(volume.name)
        for block in {chosen.randrange(nr_blocks) for _ in range(40)} | {nr_blocks - 1, 0}:
            write_direct(volume.front, os.urandom(SECTOR), block * block_bytes)
            written[block] = era
        roll_era(volume.name)
    newest = current_era(volume.name)
    image = lab.directory / "era-metadata.img"
    with metadata_snapshot(volume.name) as snapshot:
        option = snapshot_option(snapshot)
        metadata = era_metadata_device(volume.name)
        for since in range(1, newest + 2):
            judge = invalidated(metadata, since, option)
            assert inspected(volume.front, since, block_bytes) == judge, since
            assert judge >= {block for block, era in written.items() if era >= since}
        run("dd", f"if={metadata}", f"of={image}", "bs=1M", "iflag=direct", "status=none")
    for since in (1, newest // 2, newest):
        assert inspected(image, since, block_bytes) == dumped(image, since), since
    result = volume.sync()
    assert result["bytes_dirty"] == volume.blocks_of(
        (block * block_bytes, SECTOR) for block in written
    )
    volume.check_equal()


def undigested(lab: Lab, name: str) -> int:
    """How many archived writesets dm-era has not folded into its array yet.

    That of the era which taking the metadata snapshot ended is among them.
    """
    image = lab.directory / "era-metadata.img"
    with metadata_snapshot(name) as snapshot:
        metadata = era_metadata_device(name)
        run("dd", f"if={metadata}", f"of={image}", "bs=1M", "iflag=direct", "status=none")
    data = image.read_bytes()
    offset = int(snapshot) * 4096 + WRITESET_TREE_ROOT
    writeset_tree_root = int(struct.unpack_from("<Q", data, offset)[0])
    # A btree node: csum, flags, blocknr, nr_entries.
    return int(struct.unpack_from("<I", data, writeset_tree_root * 4096 + 16)[0])


# struct superblock_disk of drivers/md/dm-era-target.c: csum, flags, blocknr, uuid, magic, version,
# space map root (128), data and metadata block size, nr_blocks, current era, writeset (nr_bits,
# root), then the root of the tree of writesets.
WRITESET_TREE_ROOT = 4 + 4 + 8 + 16 + 8 + 4 + 128 + 4 + 4 + 4 + 4 + 4 + 8


@pytest.mark.parametrize("digested", [False, True], ids=["before-digestion", "digested"])
def test_a_sync_over_dozens_of_eras(lab: Lab, digested: bool) -> None:
    """A block written in each, found in writesets and in the era array alike."""
    volume = protected(lab, 12 * MIB, block_bytes=4 * KIB, history_bytes=8 * MIB)
    ranges = []
    for number in range(30):
        offset = number * 90 * 4096 + 512
        write_direct(volume.front, os.urandom(KIB), offset)
        ranges.append((offset, KIB))
        if number % 10 == 9:
            (point,) = dmsnap("point", "create", volume.name)
            dmsnap("point", "delete", point["id"])
        else:
            roll_era(volume.name)
    if digested:
        until(lambda: undigested(lab, volume.name) == 1, "all but the last is digested")
    result = volume.sync("--audit", "full")
    assert result["tracker"] == "era"
    assert result["bytes_dirty"] == volume.blocks_of(ranges)
    volume.check_equal()
    assert volume.sync()["bytes_dirty"] == 0


# a writer that is never waited for, whose log any point must be a prefix of

SLOTS_BYTES = 12 * MIB


@dataclass
class Log:
    """A deterministic sequence of writes, each filling whole sectors with its number.

    A point must hold all writes up to some number and nothing of those after it; only the newest
    may be there in part, where the kernel split it.
    """

    seed: int
    numbers: list[int] = field(default_factory=lambda: [0] * (SLOTS_BYTES // SECTOR))
    done: int = 0

    def __post_init__(self) -> None:
        self.choices = random.Random(self.seed)

    def next_range(self) -> tuple[int, int]:
        sectors = self.choices.choice((1, 1, 1, 3, 8, 16, 150, 400))
        return self.choices.randrange(SLOTS_BYTES // SECTOR - sectors), sectors

    def check(self, image: bytes) -> int:
        """Check that ``image`` is a prefix; returns the newest number in it."""
        found = [item[0] for item in struct.iter_unpack("<Q504x", image)]
        newest = max(found)
        assert newest >= self.done, "older than the point before it"
        last = range(0)
        while self.done < newest:
            self.done += 1
            start, sectors = self.next_range()
            last = range(start, start + sectors)
            before = self.numbers[start : start + sectors]
            self.numbers[start : start + sectors] = [self.done] * sectors
        wrong = [at for at in range(len(found)) if found[at] != self.numbers[at]]
        # The newest write may be there in part, the rest as it was before it.
        assert set(wrong) <= set(last), f"sectors {wrong[:5]} are torn or were missed"
        assert all(found[at] == before[at - last.start] for at in wrong)
        return int(newest)


def write_log(front: Path, seed: int, told: mmap.mmap) -> None:
    """Write the log's sequence as fast as the volume takes it, until killed; tell how far it is."""
    log = Log(seed, [])
    fd = os.open(front, os.O_WRONLY | os.O_DIRECT)
    with mmap.mmap(-1, 400 * SECTOR) as buffer, memoryview(buffer) as view:
        number = 0
        while True:
            number += 1
            start, sectors = log.next_range()
            buffer[: sectors * SECTOR] = struct.pack("<Q504x", number) * sectors
            os.pwritev(fd, [view[: sectors * SECTOR]], start * SECTOR)
            told[:8] = number.to_bytes(8, "little")


@contextmanager
def log_writer(front: Path, seed: int) -> Iterator[Callable[[], int]]:
    """Gives what tells the number of the last write that has ended."""
    told = mmap.mmap(-1, 8)  # shared with the child
    child = os.fork()
    if child == 0:
        try:
            write_log(front, seed, told)
        finally:
            os._exit(1)
    try:
        yield lambda: int.from_bytes(told[:8], "little")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def image_of(device: str | Path, size_bytes: int) -> bytes:
    return subprocess.run(
        ["dd", f"if={device}", "bs=1M", f"count={size_bytes // MIB}", "iflag=direct"],
        capture_output=True,
        check=True,
    ).stdout


@pytest.mark.selection
@pytest.mark.parametrize(("seed", "rounds"), [(1, 4), rarely(2, 8)])
def test_every_point_is_a_prefix_of_what_was_written(lab: Lab, seed: int, rounds: int) -> None:
    """Many short rounds at full write rate: what is before the window is in, what is after is not,
    and is found by the next sync."""
    # Blocks of many chunks: dm-era splits writes at its blocks, so that with small ones a snapshot
    # that misses all but the first chunk of a write would not be noticed.
    volume = protected(lab, SLOTS_BYTES, block_bytes=64 * KIB, history_bytes=96 * MIB, filled=False)
    log = Log(seed)
    moments: list[tuple[str, int, int]] = []
    with log_writer(volume.front, seed) as written:
        for round_number in range(rounds):
            newest = moments[-1][1] if moments else 0
            until(lambda: written() > newest, "the writer goes on")  # noqa: B023
            audit = "full" if round_number % 3 == 0 else "none"
            result = volume.sync("--audit", audit, "--cow-percent", 110)
            assert result["tracker"] == "era"
            image = image_of(volume.recovery, SLOTS_BYTES)
            moments.append((result["point"], log.check(image), hash(image)))
    assert [newest for _, newest, _ in moments] == sorted(newest for _, newest, _ in moments)
    assert len({newest for _, newest, _ in moments} - {0}) == len(moments)
    volume.sync()
    volume.check_equal()
    # The undo history shows each of them again, as the kernel reads it.
    for point, _, content in moments[1::2]:
        dmsnap("swap", volume.name, "--to", point, "--trial")
        assert hash(image_of(volume.front, SLOTS_BYTES)) == content
        dmsnap("swap", "revert", volume.name)


# file systems under load

LOAD = """
import os, random, sys
root, seed = sys.argv[1], int(sys.argv[2])
choose = random.Random(seed)
number = 0
while True:
    number += 1
    path = os.path.join(root, "d%d" % choose.randrange(8), "f%d" % choose.randrange(60))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    action = choose.randrange(8)
    try:
        if action < 4:
            with open(path, "ab" if action else "wb") as file:
                file.write(os.urandom(choose.randrange(60000)))
                if action == 1:
                    os.fsync(file.fileno())
        elif action == 4:
            os.unlink(path)
        elif action == 5:
            os.rename(path, path + "r")
        elif action == 6:
            os.truncate(path, choose.randrange(40000))
        else:
            os.link(path, path + "l%d" % (number % 50))
    except OSError:
        pass
    if number % 200 == 0:
        for directory, _, names in os.walk(root):
            for name in names[20:]:
                os.unlink(os.path.join(directory, name))
"""


@contextmanager
def load_on(root: Path, seed: int) -> Iterator[None]:
    """Runs while the block does, from its first file on.

    How long a window takes under it is no matter here.
    """
    with (
        configured("window_deadline_ms = 60000"),
        subprocess.Popen(["python3", "-c", LOAD, str(root), str(seed)]) as child,
    ):
        try:
            until(lambda: any(root.glob("d*/f*")), "the load has begun")
            yield
        finally:
            child.kill()


@contextmanager
def throwaway(volume: Protected) -> Iterator[Path]:
    """A writable snapshot of the recovery volume that goes away again."""
    name = f"{volume.name}-throwaway"
    cow = Path(f"/scratch/{name}.img")
    with cow.open("wb") as file:
        file.truncate(64 * MIB)
    loop = run("losetup", "--find", "--show", cow).strip()
    table = f"0 {volume.size_bytes // SECTOR} snapshot {volume.recovery} {loop} N 8"
    run("dmsetup", "create", name, "--uuid", f"DMSNAP-test-{name}", "--table", table)
    run("dmsetup", "mknodes")
    try:
        yield Path("/dev/mapper") / name
    finally:
        run("dmsetup", "remove", name)
        run("losetup", "-d", loop)
        cow.unlink()


def check_clean(lab: Lab, device: Path, fs_type: str) -> None:
    """A frozen ext4 has nothing to replay; XFS leaves its log dirty on purpose (xfs_fs_freeze)."""
    if fs_type == "ext4":
        run("e2fsck", "-fn", device)
        return
    mount_point = lab.directory / "replayed"
    mount_point.mkdir(exist_ok=True)
    run("mount", "-o", "nouuid", device, mount_point)
    run("umount", mount_point)
    run("xfs_repair", "-n", device)


@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
def test_file_systems_synced_under_load_are_clean(lab: Lab, fs_type: str) -> None:
    """No repair is needed: the file system was frozen."""
    size_bytes = {"ext4": 64 * MIB, "xfs": 320 * MIB}[fs_type]
    primary, recovery = lab.disk(size_bytes), lab.disk(size_bytes + 128 * MIB)
    root = lab.mounted(primary, fs_type)
    volume = Protected(lab.protect(primary, recovery), primary, recovery, size_bytes)
    with load_on(root, 3):
        for _ in range(3):
            result = volume.sync("--cow-percent", 110)
            assert result["tracker"] == "era"
            with throwaway(volume) as device:
                check_clean(lab, device, fs_type)
    run("umount", root)
    volume.sync("--audit", "full")
    volume.check_equal()


def fio(root: Path, *options: str) -> None:
    run(
        "fio", "--name=verified", f"--directory={root}", "--size=12M", "--bs=8k", "--rw=randwrite",
        "--ioengine=psync", "--verify=crc32c", "--verify_fatal=1", "--output-format=terse",
        "--randseed=5", *options,
    )  # fmt: skip


def test_fio_verifies_what_was_recovered(lab: Lab) -> None:
    """Written with fio's own checksums, spoiled, verified on the replica after a swap."""
    primary, recovery = lab.disk(64 * MIB), lab.disk(160 * MIB)
    root = lab.mounted(primary)
    volume = Protected(lab.protect(primary, recovery), primary, recovery, 64 * MIB)
    (root / "load").mkdir()
    fio(root, "--do_verify=0")
    with load_on(root / "load", 4):
        volume.sync("--cow-percent", 110)
    for file in root.glob("verified*"):
        file.write_bytes(os.urandom(12 * MIB))
    os.sync()
    dmsnap("swap", volume.name, "--trial")
    fio(root, "--verify_only")
    dmsnap("swap", "revert", volume.name)
