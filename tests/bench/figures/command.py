"""A sync as users run it: the whole command beside the engine alone, and beside other programs.

The engine's time, subtracted, is what the rest of a command costs: the interpreter's start, a point
and its window, dm-era's marks, labels, the catalogue.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from measure.devices import GIB, MIB, loop
from measure.model import Figure, Plot, Series, Unit
from measure.process import Work, alternating, run, series, used
from measure.setting import Setting

from figures import disks
from figures.protected import FRONT, NAME
from figures.sync import (
    BLOCK,
    FRACTIONS,
    PAGES_CHANGED,
    RSYNC,
    SCATTERED,
    UNDO_SHARE,
    change_pages,
    check_same,
    dirty_blocks,
    rsync,
)

SHARES = ("0.1 %", "1 %", "10 %")
QUICK_SHARES = ("1 %",)
SYNC = ("dmsnap", "sync", NAME)
OURS, ENGINE, START, DD = "dmsnap sync", "the engine alone", "dmsnap --version", "dd of everything"
WHOLE, REST = "the whole command", "its start and end, and what lies between the steps"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two devices that a program makes equal, of which the first is written to."""

    written: Path
    copy: Path

    def dirty(self, blocks: Sequence[int]) -> None:
        """Some pages of the blocks differ from now on, and no cache holds any."""
        change_pages(self.written, blocks)
        for device in (self.written, self.copy):
            run("blockdev", "--flushbufs", device)

    def check(self, name: str) -> None:
        check_same(name, self.written, self.copy)


@dataclass(frozen=True, slots=True)
class Pairs:
    """A protected volume with its replica, and two bare devices for all others."""

    protected: Pair
    bare: Pair
    undo: Path

    def of(self, contestant: str) -> Pair:
        return self.protected if contestant == OURS else self.bare


def measure(setting: Setting) -> Iterator[Figure]:
    """Scattered blocks, as in the sync of a list, at every share of dirty ones."""
    size_bytes = setting.size(GIB, 128 * MIB)
    whole: list[Series] = []
    parts: list[Series] = []
    with pairs(setting.scratch, size_bytes) as devices:
        for case in QUICK_SHARES if setting.quick else SHARES:
            blocks = dirty_blocks(size_bytes // BLOCK, FRACTIONS[case], SCATTERED)
            whole += at(case, devices, blocks, setting)
            parts += parts_at(case, devices.protected, blocks, setting)
    yield figure(size_bytes, tuple(whole))
    yield parts_figure(tuple(parts))


@contextmanager
def pairs(scratch: Path, size_bytes: int) -> Iterator[Pairs]:
    """Random bytes on all of them, as allocated as each other."""
    recovery_bytes = 2 * size_bytes + 64 * MIB  # no sync has to drop a point
    store = scratch / "store"
    store.mkdir()
    with ExitStack() as stack:
        primary, source, destination = (
            stack.enter_context(loop(scratch / name, size_bytes))
            for name in ("primary", "source", "destination")
        )
        recovery = stack.enter_context(loop(scratch / "recovery", recovery_bytes))
        undo = stack.enter_context(loop(scratch / "undo", size_bytes // UNDO_SHARE, allocated=True))
        for device in (primary, source):
            disks.fill(device, size_bytes)
        run("dd", f"if={source}", f"of={destination}", "bs=4M", "conv=fsync")
        run("dmsnap", "protect", primary, "--name", NAME, "--recovery", recovery, "--store", store)
        stack.callback(run, "dmsnap", "unprotect", NAME, "--forget")
        yield Pairs(Pair(FRONT, recovery), Pair(source, destination), undo)


def at(case: str, devices: Pairs, blocks: Sequence[int], setting: Setting) -> Iterator[Series]:
    """All of them at one share; rsync, which takes long, is measured once."""
    extents = setting.memory / "dirty.list"
    extents.write_text("".join(f"{block * BLOCK} {BLOCK}\n" for block in blocks))
    source, destination = devices.bare.written, devices.bare.copy
    words: dict[str, disks.Command] = {
        OURS: SYNC,
        ENGINE: disks.engine("sync", source, destination, extents, devices.undo),
        START: ("dmsnap", "--version"),
        DD: ("dd", f"if={source}", f"of={destination}", "bs=4M", "iflag=direct", "oflag=direct",
             "conv=fsync"),
    }  # fmt: skip
    works: dict[str, Work] = {name: partial(used, *command) for name, command in words.items()}

    def before(contestant: str) -> None:
        devices.of(contestant).dirty(blocks)

    for name in (OURS, ENGINE, DD):
        before(name)
        works[name]()
        devices.of(name).check(name)
    taken = alternating(setting.rounds(7), works, before=before)
    words[RSYNC] = rsync(source, destination)
    taken |= alternating(1, {RSYNC: partial(used, *words[RSYNC])}, before=before)
    devices.bare.check(RSYNC)  # it is too slow for a run that is not measured
    for name, usages in taken.items():
        yield series(name, case, usages, words[name], position=len(blocks) * BLOCK)


def parts_at(case: str, pair: Pair, blocks: Sequence[int], setting: Setting) -> Iterator[Series]:
    """The steps of the whole command, by its own clock."""
    samples: dict[str, list[float]] = {}
    for _ in range(setting.rounds(7)):
        pair.dirty(blocks)
        begun = time.perf_counter()
        said = run(*SYNC, "--json")
        seconds = time.perf_counter() - begun
        steps = json.loads(said)["steps"]
        for part, taken in {WHOLE: seconds, **steps, REST: seconds - sum(steps.values())}.items():
            samples.setdefault(part, []).append(taken)
    for part, each in samples.items():
        yield Series(part, case, tuple(each), position=len(blocks) * BLOCK)


def figure(size_bytes: int, found: tuple[Series, ...]) -> Figure:
    """The command beside the engine and the others."""
    return Figure(
        key="command",
        title="A sync as users run it",
        text=f"A protected volume of {size_bytes // MIB} MiB without a file system, as in “Sync of "
        f"dirty blocks, scattered”: blocks of 64 KiB, {PAGES_CHANGED} of whose 16 pages differ. "
        "The engine has a list of the blocks and devices of its own, of the same size on the same "
        "disk; what the command takes beyond it are the start of Python, a point and its window, "
        "the marks of dm-era, labels and the catalogue. Modules are in the page cache, nothing of "
        "the devices is.",
        unit=Unit.SECONDS,
        series=found,
        subject=OURS,
        limits=(ENGINE, START),
        plot=Plot.LINES,
        axis="dirty blocks",
    )


def parts_figure(found: tuple[Series, ...]) -> Figure:
    """Where the time of a command goes."""
    return Figure(
        key="command-parts",
        title="Where the time of the whole command goes",
        text="Its steps as it tells them itself, with --json; the others are the start of Python, "
        "reading the catalogue, the checks before the first step, and the end.",
        unit=Unit.SECONDS,
        series=found,
        subject="",
        plot=Plot.NONE,
        axis="dirty blocks",
    )
