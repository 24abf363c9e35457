"""Copying a whole device beside other programs, with the device's limit."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from measure.devices import GIB, MIB
from measure.model import Figure, Goal, Series, Statistic, Unit
from measure.process import BenchError, Work, alternating, run, series, used
from measure.setting import Setting

from figures import disks
from figures.disks import DISK, REQUEST_BYTES, TMPFS, Command

LIMIT = "fio, both at once"


def measure(setting: Setting) -> Iterator[Figure]:
    """On the disk and in memory; each program's copy is compared once before anything is timed."""
    size_bytes = setting.size(2 * GIB, 128 * MIB)
    found: list[Series] = []
    for case, directory in disks.media(setting).items():
        with disks.loops(directory, size_bytes, "source", "destination") as (source, destination):
            disks.fill(source, size_bytes)
            found += on(case, source, destination, size_bytes, setting)
    yield Figure(
        key="full-copy",
        title="Copying a whole device",
        text=f"{size_bytes // MIB} MiB of random bytes between loop devices over files, caches "
        "dropped before each copy, flushed at its end. Processor time is the program's own."
        + disks.ENGINE_ALONE,
        unit=Unit.SECONDS,
        series=tuple(found),
        limits=(LIMIT,),
        axis="medium",
        goals=(
            Goal("a full copy on disk, beside nbdcopy", DISK, "dmsnap", 1.05, against="nbdcopy"),
            Goal("its processor time, beside nbdcopy's", DISK, "dmsnap", 0.5, Statistic.CPU,
                 "nbdcopy"),
            Goal("in memory, beside qemu-img", TMPFS, "dmsnap", 1 / 1.5, against="qemu-img"),
            Goal("in memory, beside nbdcopy", TMPFS, "dmsnap", 0.5, against="nbdcopy"),
        ),
    )  # fmt: skip


def commands(source: Path, destination: Path) -> dict[str, Command]:
    """Each program as its manual advises for speed, with direct I/O where it can."""
    ddrescue = ["ddrescue", "--force", "--quiet", "--idirect", "--odirect",
                f"--cluster-size={REQUEST_BYTES // 512}", source, destination]  # fmt: skip
    return {
        "dmsnap": disks.engine("copy", source, destination),
        "nbdcopy": ["nbdcopy", "--flush", f"--request-size={REQUEST_BYTES}", source, destination],
        "qemu-img": ["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-t", "none", "-T",
                     "none", "-W", "-m", "16", source, destination],
        "dd": ["dd", f"if={source}", f"of={destination}", f"bs={REQUEST_BYTES}", "iflag=direct",
               "oflag=direct", "conv=fsync"],
        "ddrescue": disks.flushed(ddrescue, destination),
    }  # fmt: skip


def on(
    case: str, source: Path, destination: Path, size_bytes: int, setting: Setting
) -> Iterator[Series]:
    """All programs between two devices."""
    words = commands(source, destination)
    works: dict[str, Work] = {name: partial(used, *command) for name, command in words.items()}
    check(works, source, destination, size_bytes)
    words[LIMIT], works[LIMIT] = disks.fio(
        setting, disks.reading(source), disks.writing(destination)
    )
    taken = alternating(setting.rounds(7), works, before=disks.cold)
    for name, usages in taken.items():
        yield series(name, case, usages, words[name])


def check(works: Mapping[str, Work], source: Path, destination: Path, size_bytes: int) -> None:
    """Every program copies everything, which is what makes them comparable."""
    for name, work in works.items():
        disks.spoil(destination, size_bytes)
        work()
        try:
            run("cmp", source, destination)
        except BenchError as error:
            raise BenchError(f"{name} did not copy everything: {error}") from error
