"""How long the file system stands still for a point, beside the same by one dmsetup a step."""

import time
from collections.abc import Iterator
from pathlib import Path

from measure.devices import GIB, MIB, loop, sectors
from measure.model import Figure, Goal, Plot, Series, Statistic, Unit
from measure.process import run
from measure.setting import Setting

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
RANDOM = "4 KiB random buffered"


def measure(setting: Setting) -> Iterator[Figure]:
    """Both ways in turn on one mounted volume, under each load."""
    mount_point = setting.scratch / "mnt"
    series: list[Series] = []
    with (
        protected(setting.scratch, SIZE_BYTES, mount_point=mount_point) as volume,
        loop(setting.scratch / "cow", COW_BYTES, allocated=True) as cow,
    ):
        for name in load.COMMANDS:
            with load.running(name, mount_point):
                series += under(name, volume, cow, mount_point, setting.rounds(TIMES, QUICK_TIMES))
    yield Figure(
        key="window",
        title="How long the file system stands still for a point",
        text=f"An ext4 of {SIZE_BYTES // GIB} GiB, from before the first suspend until after the "
        "last resume. Both flush the file system before that.",
        unit=Unit.SECONDS,
        series=tuple(series),
        plot=Plot.DISTRIBUTION,
        axis="load",
        goals=(
            Goal("the window's median under 4 KiB random writes", RANDOM, OURS, 5e-3),
            Goal("its 99th percentile", RANDOM, OURS, 60e-3, Statistic.P99),
            Goal("its median beside dmsetup step by step", RANDOM, OURS, 0.1, against=THEIRS),
        ),
    )


def under(name: str, volume: Protected, cow: Path, mount_point: Path, times: int) -> list[Series]:
    """The seconds of many windows of ours, and of some by dmsetup between them."""
    taken: dict[str, list[float]] = {OURS: [], THEIRS: []}
    for number in range(times):
        taken[OURS].append(by_dmsnap())
        if number % BY_STEPS_EVERY == 0:
            taken[THEIRS].append(by_dmsetup(volume.primary, cow, mount_point))
    return [
        Series(contestant, name, tuple(samples), command=COMMANDS[contestant])
        for contestant, samples in taken.items()
    ]


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
