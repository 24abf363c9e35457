"""The time to recover: from the command's start until the volume is mounted again.

dmsnap on an XFS on sparse files, from 1 GiB to 16 TiB; beside it what else brings the 1 GiB volume
back, with the same files on it: an LVM snapshot merged, a copy with dd, a restore with restic.
"""

import hashlib
import json
import os
import select
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from measure.devices import GIB, MIB, TIB, loop
from measure.model import Figure, Goal, Plot, Series, Unit
from measure.process import BenchError, Usage, alternating, run, series
from measure.setting import Setting

from figures.protected import NAME
from figures.sparse import small_stores, sparse_files, sparse_volume

SIZES = {"1 GiB": GIB, "64 GiB": 64 * GIB, "1 TiB": TIB, "4 TiB": 4 * TIB, "16 TiB": 16 * TIB}
QUICK_SIZES = ("1 GiB", "64 GiB")
SMALLEST, LARGEST = "1 GiB", "16 TiB"
FILES, FILE_BYTES = 80, 8 * MIB  # on the smallest volume; one file on the others
FIRST_COPY_SECONDS = 300
LVM = ("env", "DM_DISABLE_UDEV=1")
GROUP = "benchvg"
FLAT = 1.1


@dataclass(slots=True)
class Recoveries:
    """What was measured so far."""

    whole: list[Series] = field(default_factory=list)
    parts: list[Series] = field(default_factory=list)
    beside: list[Series] = field(default_factory=list)


def measure(setting: Setting) -> Iterator[Figure]:
    """Each size in turn; the other ways right after the size that they are measured at."""
    found = Recoveries()
    with small_stores(), sparse_files(setting.scratch) as directory:
        for case in QUICK_SIZES if setting.quick else SIZES:
            with volume(case, directory, setting) as mounted:
                swaps(case, mounted, setting, found)
        others(setting, found)
    yield from figures(found)


@dataclass(frozen=True, slots=True)
class Mounted:
    """A volume with files on it, protected."""

    recovery: Path
    mount_point: Path
    digest: str  # of its files


@contextmanager
def volume(case: str, directory: Path, setting: Setting) -> Iterator[Mounted]:
    """A protected XFS of one size."""
    with sparse_volume(directory, SIZES[case], setting) as made:
        filled = fill(made.mount_point, FILES if case == SMALLEST else 1)
        run("dmsnap", "protect", made.primary, "--name", NAME, "--recovery", made.recovery,
            "--store", made.store, timeout=FIRST_COPY_SECONDS)  # fmt: skip
        try:
            yield Mounted(made.recovery, made.mount_point, filled)
        finally:
            run("dmsnap", "unprotect", NAME, "--forget")


def fill(mount_point: Path, count: int) -> str:
    """Random files; the digest of all of them."""
    for number in range(count):
        (mount_point / f"file-{number}").write_bytes(os.urandom(FILE_BYTES))
    run("sync", "--file-system", mount_point)
    return digest(mount_point)


def digest(mount_point: Path) -> str:
    """Of the files that fill() makes, in their order."""
    hashed = hashlib.sha256()
    for number in range(sum(1 for _ in mount_point.glob("file-*"))):
        hashed.update((mount_point / f"file-{number}").read_bytes())
    return hashed.hexdigest()


def check_back(contestant: str, mount_point: Path, expected: str) -> None:
    """Whoever recovered last brought every file back."""
    if digest(mount_point) != expected:
        raise BenchError(f"{contestant} did not bring all files back")


