"""What the front costs a write, beside dm-linear over the same device."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from measure.devices import GIB, dm, sectors
from measure.model import Figure, Goal, Series, Unit
from measure.process import run
from measure.setting import Setting

from figures.protected import FRONT, NAME, protected

OURS, LINEAR = "dmsnap", "dm-linear"
COW_PERCENT = 60
SECONDS = 3
STEADY, FRESH = "no live point, blocks marked", "no live point, first write in an era"


@dataclass(frozen=True, slots=True)
class Pattern:
    """How fio writes, and in which unit its rate is told."""

    key: str
    title: str
    arguments: tuple[str, ...]
    unit: Unit
    field: str  # of fio's JSON
    block_size: str = "64KiB"  # of dm-era, which splits what is larger


PATTERNS = (
    Pattern(
        "overhead-random",
        "4 KiB random direct writes, 16 in flight",
        ("--bs=4k", "--rw=randwrite", "--iodepth=16"),
        Unit.OPERATIONS_PER_SECOND,
        "iops",
    ),
    Pattern(
        "overhead-sequential",
        "1 MiB sequential direct writes, 4 in flight",
        ("--bs=1m", "--rw=write", "--iodepth=4"),
        Unit.BYTES_PER_SECOND,
        "bw_bytes",
    ),
    Pattern(
        "overhead-sequential-1mib",
        "1 MiB sequential direct writes, 4 in flight, tracked in blocks of 1 MiB",
        ("--bs=1m", "--rw=write", "--iodepth=4"),
        Unit.BYTES_PER_SECOND,
        "bw_bytes",
        "1MiB",
    ),
)
# The number of live points in a case; None: nothing was done since the blocks were last written.
CASES: dict[str, int | None] = {STEADY: None, FRESH: 0, "one live point": 1, "three live points": 3}


def measure(setting: Setting) -> Iterator[Figure]:
    """Every case in every round, front and dm-linear in turn."""
    size_bytes = setting.size(GIB, GIB // 4)
    for block_size, patterns in groupby(PATTERNS, key=attrgetter("block_size")):
        with ExitStack() as devices:
            volume = devices.enter_context(
                protected(setting.scratch, size_bytes, block_size=block_size)
            )
            table = f"0 {sectors(volume.primary)} linear {volume.primary} 0"
            linear = devices.enter_context(dm("bench-linear", table))
            for pattern in patterns:
                yield figure(pattern, linear, setting)


def figure(pattern: Pattern, linear: Path, setting: Setting) -> Figure:
    """One pattern in all cases."""
    taken: dict[tuple[str, str], list[float]] = {}
    for number in range(setting.rounds(4)):
        for case, nr_points in CASES.items():
            for contestant in (OURS, LINEAR) if number % 2 else (LINEAR, OURS):
                rate = one(pattern, contestant, linear, nr_points, setting)
                taken.setdefault((contestant, case), []).append(rate)
    return Figure(
        key=pattern.key,
        title=pattern.title,
        text="Both write to the same device, a file of the disk. dm-era cuts writes at its "
        f"blocks of {pattern.block_size}. The first write to a block in an era, after every point, "
        "waits for dm-era to record it; with live points it also waits for the old content to be "
        "copied, once for each of them.",
        unit=pattern.unit,
        series=tuple(
            Series(contestant, case, tuple(rates), command=" ".join(fio(pattern, contestant)))
            for (contestant, case), rates in taken.items()
        ),
        limits=(LINEAR,),
        more_is_better=True,
        goals=(
            Goal(
                f"{pattern.title}: what the front leaves, without a live point",
                STEADY,
                OURS,
                0.95,
                against=LINEAR,
                at_least=True,
            ),
        ),
    )


def one(
    pattern: Pattern, contestant: str, linear: Path, nr_points: int | None, setting: Setting
) -> float:
    """The rate of one run, with so many points taken right before it and deleted after it."""
    command = fio(pattern, contestant, seconds=1 if setting.quick else SECONDS)
    if contestant == LINEAR:
        return rate(pattern, command)
    if nr_points is None:
        run("dd", "if=/dev/zero", f"of={FRONT}", "bs=1M", "oflag=direct", expected=(1,))
        return rate(pattern, command)
    points = [point() for _ in range(max(nr_points, 1))]
    for unwanted in points[nr_points:]:  # what rolls the era and is gone before anything is written
        run("dmsnap", "point", "delete", unwanted)
    try:
        return rate(pattern, command)
    finally:
        for each in points[:nr_points]:
            run("dmsnap", "point", "delete", each)


def point() -> str:
    created = run("dmsnap", "point", "create", NAME, "--cow-percent", COW_PERCENT, "--json")
    return str(json.loads(created)[0]["id"])


def fio(pattern: Pattern, contestant: str, seconds: int = SECONDS) -> list[str]:
    """fio's command line; it ends early when every block was written once."""
    device = FRONT if contestant == OURS else FRONT.with_name("bench-linear")
    return ["fio", "--name=write", f"--filename={device}", "--ioengine=libaio", "--direct=1",
            *pattern.arguments, f"--runtime={seconds}", "--output-format=json"]  # fmt: skip


def rate(pattern: Pattern, command: list[str]) -> float:
    run("sync")
    (job,) = json.loads(run(*command))["jobs"]
    return float(job["write"][pattern.field])
