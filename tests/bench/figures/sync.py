"""Syncing a list of dirty blocks: compared, with and without an undo log."""

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from measure.devices import GIB, KIB, MIB, SECTOR, loop, sectors
from measure.model import Figure, Goal, Plot, Series, Unit
from measure.process import BenchError, Work, alternating, drop_caches, run, series, used
from measure.setting import Setting

from figures import disks
from figures.disks import REQUEST_BYTES, Command

BLOCK, PAGE = 64 * KIB, 4 * KIB
PAGES_CHANGED = 4  # of the 16 of a block
UNDO_SHARE = 4  # of the volume: room for a quarter of the pages of all blocks, and more
FRACTIONS = {"0.1 %": 0.001, "1 %": 0.01, "10 %": 0.1, "50 %": 0.5}
CLUSTER_BLOCKS = 64
SCATTERED, CLUSTERED = "scattered", "clustered"
OURS, NO_UNDO, BLIND = "dmsnap", "dmsnap without undo", "blind loop"
RSYNC = "rsync --inplace"
COMPARE = "reading both sides and comparing"
HALVES = (
    "the same, keeping what differs and the undo store",
    "writing what differs, flushing",
)


@dataclass(frozen=True, slots=True)
class Devices:
    """``old`` is what ``destination`` held before the sync, ``source`` what it shall hold."""

    source: Path
    old: Path
    destination: Path
    undo: Path


