"""``inspect era`` beside era_invalidate 1.x: 4 TiB in 64 KiB blocks, 100,000 of them dirty.

On the host, from the page cache. era_invalidate is Debian 13's, in the lab's tree of it. The image
is what native/tests/era_image_main.c describes: all eras that hold writes are digested, as the
kernel leaves them after a while.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from figures.bench import KIB, TIB, alternating, heading, row, run, spread

CHECKOUT = Path(__file__).resolve().parents[3]
SIZE, BLOCK, DIRTY, SINCE = 4 * TIB, 64 * KIB, 100_000, 6
ROUNDS = 7


def measure(program: Path) -> None:
    """Make the image, check that both tools find the same, then time them in turn."""
    heading(f"era metadata of 4 TiB in 64 KiB blocks, {DIRTY:,} scattered dirty blocks")
    with tempfile.TemporaryDirectory(prefix="dmsnap-bench-") as directory:
        image = make_image(Path(directory))
        ours = [str(program), "inspect", "era", str(image), "--since", str(SINCE), "--json"]
        theirs = in_debian_13(image.parent, "era_invalidate", "--written-since", SINCE,
                              "-o", "/mnt/out.xml", "/mnt/era.img")  # fmt: skip
        nr_extents = check_same(ours, theirs, image.parent / "out.xml")
        times = alternating(ROUNDS, lambda: run(*ours), lambda: run(*theirs), lambda: read(image))
    row(
        "seconds, median (min-max)", "dmsnap inspect era", "era_invalidate 1.x", "reading the image"
    )
    row("as whole processes", *(spread(values) for values in times))
    ratio = statistics.median(times[1]) / statistics.median(times[0])
    row("times faster (goal: over 1)", f"{ratio:.1f}")
    row("extents, the same from both", nr_extents)
    with tempfile.TemporaryDirectory(prefix="dmsnap-bench-") as directory:
        image = make_image(Path(directory), 16 * TIB, 1_000_000)
        row("peak memory, 16 TiB and 1,000,000 dirty, MiB", peak_mib(program, image))


def make_image(directory: Path, size: int = SIZE, dirty: int = DIRTY) -> Path:
    builder = CHECKOUT / "build" / "native-gcc" / "era_image"
    run("make", "-s", "-C", CHECKOUT / "native", f"../{builder.relative_to(CHECKOUT)}")
    image = directory / "era.img"
    run(builder, image, size // BLOCK, BLOCK // 512, dirty)
    return image


def in_debian_13(directory: Path, *argv: object) -> list[str]:
    """The argument list that runs a program of the lab's Debian 13 with ``directory`` at /mnt."""
    sys.path.insert(0, str(CHECKOUT / "tests" / "lab"))
    from harness import tree
    from harness.cache import Layers
    from harness.report import Report
    from harness.supplies import cache_directory

    root = tree.obtain(Layers(cache_directory(), Report(False)), "trixie")
    script = f'mount --bind "$1" {root}/mnt && shift && exec chroot {root} "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh", str(directory), *map(str, argv)]


def check_same(ours: Sequence[str], theirs: Sequence[str], answer: Path) -> int:
    run(*theirs)
    expected = [extent(element) for element in ET.parse(answer).getroot()]
    found = json.loads(run(*ours))["extents"]
    if found != expected:
        raise SystemExit(f"the results differ: {len(found)} and {len(expected)} extents")
    return len(found)


def extent(element: ET.Element) -> list[int]:
    """``<block block="5"/>`` or ``<range begin="5" end="7"/>`` in bytes."""
    begin = int(element.get("block") or element.get("begin") or 0)
    end = int(element.get("end") or begin + 1)
    return [begin * BLOCK, (end - begin) * BLOCK]


def read(image: Path) -> None:
    subprocess.run(["cat", image], stdout=subprocess.DEVNULL, check=True)


def peak_mib(program: Path, image: Path) -> int:
    """The peak resident memory of ``inspect era`` in MiB."""
    words = [str(program), "inspect", "era", str(image), "--since", str(SINCE), "--json"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}: {process.returncode}")
    return usage.ru_maxrss // KIB
