"""Record era metadata and exception stores as a kernel writes them. Runs as root in the lab.

Beside each image goes what it is expected to give, from two witnesses that are not ours: what was
written (a log kept here) and, for era metadata, what era_invalidate says.
"""

import json
import mmap
import os
import random
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OUT = Path("/out")
SCRATCH = Path("/scratch")
KIB = 1024
MIB = 1024 * KIB
SECTOR = 512
PAGE = 4096

Written = list[tuple[int, int]]  # block, the last era it was written in


def run(*command: str) -> str:
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.decode()}")
    return done.stdout.decode()


@contextmanager
def loop(name: str, size_bytes: int) -> Iterator[tuple[str, Path]]:
    """A loop device over a fresh file of zeroes."""
    path = SCRATCH / name
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(size_bytes)
    device = run("losetup", "--find", "--show", str(path)).strip()
    try:
        yield device, path
    finally:
        run("losetup", "--detach", device)


@contextmanager
def mapped(name: str, *table: str) -> Iterator[str]:
    """A device-mapper device, gone at the end."""
    run("dmsetup", "create", name, "--table", "\n".join(table))
    run("dmsetup", "mknodes", name)
    try:
        yield f"/dev/mapper/{name}"
    finally:
        run("dmsetup", "remove", "--retry", name)


