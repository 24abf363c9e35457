"""Volumes of any size: an XFS on sparse files, which hold what is written to it and no more."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from measure.devices import GIB, MIB, loop
from measure.process import run
from measure.setting import Setting

HISTORY_BYTES = 2 * GIB
CONFIGURATION = Path("/etc/dmsnap/dmsnap.toml")


@dataclass(frozen=True, slots=True)
class SparseVolume:
    """A mounted XFS, what can be its recovery volume, and a directory for its store."""

    primary: Path
    recovery: Path
    store: Path
    mount_point: Path


@contextmanager
def small_stores() -> Iterator[None]:
    """COW stores that do not grow with the volume: the disk would not have the room."""
    CONFIGURATION.parent.mkdir(exist_ok=True)
    CONFIGURATION.write_text(f"cow_limit_bytes = {256 * MIB}\n")
    try:
        yield
    finally:
        CONFIGURATION.unlink()


@contextmanager
def sparse_files(scratch: Path) -> Iterator[Path]:
    """A directory for files of any size: ext4's end at 16 TiB."""
    with loop(scratch / "xfs", 6 * GIB) as disk:
        directory = scratch / "sparse"
        directory.mkdir()
        run("mkfs.xfs", "-q", disk)
        run("mount", disk, directory)
        try:
            yield directory
        finally:
            run("umount", directory)


@contextmanager
def sparse_volume(directory: Path, size_bytes: int, setting: Setting) -> Iterator[SparseVolume]:
    """A volume on sparse files of ``directory``; nothing of it is protected."""
    mount_point, store = setting.scratch / "mnt", setting.scratch / "store"
    for each in (mount_point, store):
        each.mkdir(exist_ok=True)
    with ExitStack() as stack:
        primary = stack.enter_context(loop(directory / "primary", size_bytes))
        recovery = stack.enter_context(loop(directory / "recovery", size_bytes + HISTORY_BYTES))
        run("mkfs.xfs", "-q", "-l", "size=64m", primary)
        run("mount", primary, mount_point)
        stack.callback(run, "umount", mount_point)
        yield SparseVolume(primary, recovery, store, mount_point)
