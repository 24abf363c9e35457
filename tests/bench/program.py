"""Measure sections, keep them as JSON, render the page of all that there are."""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

import sections
from figures import disks
from measure import machine, store
from measure.model import Section
from measure.process import BenchError
from measure.setting import CHECKOUT
from sections import BY_NAME, Chapter, Place

WORK = CHECKOUT / "build" / "bench"
# Beside the page and its plots, and kept with them: who measures a section again leaves the others.
RESULTS = CHECKOUT / "docs" / "benchmarks"
PROGRAM = CHECKOUT / ".venv" / "bin" / "dmsnap"
MEMORY = Path("/dev/shm")  # noqa: S108 - a tmpfs is what is wanted
GUEST_MEMORY_MIB = "3072"
GUEST_TIMEOUT_SECONDS = "5400"  # of a slow disk: the window alone took 1150 s on a fast one


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; a wrong one ends the program with status 2."""
    parser = argparse.ArgumentParser(prog="tests/bench/run", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(BY_NAME)}")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="few rounds on small volumes, into build/bench/quick: proves the bench, is no result",
    )
    parser.add_argument(
        "--render", action="store_true", help="measure nothing, render what was measured"
    )
    found = parser.parse_args(argv)
    unknown = set(found.sections) - set(BY_NAME)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return found


@contextmanager
def work_directories() -> Iterator[tuple[Path, Path]]:
    """A directory on the checkout's disk and one in memory, gone at the end."""
    WORK.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="work-", dir=WORK) as scratch,
        tempfile.TemporaryDirectory(prefix="dmsnap-bench-", dir=MEMORY) as memory,
    ):
        yield Path(scratch), Path(memory)


def on_host(chapter: Chapter, *, quick: bool) -> Section:
    """Measure a section in this process."""
    with work_directories() as (scratch, memory):
        setting = sections.setting(quick=quick, program=PROGRAM, scratch=scratch, memory=memory)
        return sections.measure(chapter, setting)


def in_guest(chapter: Chapter, *, quick: bool) -> Section:
    """Measure a section in a fresh guest and take its result out of it."""
    WORK.mkdir(parents=True, exist_ok=True)
    host = machine.describe("the host", WORK)
    with tempfile.TemporaryDirectory(prefix="guest-", dir=WORK) as out:
        lab = [
            "tests/lab/run",
            "--flush",
            "--memory",
            GUEST_MEMORY_MIB,
            "--timeout",
            GUEST_TIMEOUT_SECONDS,
        ]
        command = ["python3", "tests/bench/in_guest", chapter.name, "quick" if quick else "full"]
        completed = subprocess.run([*lab, "--out", out, *command], cwd=CHECKOUT, check=False)
        if completed.returncode:
            raise BenchError(f"the guest ended with status {completed.returncode}")
        section = store.load(Path(out) / f"{chapter.name}.json")
    return replace(section, machines=(host, *section.machines))


def measure(chapter: Chapter, *, quick: bool) -> Section:
    """Measure a section where it belongs."""
    if chapter.place is Place.HOST:
        section = on_host(chapter, quick=quick)
    else:
        section = in_guest(chapter, quick=quick)
    return replace(section, revision=machine.revision(CHECKOUT))


def end(number: int, _frame: FrameType | None) -> None:
    """A signal leaves no loop device behind."""
    raise SystemExit(128 + number)


def main(argv: Sequence[str]) -> int:
    """Measure, keep, render; a section that fails leaves what it had before, and status 1."""
    options = arguments(argv)
    if os.geteuid() != 0:
        print("bench: loop devices and the lab need root", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, end)
    results = WORK / "quick" if options.quick else RESULTS
    results.mkdir(parents=True, exist_ok=True)
    failed = []
    if not options.render:
        disks.build_engine()
    for chapter in [] if options.render else sections.CHAPTERS:
        if options.sections and chapter.name not in options.sections:
            continue
        print(f"{chapter.title}, on {chapter.place.value}", flush=True)
        try:
            section = measure(chapter, quick=options.quick)
        except BenchError as error:
            print(f"bench: {chapter.name}: {error}", file=sys.stderr)
            failed.append(chapter.name)
            continue
        store.save(section, results)
        print(f"  {section.seconds:.0f} s", flush=True)
    render(results, results if options.quick else RESULTS.parent)
    return int(bool(failed))


def render(results: Path, target: Path) -> None:
    """Write benchmarks.md and its plots into ``target`` from all sections that there are."""
    from report import page

    measured = store.load_all(results)
    plots = target / "benchmarks"
    for former in plots.glob("*.svg"):
        former.unlink()
    page.write(
        [measured[name] for name in BY_NAME if name in measured],
        target / "benchmarks.md",
        plots,
    )
    print(f"{target / 'benchmarks.md'}: {len(measured)} of {len(BY_NAME)} sections", flush=True)