def write(device: str, offset_bytes: int, size_bytes: int = PAGE) -> None:
    """One direct write, so that it is one bio and has reached the kernel's metadata."""
    data = mmap.mmap(-1, size_bytes)
    data.write(os.urandom(16) * (size_bytes // 16))
    fd = os.open(device, os.O_WRONLY | os.O_DIRECT)
    try:
        assert os.pwrite(fd, data, offset_bytes) == size_bytes
    finally:
        os.close(fd)


def keep(name: str, path: Path, **expected: object) -> None:
    """Copy the file below a device, and say what it is expected to give."""
    run("sync")
    name += f"-{os.uname().release.rsplit('.', 1)[0]}"
    (OUT / f"{name}.img").write_bytes(path.read_bytes())
    (OUT / f"{name}.json").write_text(json.dumps(expected, sort_keys=True) + "\n")


class Era:
    """An era device with a log of what was written in which era."""

    def __init__(self, metadata: str, origin: str, size_bytes: int, block_bytes: int) -> None:
        self.metadata, self.origin, self.block_bytes = metadata, origin, block_bytes
        self.size_bytes = size_bytes
        self.writes: dict[int, int] = {}

    @property
    def table(self) -> str:
        sectors = self.size_bytes // SECTOR
        return f"0 {sectors} era {self.metadata} {self.origin} {self.block_bytes // SECTOR}"

    @property
    def nr_blocks(self) -> int:
        return -(-self.size_bytes // self.block_bytes)

    def current_era(self) -> int:
        return int(run("dmsetup", "status", "era").split()[5])

    def write(self, *blocks: int) -> None:
        era = self.current_era()
        for block in blocks:
            write("/dev/mapper/era", min(block * self.block_bytes, self.size_bytes - PAGE))
            self.writes[block] = era
        assert era == self.current_era()

    def checkpoint(self) -> None:
        run("dmsetup", "message", "era", "0", "checkpoint")

    def message(self, text: str) -> None:
        run("dmsetup", "message", "era", "0", text)

    def resize(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        run("dmsetup", "suspend", "era")
        run("dmsetup", "reload", "era", "--table", self.table)
        run("dmsetup", "resume", "era")

    def written(self) -> list[tuple[int, int]]:
        return sorted(self.writes.items())


def snapshot_option(path: Path, version: str) -> list[str] | None:
    """How this era_invalidate is told to read the snapshot; None if it cannot.

    0.9 has the option without a value, and then reads the live roots all the same: with writes
    after the snapshot it names more than the snapshot knows. 1.x wants the block number.
    """
    if version.startswith("0."):
        return None
    superblock = path.read_bytes()[:PAGE]
    return ["--metadata-snapshot", str(int.from_bytes(superblock[216:224], "little"))]


def invalidate(path: Path, since: int, snapshot: bool) -> list[int] | None:
    """What era_invalidate says, as blocks; None when it cannot be asked."""
    version = run("era_invalidate", "--version").split()[-1]
    option = snapshot_option(path, version) if snapshot else []
    if option is None:
        return None
    text = run("era_invalidate", "--written-since", str(since), *option, str(path))
    blocks: list[int] = []
    for begin, end, block in re.findall(
        r'range begin ?= ?"(\d+)" end ?= ?"(\d+)"|block block ?= ?"(\d+)"', text
    ):
        blocks += range(int(begin), int(end)) if begin else [int(block)]
    return blocks


def expectation(path: Path, written: Written, snapshot: bool) -> dict[str, object]:
    top = max(entry[1] for entry in written)
    return {
        "written": written,
        "era_invalidate": {str(n): invalidate(path, n, snapshot) for n in range(1, top + 2)},
    }


def keep_era(name: str, era: Era, path: Path, held: Written | None = None) -> None:
    """``held``: what was written before the metadata snapshot in the image was taken."""

    def existing(written: Written) -> Written:
        return [entry for entry in written if entry[0] < era.nr_blocks]

    views = {"live": expectation(path, existing(era.written()), snapshot=False)}
    if held is not None:
        views["snapshot"] = expectation(path, existing(held), snapshot=True)
    keep(name, path, block_size=era.block_bytes, nr_blocks=era.nr_blocks, **views)


def several_eras(era: Era, rng: random.Random, count: int) -> None:
    for _ in range(count):
        era.write(*rng.sample(range(era.nr_blocks), 25), era.nr_blocks - 1)
        era.checkpoint()


def wait_for_digest() -> None:
    """Digesting is done when the metadata shrinks no more."""
    before = None
    while before != (now := run("dmsetup", "status", "era")):
        before = now
        run("sleep", "0.5")


def record_era_removed(rng: random.Random) -> None:
    """Several eras, digested but for the last, which removing the device archives."""
    with loop("meta", MIB) as (meta, path), loop("data", 64 * MIB + 24 * KIB) as (data, _):
        era = Era(meta, data, 64 * MIB + 24 * KIB, 64 * KIB)
        with mapped("era", era.table):
            several_eras(era, rng, 6)
            wait_for_digest()
            era.write(1, 2, 3)
        keep_era("era-removed", era, path)


def record_era_snapshot(rng: random.Random) -> None:
    """A metadata snapshot is held, and writing went on after it was taken."""
    with loop("meta", MIB) as (meta, path), loop("data", 64 * MIB + 24 * KIB) as (data, _):
        era = Era(meta, data, 64 * MIB + 24 * KIB, 64 * KIB)
        with mapped("era", era.table):
            several_eras(era, rng, 4)
            era.write(*rng.sample(range(era.nr_blocks), 40))
            era.message("take_metadata_snap")
            held = era.written()
            several_eras(era, rng, 3)
        keep_era("era-snapshot", era, path, held)


def record_era_undigested(rng: random.Random) -> None:
    """So many blocks that digesting cannot keep up with the checkpoints."""
    table = f"0 {16 * KIB * MIB // SECTOR} zero"
    with loop("meta", 4 * MIB) as (meta, path), mapped("zero", table) as zero:
        era = Era(meta, zero, 16 * KIB * MIB, 64 * KIB)
        with mapped("era", era.table):
            several_eras(era, rng, 5)
        keep_era("era-undigested", era, path)


def record_era_in_use(rng: random.Random) -> None:
    """Copied from under the device: the last era is in the current writeset. As after a crash."""
    with loop("meta", MIB) as (meta, path), loop("data", 64 * MIB) as (data, _):
        era = Era(meta, data, 64 * MIB, 64 * KIB)
        with mapped("era", era.table):
            several_eras(era, rng, 3)
            wait_for_digest()
            era.write(*rng.sample(range(era.nr_blocks), 30))
            keep_era("era-in-use", era, path)


def record_era_resized(rng: random.Random) -> None:
    """Grown, then cut to less than it was, with a snapshot from before."""
    with loop("meta", MIB) as (meta, path), loop("data", 160 * MIB) as (data, _):
        era = Era(meta, data, 64 * MIB, 64 * KIB)
        with mapped("era", era.table):
            several_eras(era, rng, 3)
            era.message("take_metadata_snap")
            held = era.written()
            era.resize(150 * MIB)
            several_eras(era, rng, 3)
        keep_era("era-grown", era, path, held)
        with mapped("era", era.table):
            era.resize(40 * MIB)
            era.write(5, 6)
        keep_era("era-shrunk", era, path, held)


def record_store(name: str, chunk_bytes: int, store_bytes: int, chunks: list[int]) -> None:
    """A snapshot's store after one write into each of ``chunks`` of the origin."""
    origin_bytes = 64 * MIB
    sectors = origin_bytes // SECTOR
    with loop("data", origin_bytes) as (data, _), loop("cow", store_bytes) as (cow, path):
        with mapped("origin", f"0 {sectors} snapshot-origin {data}") as origin:
            snapshot = f"0 {sectors} snapshot {data} {cow} P {chunk_bytes // SECTOR}"
            with mapped("point", snapshot):
                # Only resuming the origin makes it split writes at chunk borders.
                run("dmsetup", "suspend", "origin")
                run("dmsetup", "resume", "origin")
                for chunk in chunks:
                    write(origin, chunk * chunk_bytes)
                status = run("dmsetup", "status", "point").split()[3]
        keep(
            name,
            path,
            chunk_size=chunk_bytes // SECTOR,
            valid=status not in ("Invalid", "Overflow"),
            status=status,
            chunks=sorted(chunks),
        )


def record_stores(rng: random.Random) -> None:
    pages = 64 * MIB // PAGE
    record_store("store-4k", PAGE, 4 * MIB, rng.sample(range(pages), 300))
    record_store("store-64k", 64 * KIB, 4 * MIB, rng.sample(range(1024), 40))
    record_store("store-full-area", PAGE, 4 * MIB, rng.sample(range(pages), 256))
    record_store("store-empty", PAGE, MIB, [])
    record_store("store-overflowed", PAGE, 64 * KIB, rng.sample(range(pages), 40))


def main() -> None:
    rng = random.Random(6)
    for module in ("loop", "dm-era", "dm-snapshot", "dm-zero"):
        subprocess.run(["modprobe", module], check=False)
    record_era_removed(rng)
    record_era_snapshot(rng)
    record_era_undigested(rng)
    record_era_in_use(rng)
    record_era_resized(rng)
    record_stores(rng)


if __name__ == "__main__":
    main()
