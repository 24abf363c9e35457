"""The cache of layers: directories that are slow to build.

Each is kept under the key of what it is made of.
"""

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.report import Report

STAMP = "complete"
CONTENT = "content"


def key_of(*parts: str | bytes) -> str:
    """Return a key that changes when a part, or the border between two parts, changes."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:24]


def key_of_files(paths: Iterable[Path], root: Path) -> str:
    """Return a key of the names, modes and contents of files below `root`."""
    parts: list[str | bytes] = []
    for path in sorted(paths):
        parts += [str(path.relative_to(root)), str(path.stat().st_mode), path.read_bytes()]
    return key_of(*parts)


def fingerprint(directory: Path) -> str:
    """Return a digest of every name, type, mode and size below `directory`.

    Contents are not read: half a gigabyte at every boot is too dear, and what happens is builds
    cut short and files deleted or truncated.
    """
    digest = hashlib.sha256()
    pending = [str(directory)]
    while pending:
        here = pending.pop()
        with os.scandir(here) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                status = entry.stat(follow_symlinks=False)
                size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
                digest.update(
                    f"{entry.path[len(str(directory)) :]}\0{status.st_mode}\0{size}\n".encode()
                )
                if stat.S_ISDIR(status.st_mode):
                    pending.append(entry.path)
    return digest.hexdigest()


def _is_complete(layer: Path) -> bool:
    try:
        return (layer / STAMP).read_text() == fingerprint(layer / CONTENT)
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return False


@contextmanager
def locked(path: Path, operation: int) -> Iterator[int]:
    """Hold flock(2) on a file, made where it is missing; gives its descriptor."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, operation)
        yield descriptor
    finally:
        os.close(descriptor)


def _discard(layer: Path) -> None:
    """Remove a layer in two steps, so that no one ever finds half of it under its key."""
    trash = Path(tempfile.mkdtemp(prefix=".trash-", dir=layer.parent))
    layer.rename(trash / "layer")
    shutil.rmtree(trash)


@dataclass(frozen=True, slots=True)
class Layers:
    """All layers of one cache directory. `keep` old ones of a kind stay beside the one in use."""

    directory: Path
    report: Report
    keep: int = 3

    def obtain(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        """Return the content of layer `key`.

        If it is not there or damaged, `build` is called with an empty directory to fill. The layer
        is locked against pruning by other runs until this process ends.
        """
        layer = self.directory / kind / key
        layer.parent.mkdir(parents=True, exist_ok=True)
        if not self._hold(layer):
            with locked(self.directory / f"{kind}.lock", fcntl.LOCK_EX):
                if not self._hold(layer):
                    self._build(layer, build)
                    self._prune(layer)
                    if not self._hold(layer):
                        raise AssertionError(f"{layer} was built and is not complete")
        return layer / CONTENT

    def _hold(self, layer: Path) -> bool:
        """Lock the layer for as long as this process lives; false if it is not there or damaged."""
        try:
            descriptor = os.open(layer, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        try:
            current = os.path.samestat(os.fstat(descriptor), layer.stat())
        except FileNotFoundError:
            current = False
        if current and _is_complete(layer):
            os.utime(layer / STAMP)  # the least recently used layers are pruned first
            return True
        os.close(descriptor)
        return False

    def _build(self, layer: Path, build: Callable[[Path], None]) -> None:
        """Build beside the layer's place and move it there; we hold the lock of this kind."""
        for leftover in layer.parent.glob(".*"):  # of builds that were killed
            shutil.rmtree(leftover)
        if layer.exists():
            self.report.say(f"the cached {layer.parent.name} {layer.name} is damaged: built again")
            _discard(layer)
        making = Path(tempfile.mkdtemp(prefix=".making-", dir=layer.parent))
        try:
            making.chmod(0o755)
            (making / CONTENT).mkdir()
            with self.report.timed(f"building the {layer.parent.name}"):
                build(making / CONTENT)
            (making / STAMP).write_text(fingerprint(making / CONTENT))
            making.rename(layer)
        except BaseException:
            shutil.rmtree(making)
            raise

    def _prune(self, used: Path) -> None:
        others = [
            each for each in used.parent.iterdir() if each != used and (each / STAMP).exists()
        ]
        others.sort(key=lambda each: (each / STAMP).stat().st_mtime, reverse=True)
        for layer in others[self.keep :]:
            descriptor = os.open(layer, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _discard(layer)
            except BlockingIOError:
                continue  # a guest runs from it
            finally:
                os.close(descriptor)
