"""``inspect era`` beside both ``era_invalidate``s, and how it grows from 1 to 64 TiB.

On the host, from the page cache. The tools are Debian 12's (0.9) and Debian 13's (1.x), in the
lab's trees of them. The images are what native/tests/era_image_main.c describes: all eras that
hold writes are digested, as the kernel leaves them after a while.
"""

import json
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from measure.devices import GIB, KIB, MIB, TIB
from measure.model import Figure, Goal, Plot, Series, Statistic, Unit
from measure.process import BenchError, Usage, Work, alternating, programs, run, series, used
from measure.setting import CHECKOUT, Setting

BLOCK, SINCE = 64 * KIB, 6
SIZE, DIRTY_PER_TIB = 4 * TIB, 25_000
TINY = GIB  # next to nothing to read
GROWTH_TIB, QUICK_GROWTH_TIB = (1, 4, 16, 64), (1, 4)
OURS, START, READING = "dmsnap inspect era", "dmsnap --version", "cat"
SHUFFLED = "dmsnap inspect era, blocks in random order"
ABOVE = "the first beyond the second"
OLD, NEW = "era_invalidate 0.9", "era_invalidate 1.x"
RELEASES = {NEW: "trixie", OLD: "bookworm"}
OLD_ROUNDS = 2  # half a minute each
CASE = "4 TiB"
MEMORY_LIMIT = 64 * MIB
# What grows with the volume is in proportion to its blocks: a bit for each, and an eighth of that.
BITS_FOR_A_BLOCK = 9 / 8
IMPORTS = "words of the command line, imports"
READ, PRINT = "reading, checking, merging", "extents as text"
REST = "the rest: writing it, the end of the process"
FOR_NOTHING = "the same for 1 GiB"
A_BIT = "a bit for each block"
BEYOND = "what grows with the volume"
# The core by its own clock, in a process of its own: IMAGE SINCE.
CORE_ALONE = """
import os, sys, time
from dmsnap._native.era import EraMetadata
fd = os.open(sys.argv[1], os.O_RDONLY)
laps = [(time.perf_counter(), time.process_time())]
with EraMetadata.open(fd, "image") as metadata:
    found = metadata.written_blocks(int(sys.argv[2]))
laps.append((time.perf_counter(), time.process_time()))
for _ in found.texts(json=True):
    pass
laps.append((time.perf_counter(), time.process_time()))
for (begun, cpu_begun), (ended, cpu_ended) in zip(laps, laps[1:]):
    print(ended - begun, cpu_ended - cpu_begun)
"""


def measure(setting: Setting) -> Iterator[Figure]:
    """The same question to all tools, and what ours spends; then ours on growing volumes."""
    yield compare(setting)
    yield parts(setting)
    yield from grow(setting)


def compare(setting: Setting) -> Figure:
    """4 TiB by all three in turn, after their answers were found to be the same."""
    with (
        image_of(SIZE, setting) as image,
        image_of(SIZE, setting, shuffled="7") as shuffled,
    ):
        nr_extents = check_same(image, shuffled, setting)
        commands = {
            OURS: inspect(setting, image),
            SHUFFLED: inspect(setting, shuffled),
            START: [setting.program, "--version"],
            READING: ["cat", image],
            NEW: era_invalidate(NEW, image),
        }
        old = {OLD: era_invalidate(OLD, image)}
        taken = alternating(setting.rounds(9), programs(commands))
        taken |= alternating(setting.rounds(OLD_ROUNDS, 1), programs(old))
        image_bytes = image.stat().st_size
    words: dict[str, Sequence[object] | str] = {
        **commands,
        **{name: told(name) for name in RELEASES},
    }
    found = [series(name, CASE, taken[name], words[name]) for name in words]
    above = beyond(taken[OURS], taken[START])
    found.append(Series(ABOVE, CASE, tuple(usage.seconds for usage in above)))
    return Figure(
        key="era",
        title="Which blocks were written since an era: 4 TiB in 64 KiB blocks",
        text=f"{nr_extents:,} extents, the same from all three tools, out of {image_bytes // MIB} "
        "MiB of metadata in the page cache: 100,000 scattered dirty blocks, all eras digested. As "
        "whole processes, output to /dev/null.",
        unit=Unit.SECONDS,
        series=tuple(found),
        subject=OURS,
        limits=(START, READING, ABOVE),
        axis="volume",
        goals=(
            Goal("era metadata, beside era_invalidate 1.x", CASE, OURS, 1 / 15, against=NEW),
            Goal("the same beyond the start of the program", CASE, ABOVE, 0.1),
            Goal("its memory", CASE, OURS, MEMORY_LIMIT, Statistic.MEMORY),
        ),
    )


