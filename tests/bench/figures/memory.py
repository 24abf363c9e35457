"""The most memory that each command takes: a small volume beside the largest one."""

import json
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from measure.devices import GIB, KIB, MIB, TIB, loop
from measure.model import Figure, Goal, Plot, Series, Unit
from measure.process import run, used
from measure.setting import Setting

from figures.growth import MEMORY_LIMIT, TIMED_OUT, era_block_bytes
from figures.protected import FRONT, NAME
from figures.sparse import HISTORY_BYTES, SparseVolume, small_stores, sparse_files, sparse_volume

SIZES = {"1 GiB": GIB, "16 TiB": 16 * TIB}
QUICK_SIZES = {"1 GiB": GIB, "16 GiB": 16 * GIB}
SCATTERED, QUICK_SCATTERED = (
    4096,
    256,
)  # era blocks that are written to, each beside one that is not
PAGE_BYTES = 4 * KIB
HYDRATE_SECONDS = 20  # a move copies all of a volume: it is ended after that
GROWN_BYTES = 64 * MIB
CATALOGUE = Path("/var/lib/dmsnap/catalogue.db")
POLICY = Path("/etc/dmsnap/bench.toml")
ONE_POINT = f"""
[policy.bench]
history = {{ minimum = 1 }}
[subclient.bench]
volumes = ["{NAME}"]
policy = "bench"
"""


@dataclass(frozen=True, slots=True)
class Peaks:
    """What the commands took at most on a volume of one size."""

    size: str
    scattered: int
    found: list[Series] = field(default_factory=list)

    def take(self, name: str, *words: object) -> None:
        """Run ``dmsnap NAME WORDS``; ``name`` is the command as the table has it."""
        self.note(name, used("dmsnap", *shlex.split(name), *words).peak_bytes)

    def note(self, name: str, peak_bytes: float, note: str = "") -> None:
        self.found.append(Series(self.size, name, (peak_bytes,), note=note))


def measure(setting: Setting) -> Iterator[Figure]:
    """Every command once at either size."""
    scattered = QUICK_SCATTERED if setting.quick else SCATTERED
    found: list[Series] = []
    with small_stores(), sparse_files(setting.scratch) as directory:
        for size, size_bytes in (QUICK_SIZES if setting.quick else SIZES).items():
            peaks = Peaks(size, scattered)
            with sparse_volume(directory, size_bytes, setting) as volume:
                commands(peaks, volume, directory, size_bytes)
            found += peaks.found
    yield figure(found, scattered)


def figure(found: Sequence[Series], scattered: int) -> Figure:
    """A row for each command and size; a goal for the command that takes most at each."""
    sizes = list(dict.fromkeys(each.contestant for each in found))
    order = list(dict.fromkeys(each.case for each in found))
    goals = []
    for size in sizes:
        most = max((each for each in found if each.contestant == size), key=peak_bytes)
        text = f"memory of any command on {size}: the most takes dmsnap {most.case}"
        goals.append(Goal(text, most.case, size, MEMORY_LIMIT))
    return Figure(
        key="memory",
        title="The most memory that each command takes",
        text=f"A mounted XFS on sparse files; before what reads marks or exceptions a page in each "
        f"of {scattered} era blocks was written, every other one of a file. Largest resident set "
        "of the command, or of a program that it starts.",
        unit=Unit.BYTES,
        series=tuple(sorted(found, key=lambda each: order.index(each.case))),
        subject="",
        plot=Plot.NONE,
        axis="dmsnap",
        goals=tuple(goals),
    )


def peak_bytes(series: Series) -> float:
    (found,) = series.samples
    return found


def commands(peaks: Peaks, volume: SparseVolume, directory: Path, size_bytes: int) -> None:
    """A volume's life: what reads it, what recovers it, what gives it other devices."""
    with loop(directory / "onto", size_bytes + GROWN_BYTES) as onto:
        peaks.take("protect", volume.primary, "--name", NAME, "--recovery", volume.recovery,
                   "--store", volume.store)  # fmt: skip
        try:
            of_a_live_point(peaks, volume)
            of_syncs(peaks, volume)
            of_recovery(peaks, volume)
            grow(directory / "primary", volume.primary, size_bytes + GROWN_BYTES)
            grow(directory / "recovery", volume.recovery, size_bytes + HISTORY_BYTES + GROWN_BYTES)
            peaks.take("resize", NAME)
            of_a_move(peaks, onto)
            of_the_catalogue(peaks, volume)
        finally:
            peaks.take("unprotect", NAME, "--forget")


