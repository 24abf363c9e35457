"""The store: where era metadata and COW stores come from.

Either preallocated files with loop devices, in a directory on another file system, or logical
volumes in the free space of a volume group. What is handed out is recorded as an :class:`Area`.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import UUID, uuid4

from dmsnap.catalogue.model import Area, AreaRole, Volume
from dmsnap.errors import NotFoundError
from dmsnap.host import loop, lvm, replacement
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.mountinfo import file_system_devno
from dmsnap.host.sysfs import SYSFS
from dmsnap.host.system_call import system_call
from dmsnap.units import MIB, PAGE_BYTES, SECTOR_BYTES, align_up

# Left on a file system for others, the less of the two: the store that is used by default is on
# that of /var.
KEPT_BYTES = 256 * MIB
KEPT_PERCENT = 2

POINT_DIGITS = 12
PIECE = re.compile(
    rf"(.+)-({'|'.join(AreaRole)})(?:-g(\d{{1,9}}))?(?:-([0-9a-f]{{{POINT_DIGITS}}}))?-[0-9a-f]{{8}}"
)


class Space(Protocol):
    """A place that pieces of storage are taken from."""

    def require(self) -> None:
        """Raise :class:`NotFoundError` unless the place exists."""

    def path(self, name: str) -> str:
        """What a piece called ``name`` is reached by."""

    def create(self, path: str, size_bytes: int) -> None:
        """Make a piece of at least ``size_bytes`` that reads as zeroes at its start."""

    def grow(self, path: str, size_bytes: int) -> None:
        """Give a piece ``size_bytes`` at least, while it is used."""

    def attach(self, path: str) -> BlockDevice:
        """The block device of a piece; attached when it is not yet."""

    def release(self, path: str) -> None:
        """Detach a piece and give it back. Nothing happens when it is gone already."""

    def free_bytes(self) -> int:
        """What could still be taken."""

    def spare_bytes(self) -> int:
        """What pieces may be given unasked: a little is left for what else is written there."""

    def devices(self) -> list[int]:
        """The numbers of the devices that its bytes end up on."""

    def logical_block_bytes(self) -> int:
        """The sectors of a piece of it."""

    def pieces(self) -> list[tuple[str, int]]:
        """Path and size of what is there and bears the name of a piece of ours."""


@dataclass(frozen=True, slots=True)
class DirectorySpace:
    """Preallocated files in ``directory``."""

    directory: Path

    def require(self) -> None:
        if not self.directory.is_dir():
            raise NotFoundError(
                f"the store {self.directory} is not a directory",
                hint=f"make it with: mkdir -p {self.directory}",
                store=str(self.directory),
            )

    def path(self, name: str) -> str:
        return str(self.directory / f"{name}.img")

    def create(self, path: str, size_bytes: int) -> None:
        loop.create_backing_file(Path(path), size_bytes)

    def grow(self, path: str, size_bytes: int) -> None:
        loop.grow(Path(path), size_bytes)

    def attach(self, path: str) -> BlockDevice:
        device = loop.find(Path(path))
        return BlockDevice.probe(device) if device else loop.attach(Path(path))

    def release(self, path: str) -> None:
        with system_call(f"look at {path}"):
            is_there = Path(path).exists()
        device = loop.find(Path(path)) if is_there else None
        if device is not None:
            loop.detach(device)
        replacement.remove_file(Path(path))

    def free_bytes(self) -> int:
        status = self._file_system()
        return status.f_bavail * status.f_frsize

    def spare_bytes(self) -> int:
        status = self._file_system()
        size_bytes = status.f_blocks * status.f_frsize
        kept_bytes = min(KEPT_BYTES, size_bytes * KEPT_PERCENT // 100)
        return max(0, status.f_bavail * status.f_frsize - kept_bytes)

    def _file_system(self) -> os.statvfs_result:
        with system_call(f"look at the store {self.directory}"):
            return os.statvfs(self.directory)

    def devices(self) -> list[int]:
        below = file_system_devno(self.directory)
        return [] if below is None else [below]

    def pieces(self) -> list[tuple[str, int]]:
        with system_call(f"look into the store {self.directory}"):
            return [
                (str(path), path.stat().st_size)
                for path in sorted(self.directory.glob("*.img"))
                if not path.is_symlink() and path.is_file() and piece_name(str(path)) is not None
            ]

    def logical_block_bytes(self) -> int:
        return SECTOR_BYTES  # the loop driver's, whatever lies below the file system


@dataclass(frozen=True, slots=True)
class VolumeGroupSpace:
    """Logical volumes in ``volume_group``, all with the tag ``dmsnap``."""

    volume_group: str

    def require(self) -> None:
        if lvm.volume_group(self.volume_group) is None:
            raise NotFoundError(
                f"the store {self.volume_group!r} is neither an absolute directory nor a "
                f"volume group",
                store=self.volume_group,
            )

    def path(self, name: str) -> str:
        return f"/dev/{self.volume_group}/dmsnap-{name}"

    def create(self, path: str, size_bytes: int) -> None:
        lvm.create_lv(self.volume_group, Path(path).name, self._whole_extents(size_bytes))

    def grow(self, path: str, size_bytes: int) -> None:
        lvm.extend_lv(self.volume_group, Path(path).name, self._whole_extents(size_bytes))

    def _whole_extents(self, size_bytes: int) -> int:
        group = lvm.volume_group(self.volume_group)
        return align_up(size_bytes, group.extent_bytes if group else 1)

    def attach(self, path: str) -> BlockDevice:
        return BlockDevice.probe(Path(path))

    def release(self, path: str) -> None:
        lvm.remove_lv(self.volume_group, Path(path).name)

    def free_bytes(self) -> int:
        group = lvm.volume_group(self.volume_group)
        return group.free_bytes if group else 0

    def spare_bytes(self) -> int:
        return self.free_bytes()  # nothing else grows there by itself

    def devices(self) -> list[int]:
        group = lvm.volume_group(self.volume_group)
        paths = group.physical_volumes if group else ()
        return [BlockDevice.probe(Path(path)).devno for path in paths]

    def pieces(self) -> list[tuple[str, int]]:
        return [
            (str(volume.path), volume.size_bytes)
            for volume in lvm.list_lvs()
            if volume.vg == self.volume_group and piece_name(str(volume.path)) is not None
        ]

    def logical_block_bytes(self) -> int:
        blocks = [SYSFS.logical_block_bytes(devno) for devno in self.devices()]
        return max(blocks, default=SECTOR_BYTES)


def open_space(store: str) -> Space:
    """The store called ``store``: an absolute directory, or the name of a volume group."""
    if store.startswith("/"):
        return DirectorySpace(Path(store))
    return VolumeGroupSpace(store)


@dataclass(frozen=True, slots=True)
class PieceName:
    """What the name of a piece says of it: enough to know it again without a catalogue.

    Pieces of earlier versions say neither ``generation`` nor ``point``, the first twelve digits of
    the point that it serves.
    """

    volume: str
    role: AreaRole
    generation: int | None
    point: str | None


def piece_name(path: str) -> PieceName | None:
    """Read the name of a piece of any store; None when it is none of ours."""
    found = PIECE.fullmatch(Path(path).name.removesuffix(".img").removeprefix("dmsnap-"))
    if found is None:
        return None
    volume, role, generation, point = found.groups()
    return PieceName(volume, AreaRole(role), int(generation) if generation else None, point)


def plan_area(
    volume: Volume,
    role: AreaRole,
    size_bytes: int,
    generation: int = 0,
    point_id: UUID | None = None,
) -> Area:
    """Name a piece of ``volume``'s store; nothing is made yet."""
    area_id = uuid4()
    generation = generation or volume.generation
    words = [volume.name, role, f"g{generation}"]
    words += [point_id.hex[:POINT_DIGITS]] if point_id else []
    name = "-".join([*words, area_id.hex[:8]])
    return Area(
        id=area_id,
        volume_id=volume.id,
        role=role,
        generation=generation,
        path=open_space(volume.store).path(name),
        size_bytes=align_up(size_bytes, MIB),
        point_id=point_id,
    )


def era_metadata_bytes(size_bytes: int, block_bytes: int) -> int:
    """Room for dm-era's metadata of a volume, a metadata snapshot held.

    An era array of 4 bytes a block and a few writesets of a bit a block, each in 4 KiB metadata
    blocks, twice, since a metadata snapshot keeps the old copy of all that changes. Measured on
    4 TiB in 64 KiB blocks: 287 MiB, where this gives 1.1 GiB.
    """
    nr_blocks = align_up(size_bytes, block_bytes) // block_bytes
    return 4 * MIB + align_up(4 * (4 * nr_blocks + nr_blocks // 8), PAGE_BYTES)
