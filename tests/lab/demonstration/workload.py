"""The applications: a thread per volume that writes files and transactions until it is stopped.

    python3 -m demonstration.workload FILES NAME=MOUNT_POINT=NOTES…

The first FILES files and the database are written once. Afterwards nothing that is missing is
made anew: an application whose volume or files are gone waits until they are back.

Every file is written under a temporary name, fsynced, renamed, and its directory fsynced. Every
transaction is committed with synchronous=FULL in WAL mode. While a batch runs, the root of the
volume is held open, so that the whole batch happens on one mount.
"""

import os
import random
import signal
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path

from demonstration.notes import Record, Writer

FILES = "files"
DATABASE = "database/orders.db"

SMALLEST, LARGEST = 1024, 64 * 1024
FIRST_BATCH_FILES = 100
PAUSE_SECONDS = 0.1
RETRY_SECONDS = 0.02

# A file whose number is a multiple of it is written once and never changed.
UNCHANGED = 8


class NotThereError(OSError):
    """The volume is not mounted."""


class Application(threading.Thread):
    """Writes one volume and notes what it wrote."""

    def __init__(self, mount_point: Path, notes: Path, stop: threading.Event) -> None:
        super().__init__(name=mount_point.name)
        self.mount_point = mount_point
        self.notes = Writer(notes)
        self.stop = stop
        self.files = 0
        self.sequence = 0
        self.failure = ""
        self.random = random.Random(mount_point.name)

    def start_with(self, files: int) -> None:
        """Write the first content."""
        (self.mount_point / FILES).mkdir()
        (self.mount_point / DATABASE).parent.mkdir()
        with closing(sqlite3.connect(self.mount_point / DATABASE)) as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute(
                "CREATE TABLE orders (sequence INTEGER PRIMARY KEY, payload BLOB, sha256 TEXT)"
            )
        os.sync()
        with self.mounted() as root:
            for first in range(0, files, FIRST_BATCH_FILES):
                last = min(first + FIRST_BATCH_FILES, files)
                self.write_files(root, list(range(first, last)))
                self.transact(10)

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                with self.mounted() as root:
                    self.batch(root)
            except NotThereError:
                self.stop.wait(RETRY_SECONDS)
            except (OSError, sqlite3.Error) as error:
                self.fail(error)
                self.stop.wait(RETRY_SECONDS)
            else:
                self.failure = ""
                self.stop.wait(PAUSE_SECONDS)

    @contextmanager
    def mounted(self) -> Iterator[int]:
        """The root of the volume, held open. It cannot be unmounted meanwhile."""
        root = os.open(self.mount_point, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if os.fstat(root).st_dev == self.mount_point.parent.stat().st_dev:
                raise NotThereError
            yield root
        finally:
            os.close(root)

    def batch(self, root: int) -> None:
        """A new file, changed files and transactions."""
        changed = [n for n in self.random.sample(range(self.files), 2) if n % UNCHANGED]
        self.write_files(root, [self.files, *changed])
        self.transact(3)

    def write_files(self, root: int, numbers: list[int]) -> None:
        """Write new versions of files; noted when all of them are durable."""
        contents = {file_name(number): self.content() for number in numbers}
        digests = {name: sha256(content).hexdigest() for name, content in contents.items()}
        directory = os.open(FILES, os.O_RDONLY | os.O_DIRECTORY, dir_fd=root)
        try:
            self.notes.append(
                (Record("begin", file=name, sha256=digest) for name, digest in digests.items()),
                durable=False,
            )
            for name, content in contents.items():
                replace_file(directory, name, content)
            os.fsync(directory)
        finally:
            os.close(directory)
        self.files = max(self.files, *(number + 1 for number in numbers))
        self.notes.append(
            (Record("done", file=name, sha256=digest) for name, digest in digests.items()),
            durable=True,
        )

    def content(self) -> bytes:
        """1 to 64 KiB, small ones more often, as in most directories."""
        size = SMALLEST * (LARGEST // SMALLEST) ** self.random.random()
        return os.urandom(int(size))

    def transact(self, count: int) -> None:
        """Commit some transactions, each noted after its COMMIT."""
        uri = f"file:{self.mount_point / DATABASE}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as database:
            database.execute("PRAGMA synchronous=FULL")
            for _ in range(count):
                self.sequence += 1
                payload = os.urandom(self.random.randint(100, 4000))
                digest = sha256(payload).hexdigest()
                self.notes.append([Record("begin", sequence=self.sequence)], durable=False)
                database.execute("BEGIN")
                database.execute(
                    "INSERT INTO orders VALUES (?, ?, ?)", (self.sequence, payload, digest)
                )
                database.execute("COMMIT")
                self.notes.append([Record("done", sequence=self.sequence)], durable=True)

    def fail(self, error: Exception) -> None:
        """Note what stopped the application, once."""
        if str(error) != self.failure:
            self.failure = str(error)
            self.notes.append([Record("failed", error=self.failure)], durable=True)


def file_name(number: int) -> str:
    return f"{number:06}.bin"


def replace_file(directory: int, name: str, content: bytes) -> None:
    """Put a durable file in the place of an older version, or of none."""
    temporary = f"{name}.new"
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644, dir_fd=directory)
    try:
        os.write(file, content)
        os.fsync(file)
    finally:
        os.close(file)
    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)


def main(files: int, volumes: list[list[str]]) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    applications = [
        Application(Path(mount_point), Path(notes), stop) for _, mount_point, notes in volumes
    ]
    for application in applications:
        application.start_with(files)
    print("ready", flush=True)
    for application in applications:
        application.start()
    for application in applications:
        application.join()


if __name__ == "__main__":
    main(int(sys.argv[1]), [argument.split("=") for argument in sys.argv[2:]])
