"""How long the file system stands still for a point, beside the same by one dmsetup a step."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measure.devices import GIB, MIB, loop, sectors
from measure.model import Figure, Goal, Plot, Series, Statistic, Unit
from measure.process import run
from measure.setting import Setting

from dmsnap._native import window
from dmsnap._native.window import WindowTimes
from dmsnap.errors import DeadlineError
from dmsnap.service.points import deletion, point
from dmsnap.service.session import Session
from figures import load
from figures.protected import NAME, ORIGIN, Protected, protected

SIZE_BYTES = 2 * GIB
COW_BYTES = 64 * MIB
COW_PERCENT = 3
MS_PER_S = 1000
TIMES, QUICK_TIMES = 200, 10
BY_STEPS_EVERY = 5  # dmsetup stands still for long, and a fifth of the samples shows it
OURS, THEIRS = "dmsnap", "dmsetup"
COMMANDS = {
    OURS: f"dmsnap point create {NAME} --cow-percent {COW_PERCENT}",
    THEIRS: f"dmsetup suspend {NAME}; dmsetup suspend --nolockfs {ORIGIN}; dmsetup create point "
    f"--table '0 SECTORS snapshot PRIMARY COW P 8'; dmsetup resume {ORIGIN}; dmsetup resume {NAME}",
}
RANDOM = ("4 KiB random buffered", "4 KiB random direct")
STEPS = (
    "suspend of the front",
    "suspend of the origin",
    "resume of the snapshot",
    "resume of the origin",
    "resume of the front",
)
BETWEEN = "between them"


@dataclass(slots=True)
class Taken:
    """What was measured under one load: of the whole windows, and of the parts of ours."""

    whole: list[Series] = field(default_factory=list)
    parts: list[Series] = field(default_factory=list)


def measure(setting: Setting) -> Iterator[Figure]:
    """Both ways in turn on one mounted volume, under each load."""
    mount_point = setting.scratch / "mnt"
    found = Taken()
    with (
        protected(setting.scratch, SIZE_BYTES, mount_point=mount_point) as volume,
        loop(setting.scratch / "cow", COW_BYTES, allocated=True) as cow,
    ):
        for name in load.COMMANDS:
            with load.running(name, mount_point):
                under(name, volume, cow, mount_point, setting.rounds(TIMES, QUICK_TIMES), found)
    yield whole_figure(tuple(found.whole))
    yield parts_figure(tuple(found.parts))


def whole_figure(found: tuple[Series, ...]) -> Figure:
    """Both ways, as distributions."""
    return Figure(
        key="window",
        title="How long the file system stands still for a point",
        text=f"An ext4 of {SIZE_BYTES // GIB} GiB, from before the first suspend until after the "
        "last resume. Both flush the file system before that.",
        unit=Unit.SECONDS,
        series=found,
        plot=Plot.DISTRIBUTION,
        axis="load",
        goals=tuple(goal for name in RANDOM for goal in goals(name)),
    )


def goals(name: str) -> Iterator[Goal]:
    """Of a load of small random writes at full rate."""
    yield Goal(f"the window's median under {name} writes at full rate", name, OURS, 5e-3)
    yield Goal(f"its 99th percentile under {name} writes", name, OURS, 60e-3, Statistic.P99)
    yield Goal(f"its median under {name} writes, beside dmsetup step by step", name, OURS, 0.1,
               against=THEIRS)  # fmt: skip


def parts_figure(found: tuple[Series, ...]) -> Figure:
    """Where the time of our windows goes."""
    return Figure(
        key="window-parts",
        title="Where the time goes",
        text="Each step of the same windows is one ioctl, timed in the window by the clock that "
        "its deadline is held against. The suspend of the front has the file system write what is "
        "dirty and freeze, waits for what is in flight and has dm-era file its writeset; the "
        "resume of the front has dm-era make the next one: both write dm-era's metadata, and wait "
        "for the disk of the store. What lies between the steps is the process waiting for a "
        "processor. Writing back the file system before the window is no part of it.",
        unit=Unit.SECONDS,
        series=found,
        subject="",
        plot=Plot.DISTRIBUTION,
        axis="load",
    )


def under(
    name: str, volume: Protected, cow: Path, mount_point: Path, times: int, found: Taken
) -> None:
    """Many windows of ours, and some by dmsetup between them."""
    taken: dict[str, list[float]] = {OURS: [], THEIRS: []}
    windows: list[WindowTimes] = []
    for number in range(times):
        with noted(windows):
            taken[OURS].append(by_dmsnap())
        if number % BY_STEPS_EVERY == 0:
            taken[THEIRS].append(by_dmsetup(volume.primary, cow, mount_point))
    found.whole += [
        Series(contestant, name, tuple(samples), command=COMMANDS[contestant])
        for contestant, samples in taken.items()
    ]
    found.parts += parts_of(name, windows)


@contextmanager
def noted(windows: list[WindowTimes]) -> Iterator[None]:
    """Keep what the core says of the windows in the block: a point remembers the whole alone."""
    run_steps = window.run

    def noting(*arguments: Any, **named: Any) -> WindowTimes:
        times = run_steps(*arguments, **named)
        if len(times.steps) == len(STEPS):  # not one that puts something in order before
            windows.append(times)
        return times

    window.run = noting
    try:
        yield
    finally:
        window.run = run_steps


def parts_of(case: str, windows: Sequence[WindowTimes]) -> list[Series]:
    """The steps, and what lies between them, window by window."""
    samples: dict[str, list[float]] = {}
    for times in windows:
        seconds = [step.seconds for step in times.steps]
        parts = dict(zip(STEPS, seconds, strict=True))
        parts[BETWEEN] = times.seconds - sum(seconds)
        for part, each in parts.items():
            samples.setdefault(part, []).append(each)
    return [Series(part, case, tuple(taken)) for part, taken in samples.items()]


def by_dmsnap() -> float:
    """A point; its window is timed in the window. As the command does it, without its start.

    A window that its deadline ended took no point, and counts with the deadline.
    """
    with Session.open() as session:
        try:
            created = point.create(
                session, [NAME], keep=False, dry_run=False, cow_percent=COW_PERCENT
            )
        except DeadlineError:
            return session.configuration.window_deadline_ms / MS_PER_S
        assert isinstance(created, list)
        (taken,) = created
        deletion.delete(session, str(taken.id), dry_run=False)
    assert taken.window_seconds is not None
    return taken.window_seconds


def by_dmsetup(primary: Path, cow: Path, mount_point: Path) -> float:
    """The classic order: suspend, make the snapshot, resume. From the first suspend to the end."""
    run("dd", "if=/dev/zero", f"of={cow}", "bs=4k", "count=1", "oflag=direct")
    table = f"0 {sectors(primary)} snapshot {primary} {cow} P 8"
    run("sync", "--file-system", mount_point)
    begun = time.perf_counter()
    run("dmsetup", "suspend", NAME)
    run("dmsetup", "suspend", "--nolockfs", ORIGIN)
    run("dmsetup", "create", "point", "--table", table)
    run("dmsetup", "resume", ORIGIN)
    run("dmsetup", "resume", NAME)
    seconds = time.perf_counter() - begun
    run("dmsetup", "remove", "--retry", "point")
    return seconds
