"""A disk that fails where and when a scenario wants."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from conftest import Lab, run
from raw_volume import SECTOR, Range

from dmsnap._native import label
from dmsnap.catalogue.model import AreaRole

FOREVER_MS = 3_600_000


@dataclass
class FaultyDisk:
    """A dm device over a loop device, whose parts can be made to fail.

    ``error_writes``: writes fail. ``drop_writes``: they succeed and are forgotten. ``error``: all
    I/O fails. ``hold_reads``: reads wait, until the next ``load``; ``hold_flushes``: flushes do.
    """

    lab: Lab
    size_bytes: int
    name: str = field(default_factory=lambda: f"faulty-{uuid4().hex[:6]}")

    def __post_init__(self) -> None:
        self.loop = self.lab.disk(self.size_bytes)
        self.plug_in()

    @property
    def path(self) -> str:
        return f"/dev/mapper/{self.name}"

    @property
    def device(self) -> Path:
        return Path(self.path)

    @property
    def label_range(self) -> Range:
        return label.offset(self.size_bytes), label.AREA_BYTES

    def table(self, faults: Sequence[tuple[Range, str]]) -> str:
        lines, position = [], 0
        for (offset, length), fault in sorted(faults):
            lines.append(self._line(position, offset - position, "linear"))
            lines.append(self._line(offset, length, fault))
            position = offset + length
        lines.append(self._line(position, self.size_bytes - position, "linear"))
        return "\n".join(line for line in lines if line)

    def _line(self, offset: int, length: int, kind: str) -> str:
        if length == 0:
            return ""
        start, sectors = offset // SECTOR, length // SECTOR
        if kind == "error":
            return f"{start} {sectors} error"
        if kind == "linear":
            return f"{start} {sectors} linear {self.loop} {start}"
        if kind == "hold_reads":
            place = f"{self.loop} {start}"
            return f"{start} {sectors} delay {place} {FOREVER_MS} {place} 0"
        if kind == "hold_flushes":
            place = f"{self.loop} {start}"
            return f"{start} {sectors} delay {place} 0 {place} 0 {place} {FOREVER_MS}"
        return f"{start} {sectors} flakey {self.loop} {start} 0 3600 1 {kind}"

    def load(self, *faults: tuple[Range, str]) -> None:
        """Fail like this from now on; nothing: whole again."""
        self._replace_table(self.table(faults))

    def delay_reads(self, milliseconds: int) -> None:
        """Each read takes so long, and writes do not; ``load`` makes it as fast as it was."""
        self._delay(milliseconds, 0)

    def delay_writes(self, milliseconds: int) -> None:
        """Each write takes so long, and reads do not; ``load`` makes it as fast as it was."""
        self._delay(0, milliseconds)

    def _delay(self, read: int, write: int) -> None:
        reads, writes = f"{self.loop} 0 {read}", f"{self.loop} 0 {write}"
        self._replace_table(f"0 {self.size_bytes // SECTOR} delay {reads} {writes}")

    def shrink(self, size_bytes: int) -> None:
        """What is behind that is gone; ``load`` brings it back."""
        self._replace_table(f"0 {size_bytes // SECTOR} linear {self.loop} 0")

    def unplug(self) -> None:
        """It is gone, and so is its node; ``plug_in`` brings it back with what is on it."""
        run("dmsetup", "remove", "--retry", self.name)

    def plug_in(self) -> None:
        run("dmsetup", "create", self.name, "--table", self.table([]))
        run("dmsetup", "mknodes")

    def _replace_table(self, table: str) -> None:
        run("dmsetup", "suspend", "--noflush", "--nolockfs", self.name)
        run("dmsetup", "load", self.name, "--table", table)
        run("dmsetup", "resume", self.name)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """All I/O is held back within the block, where that can be failed."""
        run("dmsetup", "suspend", "--noflush", "--nolockfs", self.name)
        try:
            yield
        finally:
            run("dmsetup", "resume", self.name)

    def close(self) -> None:
        if self.device.exists():
            self.unplug()


@contextmanager
def faulty_disk(lab: Lab, size_bytes: int) -> Iterator[FaultyDisk]:
    disk = FaultyDisk(lab, size_bytes)
    try:
        yield disk
    finally:
        disk.close()


@dataclass
class FaultyStore:
    """A volume group on a faulty disk, whose pieces can be made to fail by what they are for."""

    disk: FaultyDisk
    group: str

    def fail(self, *roles: AreaRole, fault: str = "error", generation: int | str = "") -> None:
        """Fail all I/O, or all writes, to pieces of these roles, or those of one generation; LVM's
        own metadata stay whole.
        """
        pieces = [f"--{role.replace('-', '--')}--g{generation}" for role in roles]
        self.disk.load(*((place, fault) for piece in pieces for place in self._places(piece)))

    def heal(self) -> None:
        """Whole again."""
        self.disk.load()

    def _places(self, piece: str) -> Iterator[Range]:
        rows = run("dmsetup", "table").splitlines()
        for row in rows:
            name, _, table = row.partition(": ")
            if name.startswith(f"{self.group}-") and piece in name:
                _, sectors, target, _, start = table.split()
                assert target == "linear"
                yield int(start) * SECTOR, int(sectors) * SECTOR

    def pieces(self) -> list[str]:
        """The names of what is in it."""
        return run("lvs", "--noheadings", "-o", "lv_name", self.group).split()


@contextmanager
def faulty_store(lab: Lab, size_bytes: int) -> Iterator[FaultyStore]:
    with faulty_disk(lab, size_bytes) as disk:
        store = FaultyStore(disk, lab.group(disk.path))
        try:
            yield store
        finally:
            store.heal()
            lab.take_down()
