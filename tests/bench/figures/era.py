"""``inspect era`` beside both ``era_invalidate``s, and how it grows from 1 to 64 TiB.

On the host, from the page cache. The tools are Debian 12's (0.9) and Debian 13's (1.x), in the
lab's trees of them. The images are what native/tests/era_image_main.c describes: all eras that
hold writes are digested, as the kernel leaves them after a while.
"""

import json
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from measure.devices import KIB, MIB, TIB
from measure.model import Figure, Goal, Plot, Series, Statistic, Unit
from measure.process import BenchError, alternating, programs, run, series, used
from measure.setting import CHECKOUT, Setting

BLOCK, SINCE = 64 * KIB, 6
SIZE, DIRTY_PER_TIB = 4 * TIB, 25_000
GROWTH_TIB, QUICK_GROWTH_TIB = (1, 4, 16, 64), (1, 4)
OURS, START, READING = "dmsnap inspect era", "dmsnap --version", "cat"
SHUFFLED = "dmsnap inspect era, blocks in random order"
ABOVE = "the first beyond the second"
OLD, NEW = "era_invalidate 0.9", "era_invalidate 1.x"
RELEASES = {NEW: "trixie", OLD: "bookworm"}
OLD_ROUNDS = 2  # half a minute each
CASE = "4 TiB"
MEMORY_LIMIT = 64 * MIB


def measure(setting: Setting) -> Iterator[Figure]:
    """The same question to all tools; then ours on growing volumes."""
    yield compare(setting)
    yield grow(setting)


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
    beyond = zip(taken[OURS], taken[START], strict=True)
    found.append(Series(ABOVE, CASE, tuple(ours.seconds - start.seconds for ours, start in beyond)))
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


def grow(setting: Setting) -> Figure:
    """Ours and reading the same bytes once, 25,000 dirty blocks in each TiB."""
    found: list[Series] = []
    for size_tib in QUICK_GROWTH_TIB if setting.quick else GROWTH_TIB:
        with image_of(size_tib * TIB, setting) as image:
            commands = {OURS: inspect(setting, image), READING: ["cat", image]}
            taken = alternating(setting.rounds(5), programs(commands))
            found += [
                series(name, f"{size_tib} TiB", usages, commands[name], position=size_tib * TIB,
                       note=f"{image.stat().st_size // MIB} MiB of metadata")
                for name, usages in taken.items()
            ]  # fmt: skip
    return Figure(
        key="era-growth",
        title="The same over the size of the volume",
        text="25,000 dirty blocks in each TiB; cat reads the metadata once.",
        unit=Unit.SECONDS,
        series=tuple(found),
        subject=OURS,
        limits=(READING,),
        plot=Plot.LINES,
        axis="volume",
        goals=(
            Goal(f"memory at {found[-1].case}, above a bit for each block", found[-1].case, OURS,
                 MEMORY_LIMIT + size_tib * TIB // BLOCK // 8, Statistic.MEMORY),
        ),
    )  # fmt: skip


@contextmanager
def image_of(size: int, setting: Setting, shuffled: str = "") -> Iterator[Path]:
    """An image in the page cache, gone with the block; ``shuffled`` seeds its blocks' order."""
    builder = CHECKOUT / "build" / "native-gcc" / "era_image"
    target = f"../{builder.relative_to(CHECKOUT)}"
    run("make", "-s", "-C", CHECKOUT / "native", "CC=gcc", target)
    image = setting.scratch / f"era{shuffled}.img"
    seed = [shuffled] if shuffled else []
    run(builder, image, size // BLOCK, BLOCK // 512, size // TIB * DIRTY_PER_TIB, *seed)
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