def parts(setting: Setting) -> Figure:
    """Where the time of ours goes: whole processes in turn, and the core by its own clock."""
    with image_of(SIZE, setting) as image, image_of(TINY, setting, "tiny") as tiny:
        alone = [setting.python, "-c", CORE_ALONE, image, SINCE]
        laps: list[list[Usage]] = []
        works: dict[str, Work] = {
            **programs(
                {
                    OURS: inspect(setting, image),
                    START: [setting.program, "--version"],
                    FOR_NOTHING: inspect(setting, tiny),
                }
            ),
            READ: lambda: laps.append(laps_of(run(*alone))),
        }
        taken = alternating(setting.rounds(9), works)
    return Figure(
        key="era-parts",
        title="Where the time goes",
        text="dmsnap --version is the start of the program; what the same command takes beyond it "
        "for a volume of 1 GiB is its words and imports. Reading and text are by the core's own "
        "clock, in a process of its own; cat, above, reads the same bytes and does nothing with "
        "them. Where the processor takes longer than the clock, several threads read and check.",
        unit=Unit.SECONDS,
        series=tuple(parts_of(taken, laps)),
        subject="",
        plot=Plot.NONE,
        axis="volume",
    )


def laps_of(said: str) -> list[Usage]:
    """What CORE_ALONE prints: seconds and processor seconds of each lap."""
    return [Usage(*map(float, line.split())) for line in said.splitlines()]


def parts_of(
    taken: Mapping[str, Sequence[Usage]], laps: Sequence[Sequence[Usage]]
) -> Iterator[Series]:
    """The whole as a sum of parts, round by round."""
    imports = beyond(taken[FOR_NOTHING], taken[START])
    read, text = ([lap[number] for lap in laps] for number in range(2))
    known = zip(taken[START], imports, read, text, strict=True)
    rest = beyond(taken[OURS], [added(each) for each in known])
    named = {START: taken[START], IMPORTS: imports, READ: read, PRINT: text, REST: rest}
    for name, usages in named.items():
        yield Series(
            name,
            CASE,
            samples=tuple(usage.seconds for usage in usages),
            cpu_seconds=tuple(usage.cpu_seconds for usage in usages),
        )


def beyond(usages: Sequence[Usage], others: Sequence[Usage]) -> list[Usage]:
    """What was used more than by the others, round by round."""
    return [
        Usage(
            usage.seconds - other.seconds,
            usage.cpu_seconds - other.cpu_seconds,
            usage.peak_bytes - other.peak_bytes,
        )
        for usage, other in zip(usages, others, strict=True)
    ]


def added(usages: Sequence[Usage]) -> Usage:
    """Times of parts that follow each other."""
    return Usage(sum(usage.seconds for usage in usages), sum(usage.cpu_seconds for usage in usages))


def grow(setting: Setting) -> Iterator[Figure]:
    """Ours and reading the same bytes once, 25,000 dirty blocks in each TiB; then the memory."""
    found: list[Series] = []
    memory: list[Series] = []
    with image_of(TINY, setting, "tiny") as tiny:
        for size_tib in QUICK_GROWTH_TIB if setting.quick else GROWTH_TIB:
            with image_of(size_tib * TIB, setting) as image:
                commands = {
                    OURS: inspect(setting, image),
                    READING: ["cat", image],
                    FOR_NOTHING: inspect(setting, tiny),
                    START: [setting.program, "--version"],
                }
                taken = alternating(setting.rounds(5), programs(commands))
                found += [
                    series(name, f"{size_tib} TiB", taken[name], commands[name],
                           position=size_tib * TIB,
                           note=f"{image.stat().st_size // MIB} MiB of metadata")
                    for name in (OURS, READING)
                ]  # fmt: skip
            memory += memory_of(size_tib, taken)
    yield Figure(
        key="era-growth",
        title="The same over the size of the volume",
        text="25,000 dirty blocks in each TiB; cat reads the metadata once.",
        unit=Unit.SECONDS,
        series=tuple(found),
        subject=OURS,
        limits=(READING,),
        plot=Plot.LINES,
        axis="volume",
    )
    yield memory_figure(tuple(memory), size_tib)


