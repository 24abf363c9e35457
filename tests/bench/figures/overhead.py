"""What the front costs a write, beside dm-linear over the same device."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from measure.devices import GIB, dm, sectors
from measure.model import Figure, Goal, Plot, Series, Unit
from measure.process import run
from measure.requests import Requests, busy_seconds, loops_in, number_of
from measure.setting import Setting

from figures.protected import FRONT, NAME, ORIGIN, Protected, protected

OURS, LINEAR = "dmsnap", "dm-linear"
# The same where the origin cuts no writes for snapshots that are gone.
RESUMED = "dmsnap, origin resumed since"
COW_PERCENT = 60
SECONDS = 3
STEADY, FRESH = "no live point, blocks marked", "no live point, first write in an era"
LINEAR_NAME = "bench-linear"
BACKING, STORES = "backing device", "era metadata and COW stores"
MS_PER_S = 1000


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
            devices.enter_context(dm(LINEAR_NAME, table))
            for pattern in patterns:
                taken = in_turn(pattern, volume, setting)
                yield figure(pattern, taken)
                if pattern.unit is Unit.BYTES_PER_SECOND:
                    yield requests_figure(pattern, taken)
                    yield processor_figure(pattern, taken)


@dataclass(frozen=True, slots=True)
class Written:
    """One run of fio: its rate, and what there was to do for its ``writes``."""

    rate: float
    writes: int
    seconds: float
    busy_seconds: float  # of all processors
    requests: Mapping[str, Requests]  # of each layer


Runs = dict[tuple[str, str], list[Written]]


def in_turn(pattern: Pattern, volume: Protected, setting: Setting) -> Runs:
    """One pattern in all cases."""
    taken: Runs = {}
    for number in range(setting.rounds(4)):
        for case, nr_points in CASES.items():
            for contestant in in_order(number, case, pattern):
                written = one(pattern, contestant, volume, nr_points, setting)
                taken.setdefault((contestant, case), []).append(written)
    return taken


def in_order(number: int, case: str, pattern: Pattern) -> tuple[str, ...]:
    """Whose turn it is; the resume of the origin lasts until the next point, so it comes last."""
    both = (OURS, LINEAR) if number % 2 else (LINEAR, OURS)
    cut = case == STEADY and pattern.unit is Unit.BYTES_PER_SECOND
    return (*both, RESUMED) if cut else both


def figure(pattern: Pattern, taken: Runs) -> Figure:
    """The rates."""
    return Figure(
        key=pattern.key,
        title=pattern.title,
        text="Both write to the same device, a file of the disk. dm-era cuts writes at its "
        f"blocks of {pattern.block_size}. The first write to a block in an era, after every point, "
        "waits for dm-era to record it; with live points it also waits for the old content to be "
        "copied, once for each of them.",
        unit=pattern.unit,
        series=tuple(
            Series(
                contestant,
                case,
                tuple(each.rate for each in runs),
                command=" ".join(fio(pattern, contestant)),
            )
            for (contestant, case), runs in taken.items()
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


def requests_figure(pattern: Pattern, taken: Runs) -> Figure:
    """What becomes of one write on its way down."""
    return Figure(
        key=f"{pattern.key}-requests",
        title=f"Where the time goes: requests for each write, in blocks of {pattern.block_size}",
        text="Counted by the kernel (stat in sysfs) in the same runs. dm cuts a write for its "
        "target before it counts it; the backing device counts what it is given after neighbours "
        "have been put together again, which is beside it. The origin cuts at the chunks of its "
        "snapshots, 4 KiB, and of those that are gone until it is resumed the next time.",
        unit=Unit.COUNT,
        series=tuple(
            Series(layer, case, samples)
            for (contestant, case), runs in taken.items()
            for layer, samples in layers(contestant, runs).items()
        ),
        subject="",
        plot=Plot.NONE,
    )


def layers(contestant: str, runs: Sequence[Written]) -> dict[str, tuple[float, ...]]:
    """Requests of each layer for each write, run by run; what nobody saw is left out."""
    found: dict[str, tuple[float, ...]] = {}
    for name in runs[0].requests:
        label = name if contestant == OURS or name == contestant else f"{contestant}: {name}"
        counted = [(each.requests[name], each.writes) for each in runs]
        kinds = {
            label: tuple(requests.writes / writes for requests, writes in counted),
            f"{label}, put together": tuple(
                requests.merged / writes for requests, writes in counted
            ),
            f"{label}, reads": tuple(requests.reads / writes for requests, writes in counted),
        }
        found |= {kind: samples for kind, samples in kinds.items() if kind == label or any(samples)}
    return found


def processor_figure(pattern: Pattern, taken: Runs) -> Figure:
    """Whether the processor is what limits."""
    return Figure(
        key=f"{pattern.key}-processor",
        title=f"Where the time goes: the processor, for each write in blocks of "
        f"{pattern.block_size}",
        text="The time is that of the same runs, one write after the other; the processor's is "
        "what all of the guest's worked meanwhile, fio included. Where the two are as long, the "
        "processor is what limits.",
        unit=Unit.SECONDS,
        series=tuple(
            Series(
                contestant,
                case,
                samples=tuple(each.seconds / each.writes for each in runs),
                cpu_seconds=tuple(each.busy_seconds / each.writes for each in runs),
            )
            for (contestant, case), runs in taken.items()
        ),
        limits=(LINEAR,),
        plot=Plot.NONE,
    )


def one(
    pattern: Pattern, contestant: str, volume: Protected, nr_points: int | None, setting: Setting
) -> Written:
    """One run, with so many points taken right before it and deleted after it."""
    command = fio(pattern, contestant, seconds=1 if setting.quick else SECONDS)
    if contestant == LINEAR:
        return written(pattern, command, below(contestant, volume), setting.scratch)
    if contestant == RESUMED:
        run("dmsetup", "suspend", "--nolockfs", ORIGIN)
        run("dmsetup", "resume", ORIGIN)
    if nr_points is None:
        run("dd", "if=/dev/zero", f"of={FRONT}", "bs=1M", "oflag=direct", expected=(1,))
        return written(pattern, command, below(contestant, volume), setting.scratch)
    points = [point() for _ in range(max(nr_points, 1))]
    for unwanted in points[nr_points:]:  # what rolls the era and is gone before anything is written
        run("dmsnap", "point", "delete", unwanted)
    try:
        return written(pattern, command, below(contestant, volume), setting.scratch)
    finally:
        for each in points[:nr_points]:
            run("dmsnap", "point", "delete", each)


def below(contestant: str, volume: Protected) -> dict[str, list[str]]:
    """The layers that a write goes through, with the numbers of their devices."""
    backing = [number_of(volume.primary)]
    if contestant == LINEAR:
        return {LINEAR: [dm_number(LINEAR_NAME)], BACKING: backing}
    return {
        "front": [dm_number(NAME)],
        "origin": [dm_number(ORIGIN)],
        BACKING: backing,
        STORES: loops_in(volume.store),
    }


def dm_number(name: str) -> str:
    told = run("dmsetup", "info", "--columns", "--noheadings", "--separator", ":",
               "-o", "major,minor", name)  # fmt: skip
    return told.strip()


def point() -> str:
    created = run("dmsnap", "point", "create", NAME, "--cow-percent", COW_PERCENT, "--json")
    return str(json.loads(created)[0]["id"])


def fio(pattern: Pattern, contestant: str, seconds: int = SECONDS) -> list[str]:
    """fio's command line; it ends early when every block was written once."""
    device = FRONT.with_name(LINEAR_NAME) if contestant == LINEAR else FRONT
    return ["fio", "--name=write", f"--filename={device}", "--ioengine=libaio", "--direct=1",
            *pattern.arguments, f"--runtime={seconds}", "--output-format=json"]  # fmt: skip


def written(
    pattern: Pattern, command: list[str], numbers: Mapping[str, list[str]], scratch: Path
) -> Written:
    """Run fio, and count. What the processors do for fio's start, fio itself leaves out."""
    snapshots = [scratch / "before", scratch / "after"]
    words = [f"--exec_{when}run=cp /proc/stat {path}"
             for when, path in zip(("pre", "post"), snapshots, strict=True)]  # fmt: skip
    run("sync")
    before = {layer: Requests.of(each) for layer, each in numbers.items()}
    said = run("env", "-C", scratch, *command, *words)
    (job,) = json.loads(said[said.index("{") :])["jobs"]  # before it stands what was run beside
    requests = {layer: Requests.of(each) - before[layer] for layer, each in numbers.items()}
    begun, ended = (busy_seconds(path) for path in snapshots)
    wrote = job["write"]
    return Written(
        rate=float(wrote[pattern.field]),
        writes=int(wrote["total_ios"]),
        seconds=float(wrote["runtime"]) / MS_PER_S,
        busy_seconds=ended - begun,
        requests=requests,
    )
