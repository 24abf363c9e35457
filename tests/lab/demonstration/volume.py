"""The volumes of the demonstration: loop devices over sparse files."""

from dataclasses import dataclass
from pathlib import Path

from demonstration import notes
from demonstration.notes import Record
from demonstration.program import run

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Volume:
    """A primary, its recovery volume, where it is mounted, and what the application noted."""

    name: str
    fs_type: str
    size_bytes: int
    primary: str
    recovery: str
    mount_point: Path
    notes: Path

    @property
    def position(self) -> int:
        return notes.position(self.notes)

    def records(self, start: int = 0) -> list[Record]:
        return list(notes.read(self.notes, start))

    def commits(self, start: int = 0) -> list[Record]:
        """The transactions noted as durable from a position on."""
        return [
            record for record in self.records(start) if record.kind == "done" and record.sequence
        ]


def loop_device(image: Path, size_bytes: int) -> str:
    """A disk over a sparse file, without the page cache of the file below it."""
    with image.open("wb") as file:
        file.truncate(size_bytes)
    return run("losetup", "--find", "--show", "--direct-io=on", image).strip()


def create(directory: Path, name: str, fs_type: str, size_bytes: int) -> Volume:
    """Make the disks and a mounted file system. The recovery volume has room for a history."""
    volume = Volume(
        name=name,
        fs_type=fs_type,
        size_bytes=size_bytes,
        primary=loop_device(directory / f"{name}.img", size_bytes),
        recovery=loop_device(directory / f"{name}-recovery.img", size_bytes * 3 // 2),
        mount_point=directory / name,
        notes=directory / f"{name}.notes",
    )
    run(f"mkfs.{fs_type}", "-q", volume.primary)
    volume.mount_point.mkdir()
    run("mount", "-o", "noatime", volume.primary, volume.mount_point)
    return volume