def of_a_live_point(peaks: Peaks, volume: SparseVolume) -> None:
    """One whose COW store has as many exceptions as blocks are written to."""
    scatter(peaks, volume)
    peaks.take("inspect era", FRONT, "--since", 1)
    peaks.take("point create", NAME)
    (point,) = [
        each["id"]
        for each in json.loads(run("dmsnap", "point", "list", NAME, "--json"))
        if any(place["kind"] == "live" for place in each["places"])
    ]
    scatter(peaks, volume)
    (store,) = volume.store.glob(f"*{NAME}-cow-*")
    peaks.take("inspect store", store)
    peaks.take("snapshot changed", point)
    peaks.take("point mount", point)
    peaks.take("point umount", point)
    peaks.take("point show", point)
    peaks.take("point delete", point)


def of_syncs(peaks: Peaks, volume: SparseVolume) -> None:
    """What compares and copies; pruning drops what a sync has kept."""
    peaks.take("sync", NAME)
    scatter(peaks, volume)
    peaks.take("sync --audit full", NAME)
    scatter(peaks, volume)
    peaks.take("verify", NAME)
    peaks.take("verify --full", NAME)
    run("dmsnap", "sync", NAME)
    POLICY.write_text(ONE_POINT)
    try:
        peaks.take("prune", NAME)
    finally:
        POLICY.unlink()
    run("dmsnap", "sync", NAME)  # there is an earlier point, which a swap leads back to


def of_the_catalogue(peaks: Peaks, volume: SparseVolume) -> None:
    """What is asked of records and labels; and after a loss of it, whose next sync would compare
    all of the volume.
    """
    for name in ("status", "doctor", "discover", "metrics", "job list", "catalogue check"):
        peaks.note(name, used("dmsnap", *name.split(), expected=(0, *range(10, 30))).peak_bytes)
    peaks.take("point list", NAME)
    peaks.take("report --html", volume.store / "report.html")
    peaks.take("inspect label", volume.recovery)
    peaks.take("catalogue backup", NAME)
    for path in CATALOGUE.parent.glob(f"{CATALOGUE.name}*"):
        path.unlink()
    peaks.take("catalogue rebuild")


def of_recovery(peaks: Peaks, volume: SparseVolume) -> None:
    """There and back, to the newest point and to an earlier one, for a time and for good."""
    peaks.take("swap", NAME)
    peaks.take("swap revert", NAME)
    earlier, *_ = json.loads(run("dmsnap", "point", "list", NAME, "--json"))
    peaks.take("swap --to", earlier["id"], NAME)
    scatter(peaks, volume)
    peaks.take("swap commit", NAME)
    scatter(peaks, volume)
    peaks.take("failback", NAME)


def of_a_move(peaks: Peaks, onto: Path) -> None:
    """All of a volume is copied: where that takes long, it is ended and given up."""
    usage = used("timeout", HYDRATE_SECONDS, "dmsnap", "hydrate", NAME, "--onto", onto,
                 expected=(0, TIMED_OUT))  # fmt: skip
    ended = usage.seconds > HYDRATE_SECONDS
    peaks.note("hydrate", usage.peak_bytes, f"ended after {HYDRATE_SECONDS} s" if ended else "")
    if ended:
        run("dmsnap", "hydrate", NAME, "--abandon")


def grow(image: Path, device: Path, size_bytes: int) -> None:
    """Make a loop device larger."""
    os.truncate(image, size_bytes)
    run("losetup", "--set-capacity", device)


def scatter(peaks: Peaks, volume: SparseVolume) -> None:
    """Write a page in every other era block of a file, which is made at the first time."""
    stride_bytes = 2 * era_block_bytes()
    descriptor = os.open(volume.mount_point / "scattered", os.O_RDWR | os.O_CREAT)
    try:
        # XFS wants room for all of it once more where it is there already.
        if not os.fstat(descriptor).st_size:
            os.posix_fallocate(descriptor, 0, peaks.scattered * stride_bytes)
        page = os.urandom(PAGE_BYTES)
        for number in range(peaks.scattered):
            os.pwrite(descriptor, page, number * stride_bytes)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
