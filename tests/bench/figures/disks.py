"""Devices to copy between, and what the copying programs of this bench have in common."""

import json
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from measure.devices import MIB, loop
from measure.process import Usage, Work, drop_caches, run, used
from measure.setting import CHECKOUT, Setting

Command = Sequence[object]
DISK, TMPFS = "disk", "tmpfs"
REQUEST_BYTES = 4 * MIB
SPOILED_EVERY = 64 * MIB
MS_PER_S = 1000
ENGINE = CHECKOUT / "build" / "native-gcc" / "copy_engine"
# What a figure says in which nothing but that is measured.
ENGINE_ALONE = (
    " dmsnap is its copy engine here, the C code that its commands call, as a program of its own: "
    "without the interpreter, points, labels and catalogue of a command, which needs device-mapper "
    "and so a guest. What whole commands take there is under “Growth with the volume”."
)
FIO = ("fio", "--ioengine=io_uring", "--direct=1", "--bs=1m", "--iodepth=16",
       "--output-format=json")  # fmt: skip


def build_engine() -> None:
    """On the host, before anything is measured: a guest has no compiler, and sees the checkout."""
    run("make", "-s", "-C", CHECKOUT / "native", "CC=gcc", f"../{ENGINE.relative_to(CHECKOUT)}")


def engine(*argv: object) -> list[object]:
    """The command line of the copy engine as a program."""
    return [ENGINE, *argv]


@contextmanager
def loops(directory: Path, size_bytes: int, *names: str) -> Iterator[list[Path]]:
    """Loop devices over sparse files: who measures writes all of them before."""
    with ExitStack() as stack:
        yield [stack.enter_context(loop(directory / name, size_bytes)) for name in names]


def media(setting: Setting) -> dict[str, Path]:
    """Where devices lie: on the disk of the checkout and in memory."""
    return {DISK: setting.scratch, TMPFS: setting.memory}


def fill(device: Path, size_bytes: int) -> None:
    """Random bytes, in which nobody finds zeroes to skip."""
    run("dd", "if=/dev/urandom", f"of={device}", "bs=4M", f"count={size_bytes}",
        "iflag=count_bytes", "conv=fsync")  # fmt: skip


def spoil(device: Path, size_bytes: int) -> None:
    """Change a page here and there, so that a copy that does nothing is found out."""
    with device.open("r+b", buffering=0) as file:
        for offset in range(0, size_bytes, SPOILED_EVERY):
            os.pwrite(file.fileno(), os.urandom(4096), offset)
        os.fsync(file.fileno())


def flushed(command: Command, device: Path) -> list[object]:
    """``command`` with a flush of ``device`` behind it, for programs that have none."""
    words = (shlex.join(map(str, command)), f"sync {device}")
    return ["sh", "-c", " && ".join(words)]


def cold(_contestant: str) -> None:
    """Caches hold nothing of the devices, and nothing waits to be written."""
    drop_caches()


def fio(setting: Setting, *jobs: Command) -> tuple[list[object], Work]:
    """fio's jobs at the same time: the command, and its longest job. Its own start is left out."""
    answer = setting.memory / "fio.json"
    command = [*FIO, *(word for job in jobs for word in job)]

    def work() -> Usage:
        whole = used(*command, f"--output={answer}")
        jobs_run = json.loads(answer.read_text())["jobs"]
        longest = max(float(job["job_runtime"]) for job in jobs_run) / MS_PER_S
        return Usage(longest, whole.cpu_seconds, whole.peak_bytes)

    return command, work


def reading(device: Path) -> list[object]:
    """A job of fio that reads all of a device."""
    return [f"--name=read-{device.name}", f"--filename={device}", "--rw=read"]


def writing(device: Path) -> list[object]:
    """A job of fio that writes all of a device, and flushes it."""
    return [f"--name=write-{device.name}", f"--filename={device}", "--rw=write", "--end_fsync=1"]
