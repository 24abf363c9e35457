"""Comparing two devices that are equal: everything is read, nothing is found."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from measure.devices import GIB, MIB
from measure.model import Figure, Goal, Series, Unit
from measure.process import BenchError, Work, alternating, run, series, used
from measure.setting import Setting

from figures import disks
from figures.disks import DISK, TMPFS, Command

LIMIT = "fio, reading both"


def measure(setting: Setting) -> Iterator[Figure]:
    """On the disk and in memory."""
    size_bytes = setting.size(2 * GIB, 128 * MIB)
    found: list[Series] = []
    for case, directory in disks.media(setting).items():
        with disks.loops(directory, size_bytes, "one", "other") as (one, other):
            disks.fill(one, size_bytes)
            run("dd", f"if={one}", f"of={other}", "bs=4M", "conv=fsync")
            found += on(case, one, other, size_bytes, setting)
    yield Figure(
        key="compare",
        title="Comparing two devices",
        text=f"{size_bytes // MIB} MiB on each side, equal, caches dropped before each round."
        + disks.ENGINE_ALONE,
        unit=Unit.SECONDS,
        series=tuple(found),
        limits=(LIMIT,),
        axis="medium",
        goals=tuple(
            Goal(f"comparing on {case}, beside reading both sides", case, "dmsnap", 1.1,
                 against=LIMIT)
            for case in (DISK, TMPFS)
        ),
    )  # fmt: skip


def on(case: str, one: Path, other: Path, size_bytes: int, setting: Setting) -> Iterator[Series]:
    """All programs on two devices."""
    words: dict[str, Command] = {
        "dmsnap": disks.engine("compare", one, other),
        "cmp": ["cmp", one, other],
        "qemu-img": ["qemu-img", "compare", "-f", "raw", "-F", "raw", "-T", "none", one, other],
    }
    check_finds(words, one, other, size_bytes)
    works: dict[str, Work] = {name: partial(used, *command) for name, command in words.items()}
    words[LIMIT], works[LIMIT] = disks.fio(setting, disks.reading(one), disks.reading(other))
    taken = alternating(setting.rounds(7), works, before=disks.cold)
    for name, usages in taken.items():
        yield series(name, case, usages, words[name])


def check_finds(words: dict[str, Command], one: Path, other: Path, size_bytes: int) -> None:
    """What compares finds a difference, and none once it is gone."""
    last = size_bytes - 4096
    for program in ("cmp", "qemu-img"):
        run(*words[program])
    check_says(words["dmsnap"], "0 bytes differ")
    run("dd", "if=/dev/zero", f"of={other}", "bs=4096", f"seek={last // 4096}", "count=1",
        "conv=notrunc,fsync")  # fmt: skip
    for program in ("cmp", "qemu-img"):
        run(*words[program], expected=(1,))
    check_says(words["dmsnap"], "4096 bytes differ")
    run("dd", f"if={one}", f"of={other}", "bs=4096", f"skip={last // 4096}",
        f"seek={last // 4096}", "count=1", "conv=notrunc,fsync")  # fmt: skip
    run("cmp", one, other)


def check_says(command: Command, expected: str) -> None:
    """The engine says what it found; its exit status is the same in any case."""
    said = run(*command).strip()
    if said != expected:
        raise BenchError(f"dmsnap says that {said} where {expected}")
