"""A workload that knows afterwards which files must be in a point, and a judge of replicas."""

import hashlib
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

from conftest import MIB, Lab, run, wait_until

from dmsnap._native import window

# Waits until the volume is mounted through its front, and its placeholder has gone, then makes,
# overwrites, preallocates and deletes files until it is told to stop. What it says of a file it
# says after fsync, what it is going to delete before it does. The first that it says something of
# stays, however long it runs.
SCRIPT = """
    import errno, hashlib, os, random, sys, time
    root, front, log_path = sys.argv[1:]
    log = open(log_path, "w", buffering=1)
    while not any(line.split()[:2] == [front, root] for line in open("/proc/mounts")):
        time.sleep(0.01)
    while not os.path.isdir(f"{root}/work"):
        try:
            os.mkdir(f"{root}/work")
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
    generator, names, number = random.Random(7), [], 0
    while not os.path.exists(f"{log_path}.stop"):
        number += 1
        name = f"{root}/work/{number}"
        content = os.urandom(generator.randrange(1, 600_000))
        with open(name, "wb") as file:
            if number % 5 == 0:
                os.posix_fallocate(file.fileno(), 0, len(content) + 300_000)
            file.write(content)
            if number % 3 == 0:
                os.fsync(file.fileno())
                log.write(f"synced {time.time_ns()} {number} {hashlib.sha256(content).hexdigest()} "
                          f"{len(content)}\\n")
        if number != 3:
            names.append(number)
        if len(names) > 60:
            gone = names.pop(generator.randrange(len(names)))
            log.write(f"deleting {time.time_ns()} {gone}\\n")
            os.unlink(f"{root}/work/{gone}")
"""


@dataclass(frozen=True)
class SyncedFile:
    """A file that was on the disk at ``synced_ns``; ``deleting_ns``: no more promised then."""

    name: str
    sha256: str
    length: int
    synced_ns: int
    deleting_ns: int | None


def synced_files(log: Path) -> list[SyncedFile]:
    deleting: dict[str, int] = {}
    synced: list[tuple[str, int, str, int]] = []
    for line in log.read_text().splitlines():
        kind, time_ns, name, *rest = line.split()
        if kind == "deleting":
            deleting[name] = int(time_ns)
        elif len(rest) == 2:
            synced.append((name, int(time_ns), rest[0], int(rest[1])))
    return [
        SyncedFile(name, digest, length, time_ns, deleting.get(name))
        for name, time_ns, digest, length in synced
    ]


@contextmanager
def workload(lab: Lab, root: Path, name: str) -> Iterator[Path]:
    """Runs while the block does, from the moment the front is mounted; gives its log."""
    log = lab.directory / f"workload-{uuid4().hex[:6]}"
    argv = [
        sys.executable,
        "-c",
        textwrap.dedent(SCRIPT),
        str(root),
        f"/dev/mapper/{name}",
        str(log),
    ]
    with subprocess.Popen(argv) as child:
        try:
            yield log
        finally:
            log.with_name(f"{log.name}.stop").touch()
            child.wait(timeout=300)
    # Only now: when the block failed, that is what is to be seen.
    assert child.returncode == 0


def wait_for_files(log: Path, count: int) -> None:
    """Wait until the workload has promised so many more files."""

    def promised() -> int:
        return len(synced_files(log)) if log.exists() else 0

    wanted = promised() + count
    wait_until(f"{count} more files of the workload", lambda: promised() >= wanted)


@contextmanager
def windows(log: Path) -> Iterator[list[tuple[int, int]]]:
    """When each window began and ended: a point's own time can be later on a busy machine.

    What is written back before it may take seconds, in which the workload deletes much of what it
    promised. None begins before the workload of ``log`` has promised something.
    """
    found: list[tuple[int, int]] = []
    run_window = window.run

    def timed(*arguments: Any, **options: Any) -> window.WindowTimes:
        wait_for_files(log, 1)
        began_ns = time.time_ns()
        times = run_window(*arguments, **options)
        found.append((began_ns + int(times.flush_seconds * 1e9), time.time_ns()))
        return times

    with patch.object(window, "run", timed):
        yield found


def check_files(root: Path, log: Path, began_ns: int, ended_ns: int) -> int:
    """Every file that was synced before the window and not deleted is there, as it was."""
    promised = [
        file
        for file in synced_files(log)
        if file.synced_ns < began_ns and (file.deleting_ns is None or file.deleting_ns > ended_ns)
    ]
    for file in promised:
        content = (root / "work" / file.name).read_bytes()
        assert hashlib.sha256(content[: file.length]).hexdigest() == file.sha256, (
            f"{file}: {len(content)} bytes, {content[:16].hex()}…"
        )
        assert not content[file.length :].strip(b"\0"), file  # what was preallocated behind it
    return len(promised)


def fill_and_age(root: Path, megabytes: int) -> str:
    """Fill with files, delete most of them and keep some: free space is full of what was there."""
    for number in range(megabytes // 2):
        (root / f"old-{number}").write_bytes(hashlib.sha512(str(number).encode()).digest() * 32768)
    run("sync")
    for number in range(megabytes // 2):
        if number % 8:
            (root / f"old-{number}").unlink()
    run("sync")
    return checksums(root)


def checksums(root: Path) -> str:
    return run("sh", "-c", f"cd {root} && find . -name 'old-*' | sort | xargs sha256sum")


CHECKERS = {
    "ext4": ["e2fsck", "-fn"],
    "xfs": ["xfs_repair", "-n"],
    "btrfs": ["btrfs", "check", "--readonly"],
}


@contextmanager
def mounted_replica(lab: Lab, recovery: str, size_bytes: int, fs_type: str) -> Iterator[Path]:
    """The replica mounted over a throwaway overlay; its file system is checked when unmounted.

    The volume itself must not be mounted: btrfs knows one device of a name alone.
    """
    name = f"judge-{uuid4().hex[:6]}"
    cow = lab.disk(128 * MIB)
    run(
        "dmsetup", "create", name, "--table", f"0 {size_bytes // 512} snapshot {recovery} {cow} N 8"
    )
    run("dmsetup", "mknodes")
    root = lab.directory / name
    root.mkdir()
    try:
        if fs_type == "btrfs":
            run("btrfs", "device", "scan", "--forget")
        run("mount", "-t", fs_type, f"/dev/mapper/{name}", root)
        try:
            yield root
        finally:
            run("umount", root)
        run(*CHECKERS[fs_type], f"/dev/mapper/{name}")
    finally:
        if fs_type == "btrfs":
            run("btrfs", "device", "scan", "--forget")
        run("dmsetup", "remove", "--retry", name)
