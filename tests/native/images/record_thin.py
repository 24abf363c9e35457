"""Record thin-pool metadata as a kernel writes it. Runs as root in the lab.

Beside each image goes what it is expected to give, from three witnesses that are not ours: which
blocks were written and discarded (a log kept here), what thin_dump and what thin_delta say.
"""

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree as ET

from record import KIB, MIB, PAGE, SECTOR, keep, loop, mapped, run, write

BLOCK = 64 * KIB
GIB = 1024 * MIB
NR_BLOCKS = 4096  # of a thin device, but for the deep one

Runs = list[list[int]]


class Pool:
    """A pool with a log of what each of its devices maps, as a set of thin blocks."""

    def __init__(self, path: Path) -> None:
        self.path = path  # of the metadata
        self.blocks: dict[int, set[int]] = {}

    def message(self, text: str) -> None:
        run("dmsetup", "message", "pool", "0", text)

    def thin(self, dev_id: int) -> None:
        self.message(f"create_thin {dev_id}")
        self.blocks[dev_id] = set()

    def snapshot(self, dev_id: int, origin: int) -> None:
        """``origin`` must not be active."""
        self.message(f"create_snap {dev_id} {origin}")
        self.blocks[dev_id] = set(self.blocks[origin])

    def delete(self, dev_id: int) -> None:
        self.message(f"delete {dev_id}")
        del self.blocks[dev_id]

    @contextmanager
    def active(self, dev_id: int, nr_blocks: int = NR_BLOCKS) -> Iterator[str]:
        sectors = nr_blocks * BLOCK // SECTOR
        with mapped("thin", f"0 {sectors} thin /dev/mapper/pool {dev_id}") as device:
            yield device

    def write(self, dev_id: int, *blocks: int) -> None:
        with self.active(dev_id) as device:
            for block in blocks:
                write(device, block * BLOCK + PAGE)
        self.blocks[dev_id].update(blocks)

    def fill(self, dev_id: int, nr_blocks: int) -> None:
        """From the beginning, without gaps."""
        with self.active(dev_id, nr_blocks) as device:
            run(
                "dd", "if=/dev/zero", f"of={device}", "bs=1M", "oflag=direct",
                f"count={nr_blocks * BLOCK // MIB}",
            )  # fmt: skip
        self.blocks[dev_id].update(range(nr_blocks))

    def discard(self, dev_id: int, first: int, count: int) -> None:
        with self.active(dev_id) as device:
            run("blkdiscard", "-o", str(first * BLOCK), "-l", str(count * BLOCK), device)
        self.blocks[dev_id].difference_update(range(first, first + count))

    def log(self) -> dict[str, Runs]:
        return {str(dev_id): ranges(blocks) for dev_id, blocks in self.blocks.items()}


def ranges(blocks: set[int]) -> Runs:
    """First block and length."""
    found: Runs = []
    for block in sorted(blocks):
        if found and sum(found[-1]) == block:
            found[-1][1] += 1
        else:
            found.append([block, 1])
    return found


@contextmanager
def pool(metadata_bytes: int, data_bytes: int) -> Iterator[Pool]:
    """A fresh pool, whose data nobody needs."""
    sectors = data_bytes // SECTOR
    with (
        loop("meta", metadata_bytes) as (meta, path),
        mapped("data", f"0 {sectors} zero") as data,
        mapped(
            "pool",
            f"0 {sectors} thin-pool {meta} {data} {BLOCK // SECTOR} 0 1 skip_block_zeroing",
        ),
    ):
        yield Pool(path)


def elements_of(device: ET.Element, shared: dict[str, ET.Element]) -> Iterator[ET.Element]:
    """Its mappings; 1.x writes what several devices have in common once, as a ``def``."""
    for element in device:
        if element.tag == "ref":
            yield from elements_of(shared[element.attrib["name"]], shared)
        else:
            yield element


def mapping_runs(elements: Iterator[ET.Element]) -> Runs:
    """Thin block, data block, length and time, as long as can be."""
    runs: Runs = []
    for element in elements:
        single = element.tag == "single_mapping"
        names = ("origin_block", "data_block") if single else ("origin_begin", "data_begin")
        thin, data, time = (int(element.attrib[name]) for name in (*names, "time"))
        length = int(element.attrib.get("length", 1))
        if runs and [runs[-1][i] + runs[-1][2] for i in (0, 1)] + runs[-1][3:] == [
            thin, data, time,
        ]:  # fmt: skip
            runs[-1][2] += length
        else:
            runs.append([thin, data, length, time])
    return runs