def swaps(case: str, mounted: Mounted, setting: Setting, found: Recoveries) -> None:
    """Swap to the newest point and back; what is timed is the way there."""
    command = ("dmsnap", "swap", NAME, "--json")
    usages, parts = [], []
    for _ in range(setting.rounds(9)):
        seconds, said = until_mounted(command, mounted.mount_point)
        usages.append(Usage(seconds))
        parts.append(parts_of(seconds, json.loads(said)["steps"]))
        if len(usages) == setting.rounds(9):  # behind all that is measured, since it fills caches
            check_back("dmsnap", mounted.mount_point, mounted.digest)
        run("dmsnap", "swap", "revert", NAME)
    position = SIZES[case]
    found.whole.append(series("dmsnap", case, usages, command, position=position))
    for part in parts[0]:
        samples = tuple(each[part] for each in parts)
        found.parts.append(Series(part, case, samples, position=position))
    if case == SMALLEST:
        found.beside.append(series("dmsnap", "1 GiB", usages, command))
        copied = partial(copy_back, mounted)
        taken = alternating(setting.rounds(5), {"dd": copied})
        check_back("dd", mounted.mount_point, mounted.digest)
        found.beside.append(
            series("dd", "1 GiB", taken["dd"], "dd if=RECOVERY of=DEVICE bs=4M, then mount")
        )


def parts_of(seconds: float, steps: dict[str, float]) -> dict[str, float]:
    """The steps that the command names, and what is none of them: its start and its checks."""
    return {"start and checks": seconds - sum(steps.values()), **steps}


def until_mounted(words: Sequence[object], mount_point: Path) -> tuple[float, str]:
    """Seconds from a command's start until something is mounted anew; and what it wrote."""
    begun = time.perf_counter()
    with (
        open("/proc/self/mountinfo", "rb") as table,
        subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, text=True) as child,
    ):
        changes = select.poll()
        changes.register(table, select.POLLPRI)
        was_away, seconds = False, 0.0
        while not seconds and child.poll() is None:
            changes.poll(20)
            there = is_mounted(mount_point)
            was_away = was_away or not there
            if was_away and there:
                seconds = time.perf_counter() - begun
        said, _ = child.communicate()
    if child.returncode or not seconds:
        raise BenchError(f"{words}: {child.returncode}, nothing was mounted anew")
    return seconds, said


def is_mounted(mount_point: Path) -> bool:
    """Whether more than a placeholder is mounted there (from Linux 6.5 on)."""
    rows = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(f" {mount_point} " in row and "-placeholder-" not in row for row in rows)


def copy_back(mounted: Mounted) -> Usage:
    """The recovery volume is copied onto the device below the front, and that is mounted again."""
    front = Path("/dev/mapper") / NAME
    size_bytes = SIZES[SMALLEST]
    begun = time.perf_counter()
    run("umount", mounted.mount_point)
    run("dd", f"if={mounted.recovery}", f"of={front}", "bs=4M", f"count={size_bytes}",
        "iflag=count_bytes,direct", "oflag=direct", "conv=fsync")  # fmt: skip
    run("mount", front, mounted.mount_point)
    return Usage(time.perf_counter() - begun)


def others(setting: Setting, found: Recoveries) -> None:
    """What LVM and restic take for the same files on a volume of the same size."""
    mount_point = setting.scratch / "other"
    mount_point.mkdir(exist_ok=True)
    with loop(setting.scratch / "group", 3 * GIB) as disk:
        run(*LVM, "vgcreate", "-qq", "--yes", GROUP, disk)
        try:
            run(*LVM, "lvcreate", "-qq", "--yes", "-Wn", "-L", "1g", "-n", "volume", GROUP)
            device = Path("/dev") / GROUP / "volume"
            run("mkfs.xfs", "-q", "-l", "size=64m", device)
            run("mount", device, mount_point)
            filled = fill(mount_point, FILES)
            merged(setting, device, mount_point, found)
            check_back("lvconvert --merge", mount_point, filled)
            restored(setting, device, mount_point, found)
            check_back("restic", mount_point, filled)
            run("umount", mount_point)
        finally:
            run(*LVM, "vgremove", "-qq", "-ff", "-y", GROUP)


