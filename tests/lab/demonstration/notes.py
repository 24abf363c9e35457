"""What an application notes outside of its volume: what it began to write, what is durable.

A line of JSON per record. A ``begin`` comes before the write; a ``done`` after it is durable, and
is itself fsynced. A position is a length of the notes in bytes: what lies before it was noted
before.
"""

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Record:
    """One version of a file, one transaction, or a failure.

    ``position`` is where it stands, ``moment`` when it was noted (of time.monotonic).
    """

    kind: str
    file: str = ""
    sha256: str = ""
    sequence: int = 0
    error: str = ""
    moment: float = 0.0
    position: int = field(default=0, compare=False)


class Writer:
    """Appends records, whole lines at a time. Records of one volume come from one thread."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def append(self, records: Iterable[Record], *, durable: bool) -> None:
        moment = time.monotonic()
        lines = "".join(
            f"{json.dumps(_members(replace(record, moment=moment)))}\n" for record in records
        )
        os.write(self._fd, lines.encode())
        if durable:
            os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


def _members(record: Record) -> dict[str, object]:
    members = asdict(record)
    del members["position"]
    return {name: value for name, value in members.items() if value}


def position(path: Path) -> int:
    """How far the notes have come."""
    return path.stat().st_size if path.exists() else 0


def read(path: Path, start: int = 0) -> Iterator[Record]:
    """The records from a position on."""
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            yield Record(**json.loads(line), position=start)
            start += len(line)


@dataclass(frozen=True, slots=True)
class Lineage:
    """What a volume's content is made of: a point, and what was written after it was recovered.

    The point's moment lies between ``before`` and ``after``. The applications wrote on it from
    ``recovered`` on; what they wrote in between is on no volume any more.
    """

    before: int
    after: int
    recovered: int

    def versions(self, records: Iterable[Record], until: int) -> "Versions":
        """What must and may be there. ``records`` reach past ``until``, when the look began."""
        found = Versions()
        for record in records:
            settled = record.position < self.before or self.recovered <= record.position < until
            known = record.position < self.after or record.position >= self.recovered
            if record.kind == "done" and settled:
                found.settle(record)
            elif record.kind == "begin" and known:
                found.begin(record)
        return found


@dataclass(slots=True)
class Versions:
    """What must be there, in one of its versions that may be there."""

    files: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    required_files: set[str] = field(default_factory=set)
    sequences: set[int] = field(default_factory=set)
    required_sequences: set[int] = field(default_factory=set)

    def begin(self, record: Record) -> None:
        if record.file:
            self.files[record.file].add(record.sha256)
        else:
            self.sequences.add(record.sequence)

    def settle(self, record: Record) -> None:
        """From here on, no earlier version of the file will do."""
        if record.file:
            self.files[record.file] = {record.sha256}
            self.required_files.add(record.file)
        else:
            self.sequences.add(record.sequence)
            self.required_sequences.add(record.sequence)