def memory_of(size_tib: int, taken: Mapping[str, Sequence[Usage]]) -> list[Series]:
    """Peak resident memory of each process, and what it comes to."""
    grown = beyond(taken[OURS], taken[FOR_NOTHING])
    peaks: dict[str, Sequence[Usage]] = {
        OURS: taken[OURS], FOR_NOTHING: taken[FOR_NOTHING], START: taken[START], BEYOND: grown
    }  # fmt: skip
    return [
        *(
            Series(name, f"{size_tib} TiB", tuple(usage.peak_bytes for usage in usages))
            for name, usages in peaks.items()
        ),
        Series(A_BIT, f"{size_tib} TiB", (float(bits_bytes(size_tib)),)),
    ]


def bits_bytes(size_tib: int) -> int:
    """A bit for each block."""
    return size_tib * TIB // BLOCK // 8


def memory_figure(found: tuple[Series, ...], largest_tib: int) -> Figure:
    """What may grow with the volume is the result: a bit for each block, where all are written."""
    case = f"{largest_tib} TiB"
    return Figure(
        key="era-memory",
        title="Its memory over the size of the volume",
        text="The largest resident set. What the same command takes for a volume of 1 GiB are the "
        "interpreter, modules and what the program works with. Beyond that there are the result, "
        "which is a bit for each block where blocks all over the volume were written, and the "
        "buffers of at most four readers.",
        unit=Unit.BYTES,
        series=found,
        subject="",
        plot=Plot.NONE,
        axis="volume",
        goals=(
            Goal(
                f"memory that {case} take beyond 1 GiB, in bits for a block",
                case,
                BEYOND,
                BITS_FOR_A_BLOCK,
                against=A_BIT,
            ),
        ),
    )


@contextmanager
def image_of(size: int, setting: Setting, name: str = "", shuffled: str = "") -> Iterator[Path]:
    """An image in the page cache, gone with the block; ``shuffled`` seeds its blocks' order."""
    builder = CHECKOUT / "build" / "native-gcc" / "era_image"
    target = f"../{builder.relative_to(CHECKOUT)}"
    run("make", "-s", "-C", CHECKOUT / "native", "CC=gcc", target)
    image = setting.scratch / f"era{name}{shuffled}.img"
    seed = [shuffled] if shuffled else []
    run(builder, image, size // BLOCK, BLOCK // 512, size * DIRTY_PER_TIB // TIB, *seed)
    try:
        used("cat", image)
        yield image
    finally:
        image.unlink()


def inspect(setting: Setting, image: Path) -> list[object]:
    return [setting.program, "inspect", "era", image, "--since", SINCE, "--json"]


def era_invalidate(name: str, image: Path) -> list[object]:
    """What runs a lab tree's era_invalidate with the image's directory at /mnt."""
    sys.path.insert(0, str(CHECKOUT / "tests" / "lab"))
    from harness import tree
    from harness.cache import Layers
    from harness.report import Report
    from harness.supplies import cache_directory

    root = tree.obtain(Layers(cache_directory(), Report(False)), RELEASES[name])
    words = ["era_invalidate", "--written-since", SINCE, "-o", "/mnt/out.xml",
             f"/mnt/{image.name}"]  # fmt: skip
    script = f'mount --bind "$1" {root}/mnt && shift && exec chroot {root} "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh", image.parent, *words]


def told(name: str) -> str:
    """The command line as one would type it."""
    return f"era_invalidate --written-since {SINCE} -o out.xml era.img  # of {RELEASES[name]}"


def check_same(image: Path, shuffled: Path, setting: Setting) -> int:
    """All tools find the same extents, in whatever order blocks lie; their number."""
    found = json.loads(run(*inspect(setting, image)))["extents"]
    if json.loads(run(*inspect(setting, shuffled)))["extents"] != found:
        raise BenchError("the order of the blocks matters to what dmsnap finds")
    for name in RELEASES:
        run(*era_invalidate(name, image))
        expected = [extent(each) for each in ET.parse(image.with_name("out.xml")).getroot()]
        if found != expected:
            raise BenchError(f"{name} finds {len(expected)} extents, dmsnap {len(found)}")
    return len(found)


def extent(element: ET.Element) -> list[int]:
    """``<block block="5"/>`` or ``<range begin="5" end="7"/>`` in bytes."""
    begin = int(element.get("block") or element.get("begin") or 0)
    end = int(element.get("end") or begin + 1)
    return [begin * BLOCK, (end - begin) * BLOCK]