def merged(setting: Setting, device: Path, mount_point: Path, found: Recoveries) -> None:
    """lvconvert --merge of a snapshot: usable at once, and slower until all is merged."""
    usable, done = [], []
    for _ in range(setting.rounds(5)):
        run(*LVM, "lvcreate", "-qq", "--yes", "-s", "-L", "900m", "-n", "point", device)
        spoil(mount_point)
        begun = time.perf_counter()
        run("umount", mount_point)
        run(*LVM, "lvconvert", "-qq", "--merge", "--background", f"{GROUP}/point")
        run("mount", device, mount_point)
        usable.append(Usage(time.perf_counter() - begun))
        while "point" in run(*LVM, "lvs", "-a", "--noheadings", "-o", "lv_name", GROUP):
            time.sleep(0.2)
        done.append(Usage(time.perf_counter() - begun))
    command = f"lvconvert --merge --background {GROUP}/point, then mount"
    found.beside.append(series("lvconvert --merge", "1 GiB", usable, command))
    found.beside.append(series("lvconvert --merge, done", "1 GiB", done, command))


def spoil(mount_point: Path) -> None:
    """Half of the files are overwritten: that much is to be merged back."""
    for number in range(FILES // 2):
        (mount_point / f"file-{number}").write_bytes(os.urandom(FILE_BYTES))
    run("sync", "--file-system", mount_point)


def restored(setting: Setting, device: Path, mount_point: Path, found: Recoveries) -> None:
    """A new file system, and all files out of a repository on the same disk."""
    repository = setting.scratch / "repository"
    environment = ("env", "RESTIC_PASSWORD=bench", f"RESTIC_REPOSITORY={repository}",
                   f"HOME={setting.scratch}")  # fmt: skip
    restic = (*environment, "restic", "--quiet")
    run(*restic, "init")
    run(*restic, "backup", mount_point)

    def restore() -> Usage:
        begun = time.perf_counter()
        run("umount", mount_point)
        run("mkfs.xfs", "-q", "-f", "-l", "size=64m", device)
        run("mount", device, mount_point)
        run(*restic, "restore", "latest", "--target", "/")
        run("sync", "--file-system", mount_point)
        return Usage(time.perf_counter() - begun)

    works: dict[str, Callable[[], Usage | None]] = {"restic": restore}
    taken = alternating(setting.rounds(3), works)
    command = "mkfs.xfs, mount, restic restore latest"
    found.beside.append(series("restic restore", "1 GiB", taken["restic"], command))


def flatness(whole: Sequence[Series]) -> tuple[Series, ...]:
    """Each size's median in medians of the smallest."""
    base = statistics.median(whole[0].samples)
    return tuple(
        Series(each.contestant, each.case, (statistics.median(each.samples) / base,),
               position=each.position)
        for each in whole
    )  # fmt: skip


def figures(found: Recoveries) -> Iterator[Figure]:
    """The whole, its parts, how flat it is, and the others."""
    text = "A mounted XFS on sparse files is swapped for the newest point of its recovery volume."
    common: dict[str, Any] = {"axis": "volume", "plot": Plot.LINES}
    largest = found.whole[-1].case
    yield Figure(
        key="recovery-seconds",
        title="Seconds from the command's start until the volume is mounted",
        text=text,
        unit=Unit.SECONDS,
        series=tuple(found.whole),
        goals=(Goal(f"time to recover {largest}", largest, "dmsnap", 1.0),),
        **common,
    )
    yield Figure(
        key="recovery-flatness",
        title="The same, in medians of the smallest volume",
        text="1 is flat.",
        unit=Unit.COUNT,
        series=flatness(found.whole),
        goals=tuple(
            Goal(f"{each.case} beside {found.whole[0].case}", each.case, "dmsnap", FLAT)
            for each in found.whole[1:]
        ),
        **common,
    )
    yield Figure(
        key="recovery-parts",
        title="What the command does meanwhile",
        text="Steps as dmsnap swap --json names them; what is left of the time is the start of the "
        "program and its checks before the first step.",
        unit=Unit.SECONDS,
        series=tuple(found.parts),
        subject="",
        **common,
    )
    yield Figure(
        key="recovery-beside",
        title="Bringing a volume of 1 GiB back",
        text=f"The volume holds {FILES * FILE_BYTES // MIB} MiB of files, half of which were "
        "overwritten. With lvconvert --merge it is usable before it is merged: both are shown.",
        unit=Unit.SECONDS,
        series=tuple(found.beside),
        plot=Plot.BARS,
    )