def measure(setting: Setting) -> Iterator[Figure]:
    """Scattered and clustered blocks, each at every share of dirty ones, on the disk."""
    size_bytes = setting.size(GIB, 128 * MIB)
    names = ("source", "old", "destination")
    with (
        disks.loops(setting.scratch, size_bytes, *names) as (source, old, destination),
        loop(setting.scratch / "undo", size_bytes // UNDO_SHARE, allocated=True) as undo,
    ):
        devices = Devices(source, old, destination, undo)
        make_equal(devices, size_bytes)
        for layout in (SCATTERED, CLUSTERED):
            found: list[Series] = []
            parts: list[Series] = []
            for case, fraction in FRACTIONS.items():
                blocks = dirty_blocks(size_bytes // BLOCK, fraction, layout)
                with dirtied(devices, blocks, setting) as extents:
                    found += at(case, layout, devices, blocks, extents, setting)
                    parts += parts_at(case, devices, blocks, extents, setting)
            yield figure(layout, size_bytes, tuple(found))
            yield parts_figure(layout, tuple(parts))


def figure(layout: str, size_bytes: int, found: tuple[Series, ...]) -> Figure:
    """What each contestant took; rsync, which finds the differences itself, for one layout."""
    goals = [
        Goal(f"a sync of 1 % with undo, {layout}, beside blindly copying the blocks", "1 %", OURS,
             1.3, against=BLIND),
        Goal("of 10 %", "10 %", OURS, 1.5, against=BLIND),
        Goal("of 1 %, beside ddrescue with the same list", "1 %", OURS, 1.0, against="ddrescue"),
    ]  # fmt: skip
    if layout == SCATTERED:
        goals.append(Goal("of 1 %, beside rsync", "1 %", OURS, 0.01, against=RSYNC))
    return Figure(
        key=f"sync-{layout}",
        title=f"Sync of dirty blocks, {layout}",
        text=f"{size_bytes // MIB} MiB between loop devices on the disk, in blocks of 64 KiB; in a "
        f"dirty block {PAGES_CHANGED} of 16 pages differ. dmsnap compares them, saves what it will "
        "overwrite durably, writes and flushes; the blind loop copies whole blocks with io_uring "
        "and flushes"
        + ("; rsync finds the differences by itself" if layout == SCATTERED else "")
        + ". Caches are dropped before each."
        + disks.ENGINE_ALONE,
        unit=Unit.SECONDS,
        series=found,
        limits=(BLIND,),
        plot=Plot.LINES,
        axis="dirty blocks",
        goals=tuple(goals),
    )


def parts_figure(layout: str, found: tuple[Series, ...]) -> Figure:
    """Where the time of a sync goes."""
    return Figure(
        key=f"sync-{layout}-parts",
        title=f"Where the time goes, {layout}",
        text="A run that only compares, beside what a sync says of itself. The blind loop reads "
        "one side only." + disks.ENGINE_ALONE,
        unit=Unit.SECONDS,
        series=found,
        subject="",
        plot=Plot.NONE,
        axis="dirty blocks",
    )


def dirty_blocks(nr_blocks: int, fraction: float, layout: str) -> list[int]:
    """Ascending block numbers: single ones, or runs of 64."""
    random_source = random.Random(nr_blocks)
    count = max(1, round(nr_blocks * fraction))
    if layout == SCATTERED:
        return sorted(random_source.sample(range(nr_blocks), count))
    clusters = random_source.sample(range(nr_blocks // CLUSTER_BLOCKS), -(-count // CLUSTER_BLOCKS))
    return sorted(
        cluster * CLUSTER_BLOCKS + number
        for cluster in clusters
        for number in range(min(count, CLUSTER_BLOCKS))
    )


def make_equal(devices: Devices, size_bytes: int) -> None:
    """The same random bytes on all three devices."""
    disks.fill(devices.old, size_bytes)
    for device in (devices.source, devices.destination):
        run("dd", f"if={devices.old}", f"of={device}", "bs=4M", "conv=fsync")


@contextmanager
def dirtied(devices: Devices, blocks: Sequence[int], setting: Setting) -> Iterator[Path]:
    """Change some pages of the dirty blocks on the source, and yield the list of the blocks."""
    extents = setting.memory / "dirty.list"
    extents.write_text("".join(f"{block * BLOCK} {BLOCK}\n" for block in blocks))
    change_pages(devices.source, blocks)
    try:
        yield extents
    finally:
        run(*disks.engine("blind", devices.old, devices.source, extents))
        run(*disks.engine("blind", devices.old, devices.destination, extents))


def change_pages(device: Path, blocks: Sequence[int]) -> None:
    """A quarter of the pages of each block, at random; the same ones each time."""
    random_source = random.Random(1)
    with device.open("r+b", buffering=0) as file:
        for block in blocks:
            for page in random_source.sample(range(BLOCK // PAGE), PAGES_CHANGED):
                os.pwrite(file.fileno(), os.urandom(PAGE), block * BLOCK + page * PAGE)
        os.fsync(file.fileno())


def at(
    case: str,
    layout: str,
    devices: Devices,
    blocks: Sequence[int],
    extents: Path,
    setting: Setting,
) -> Iterator[Series]:
    """All programs at one share; what takes long is measured once, and not for every layout."""
    domain = setting.memory / "dirty.map"
    domain.write_text(ddrescue_domain(blocks))
    words = commands(devices, extents, domain)
    works: dict[str, Work] = {name: partial(used, *command) for name, command in words.items()}
    restore = partial(run, *disks.engine("blind", devices.old, devices.destination, extents))
    check(works, devices, restore)

    def before(_contestant: str) -> None:
        restore()
        drop_caches()

    taken = alternating(setting.rounds(5), works, before=before)
    if layout == SCATTERED:
        words[RSYNC] = rsync(devices.source, devices.destination)
        taken |= alternating(1, {RSYNC: partial(used, *words[RSYNC])}, before=before)
        # It is too slow for a run that is not measured.
        check_same(RSYNC, devices.source, devices.destination)
    for name, usages in taken.items():
        yield series(name, case, usages, words[name], position=len(blocks) * BLOCK)


def parts_at(
    case: str, devices: Devices, blocks: Sequence[int], extents: Path, setting: Setting
) -> Iterator[Series]:
    """Reading and comparing alone; and the two halves of a sync, by its own clock."""
    source, destination = devices.source, devices.destination
    compare = disks.engine("compare", source, destination, extents)
    sync = disks.engine("sync", source, destination, extents, devices.undo)
    samples: dict[str, list[float]] = {COMPARE: [], **{half: [] for half in HALVES}}
    for _ in range(setting.rounds(5)):
        run(*disks.engine("blind", devices.old, destination, extents))
        drop_caches()
        samples[COMPARE].append(used(*compare).seconds)
        drop_caches()
        told = [float(word) for word in run(*sync).split() if word.replace(".", "").isdigit()]
        for half, seconds in zip(HALVES, told, strict=True):
            samples[half].append(seconds)
    for part, taken in samples.items():
        yield Series(part, case, tuple(taken), position=len(blocks) * BLOCK)


def ddrescue_domain(blocks: Sequence[int]) -> str:
    """The dirty blocks as a mapfile of ddrescue, which wants all of the device described."""
    lines, position = ["0x0 ?"], 0
    for block in blocks:
        if block * BLOCK > position:
            lines.append(f"{position:#x} {block * BLOCK - position:#x} ?")
        lines.append(f"{block * BLOCK:#x} {BLOCK:#x} +")
        position = (block + 1) * BLOCK
    return "\n".join(lines) + "\n"


def commands(devices: Devices, extents: Path, domain: Path) -> dict[str, Command]:
    """Who works by the list, and the fastest of those that copy everything."""
    source, destination = devices.source, devices.destination
    ddrescue = ["ddrescue", "--force", "--quiet", "--idirect", "--odirect",
                f"--domain-mapfile={domain}", source, destination]  # fmt: skip
    return {
        OURS: disks.engine("sync", source, destination, extents, devices.undo),
        NO_UNDO: disks.engine("sync", source, destination, extents, "-"),
        BLIND: disks.engine("blind", source, destination, extents),
        "ddrescue": disks.flushed(ddrescue, destination),
        "nbdcopy of everything": ["nbdcopy", "--flush", f"--request-size={REQUEST_BYTES}", source,
                                  destination],
    }  # fmt: skip


def rsync(source: Path, destination: Path) -> Command:
    """Without --ignore-times it skips devices whose nodes are of the same size and time."""
    command = ["rsync", "--ignore-times", "--inplace", "--no-whole-file", "--copy-devices",
               "--write-devices", source, destination]  # fmt: skip
    return disks.flushed(command, destination)


def check(works: Mapping[str, Work], devices: Devices, restore: partial[str]) -> None:
    """After each the destination is the source, whose blocks were all restored before."""
    for name, work in works.items():
        restore()
        work()
        check_same(name, devices.source, devices.destination)


def check_same(name: str, source: Path, destination: Path) -> None:
    """The destination begins with the source; whoever ran last brought everything over."""
    try:
        run("cmp", f"--bytes={sectors(source) * SECTOR}", source, destination)
    except BenchError as error:
        raise BenchError(f"{name} did not bring everything over: {error}") from error