def dump(path: Path, *options: str) -> dict[str, object]:
    """What thin_dump says of the pool, and of each device its numbers and its mappings."""
    superblock = ET.fromstring(run("thin_dump", *options, str(path)))
    shared = {element.attrib["name"]: element for element in superblock.iter("def")}
    devices: dict[str, object] = {}
    for device in superblock.iter("device"):
        devices[device.attrib["dev_id"]] = {
            "mapped_blocks": int(device.attrib["mapped_blocks"]),
            "transaction": int(device.attrib["transaction"]),
            "creation_time": int(device.attrib["creation_time"]),
            "snap_time": int(device.attrib["snap_time"]),
            "mappings": mapping_runs(elements_of(device, shared)),
        }
    return {
        "time": int(superblock.attrib["time"]),
        "transaction": int(superblock.attrib["transaction"]),
        "data_block_size": int(superblock.attrib["data_block_size"]),
        "nr_data_blocks": int(superblock.attrib["nr_data_blocks"]),
        "devices": devices,
    }


def delta(path: Path, old: int, new: int, *options: str) -> dict[str, Runs]:
    text = run("thin_delta", *options, "--snap1", str(old), "--snap2", str(new), str(path))
    found: dict[str, Runs] = {"left_only": [], "right_only": [], "different": []}
    for element in ET.fromstring(text).iter():
        if element.tag in found:
            found[element.tag].append([int(element.attrib["begin"]), int(element.attrib["length"])])
    return found


def view(path: Path, log: dict[str, Runs], *options: str) -> dict[str, object]:
    pairs = combinations(sorted(int(dev_id) for dev_id in log), 2)
    return {
        "log": log,
        "thin_dump": dump(path, *options),
        "thin_delta": {f"{old} {new}": delta(path, old, new, *options) for old, new in pairs},
    }


def snapshot_option(path: Path) -> str:
    """0.9 takes a block number, and 1.x has none to be given to thin_delta."""
    if run("thin_dump", "--version").startswith("0."):
        return "--metadata-snap=" + str(int.from_bytes(path.read_bytes()[56:64], "little"))
    return "--metadata-snap"


def keep_pool(name: str, made: Pool, held: dict[str, Runs] | None = None) -> None:
    """``held``: the log as it was when the metadata snapshot in the image was taken."""
    views = {"live": view(made.path, made.log())}
    if held is not None:
        views["snapshot"] = view(made.path, held, snapshot_option(made.path))
    keep(name, made.path, block_size=BLOCK, **views)


def several_devices(made: Pool, rng: random.Random) -> None:
    """Thin devices, snapshots of them and of snapshots, each going its own way."""
    made.thin(1)
    made.thin(2)
    made.write(1, *range(700), *rng.sample(range(700, NR_BLOCKS), 100))
    made.write(2, *rng.sample(range(NR_BLOCKS), 60))
    made.snapshot(11, 1)
    made.write(1, *rng.sample(range(NR_BLOCKS), 30))
    made.discard(1, 100, 150)
    made.snapshot(12, 1)
    made.write(1, *range(120, 140), 5, 6, 7)
    made.write(11, 0, 699, NR_BLOCKS - 1)
    made.snapshot(111, 11)
    made.discard(12, 0, 64)
    made.thin(7)
    made.write(7, 3)
    made.delete(7)
    made.thin(8)


def record_pool(rng: random.Random) -> None:
    with pool(2 * MIB, GIB) as made:
        several_devices(made, rng)
    keep_pool("thin-pool", made)


def record_held(rng: random.Random) -> None:
    """A metadata snapshot is held; since then devices were changed, made and deleted."""
    with pool(2 * MIB, GIB) as made:
        several_devices(made, rng)
        made.message("reserve_metadata_snap")
        held = made.log()
        made.write(1, *rng.sample(range(NR_BLOCKS), 40))
        made.discard(2, 0, NR_BLOCKS // 2)
        made.delete(111)
        made.snapshot(21, 2)
    keep_pool("thin-held", made, held)


def record_deep(rng: random.Random) -> None:
    """So much that there are internal nodes above internal nodes."""
    nr_blocks = 36000
    with pool(8 * MIB, 4 * GIB) as made:
        made.thin(1)
        made.fill(1, nr_blocks)
        made.snapshot(2, 1)
        made.write(1, *rng.sample(range(NR_BLOCKS), 20))
        made.discard(2, 1000, 300)
    keep_pool("thin-deep", made)


def record_in_use(rng: random.Random) -> None:
    """Copied from under the pool, as after a crash: what was committed last."""
    with pool(2 * MIB, GIB) as made:
        several_devices(made, rng)
        made.message("set_transaction_id 0 5")  # commits
        keep_pool("thin-in-use", made)


def record_empty() -> None:
    with pool(2 * MIB, GIB) as made:
        pass
    keep_pool("thin-empty", made)


def main() -> None:
    rng = random.Random(7)
    for module in ("loop", "dm-thin-pool", "dm-zero"):
        subprocess.run(["modprobe", module], check=False)
    os.environ["LC_ALL"] = "C"
    record_pool(rng)
    record_held(rng)
    record_deep(rng)
    record_in_use(rng)
    record_empty()


if __name__ == "__main__":
    main()
