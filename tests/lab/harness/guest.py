"""A guest as it is to be booted, and the directory of one run."""

import fcntl
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.arguments import Init
from harness.cable import Plug
from harness.kernels import Kernel
from harness.python_layers import TOOLS_PATH

SCRIPTS = Path(__file__).parents[1] / "guest"

ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": TOOLS_PATH,
    "PYTHONUNBUFFERED": "1",  # stdout is a pipe, and is to be seen as it comes
    "PYTHONDONTWRITEBYTECODE": "1",  # the checkout is read-only
    "PYTEST_ADDOPTS": "-p no:cacheprovider",
    "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",  # noqa: S108 - the guest's own
}


@dataclass(frozen=True, slots=True)
class Stock:
    """What an emulated machine boots from: the directories of a kernel and of a tree's image."""

    kernel: Path
    root: Path


@dataclass(frozen=True, slots=True)
class Guest:
    """What a guest is made of; `stock` is what emulated machines boot from.

    `package` is the directory of a kernel that is not of the tree's suite, `libraries` those of
    preload.py. Without `flushes` those of the guest end in the host's page cache.

    `disks` are images beside the scratch disk, None where one is not plugged in. With `keep` the
    scratch disk holds what is written to the root file system, so that the next boot finds it.
    `plug` is the end of a network cable.
    """

    kernel: Kernel
    init: Init
    memory_mib: int
    checkout: Path
    tree: Path
    venv: Path
    dmsnap: Path
    stock: Stock | None = None
    package: Path | None = None
    libraries: tuple[Path, ...] = ()
    flushes: bool = False
    disks: tuple[Path | None, ...] = ()
    keep: bool = False
    plug: Plug | None = None


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The files of one run on the host, gone with it."""

    path: Path
    scratch: Path

    @property
    def root(self) -> Path:
        """Return the mount point of the jail."""
        return self.path / "root"

    @property
    def work(self) -> Path:
        """Return what host and guest both write: the command, its status, /out."""
        return self.path / "work"

    @property
    def nothing(self) -> Path:
        """Return an empty directory."""
        return self.path / "nothing"

    @property
    def console(self) -> Path:
        """Return the log of the kernel's console."""
        return self.path / "console.log"


@contextmanager
def run_directory(parent: Path, scratch: Path | None) -> Iterator[RunDirectory]:
    """Make a run's directory on disk (/tmp may be RAM), and remove it in the end.

    Those that killed runs have left are removed too.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _sweep(parent)
    path = Path(tempfile.mkdtemp(prefix="run-", dir=parent))
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for name in ("root", "work", "nothing"):
            (path / name).mkdir()
        yield RunDirectory(path, (scratch or path / "scratch.img").absolute())
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def _sweep(parent: Path) -> None:
    for path in parent.glob("run-*"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if any(path.iterdir()):  # an empty one is just being made
                shutil.rmtree(path, ignore_errors=True)
        except (BlockingIOError, FileNotFoundError):
            pass
        finally:
            os.close(descriptor)


def write_command(
    work: Path, command: Sequence[str], environment: Mapping[str, str], facts: Mapping[str, str]
) -> None:
    """Leave the command and `facts` about this boot where the guest's scripts read them."""
    names = {**ENVIRONMENT, **environment}
    exports = [f"export {name}={shlex.quote(value)}" for name, value in names.items()]
    lines = [*exports, "cd /src || exit 125", f"exec {shlex.join(command)}"]
    (work / "command").write_text("\n".join(lines) + "\n")
    conf = "".join(f"{name}={shlex.quote(value)}\n" for name, value in facts.items())
    (work / "boot.conf").write_text(conf)
