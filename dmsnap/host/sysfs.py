"""sysfs: attributes of block devices. Readers take a root; only a missing file is "missing".

A command reads hundreds of attributes. Paths are text here, and a file is opened, read and closed:
a ``Path`` for each name and a text file for each attribute took longer than all else that some
commands do.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from dmsnap.errors import DmsnapError, NotFoundError
from dmsnap.host.descriptor import opened
from dmsnap.host.system_call import failure, system_call
from dmsnap.units import Bytes, to_bytes

PIECE_BYTES = 4096  # an attribute is a page at most (Documentation/filesystems/sysfs.rst)


def format_devno(devno: int) -> str:
    """``major:minor``, as dm tables and sysfs write it."""
    return f"{os.major(devno)}:{os.minor(devno)}"


def parse_devno(text: str) -> int:
    """Read ``major:minor``; ``ValueError`` when it is something else."""
    major, _, minor = text.strip().partition(":")
    return os.makedev(int(major), int(minor))


@dataclass(frozen=True, slots=True)
class Sysfs:
    """The tree at ``root``. Devices are addressed by their number, never by name or order.

    Reading needs no privileges, writing needs root. Every method raises ``NotFoundError`` for a
    device that does not exist; an attribute that a device lacks is None.
    """

    root: Path = Path("/sys")

    def directory(self, devno: int) -> Path:
        """The directory of a disk or partition, where the link in ``dev/block`` leads."""
        return Path(self._directory(devno))

    def _directory(self, devno: int) -> str:
        """One readlink(2): to resolve every name on the way is thirty system calls."""
        links = f"{self.root}/dev/block"
        link = f"{links}/{format_devno(devno)}"
        try:
            return os.path.normpath(os.path.join(links, os.readlink(link)))  # noqa: PTH115, PTH118
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise NotFoundError(f"there is no block device {format_devno(devno)}") from error
            raise failure(f"read the link {link}", error.errno or errno.EIO) from error

    def exists(self, devno: int) -> bool:
        return (self.root / "dev" / "block" / format_devno(devno)).exists()

    def attribute(self, devno: int, name: str) -> str | None:
        """The text of the attribute ``name`` ("queue/rotational"), without its newline."""
        return attribute_text(self._attribute_path(devno, name))

    def integer(self, devno: int, name: str) -> int | None:
        """The attribute as a number; a file that holds none is a ``ValueError``."""
        text = self.attribute(devno, name)
        return None if text is None else int(text)

    def write(self, devno: int, name: str, value: int | str) -> None:
        """Set an attribute; ``NotFoundError`` when the device lacks it."""
        path = self._attribute_path(devno, name)
        with system_call(f"write {value} to {path}"):
            descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
            try:
                os.write(descriptor, str(value).encode())
            finally:
                os.close(descriptor)

    def _attribute_path(self, devno: int, name: str) -> str:
        directory = self._directory(devno)
        # A partition has no queue of its own: block/partitions/core.c gives it none.
        if name.startswith("queue/") and os.path.exists(f"{directory}/partition"):  # noqa: PTH110
            directory = os.path.dirname(directory)  # noqa: PTH120
        return f"{directory}/{name}"

    def kernel_name(self, devno: int) -> str:
        """``sda1``, ``dm-3``; for ``/dev`` a ``!`` in it becomes a slash."""
        return self._directory(devno).rpartition("/")[2]

    def device_path(self, devno: int) -> Path:
        """The device node that the kernel names, ``/dev/dm-3``; it need not exist."""
        return Path("/dev", self.kernel_name(devno).replace("!", "/"))

    def display_name(self, devno: int) -> str:
        """A name for people: ``dm-3 (vg-lv)``, ``sda1``."""
        name = self.kernel_name(devno)
        dm_name = self.dm_name(devno)
        return f"{name} ({dm_name})" if dm_name else name

    def size_bytes(self, devno: int) -> Bytes:
        return to_bytes(self.integer(devno, "size") or 0)

    def read_only(self, devno: int) -> bool:
        return self.integer(devno, "ro") == 1

    def sectors_written(self, devno: int) -> int:
        """Sectors of 512 bytes written and discarded since the device exists, as they complete.

        Fields 7 and 14 of ``stat`` (Documentation/block/stat.rst). What is zeroed was written.
        """
        fields = (self.attribute(devno, "stat") or "").split()
        return int(fields[6]) + int(fields[13])

    @contextmanager
    def counter(self, devno: int) -> Iterator[int]:
        """A descriptor on ``stat``, for who reads it where no path may be looked for."""
        path = Path(self._attribute_path(devno, "stat"))
        with ExitStack() as held:
            with system_call(f"open {path}"):
                descriptor = held.enter_context(opened(path, os.O_RDONLY))
            yield descriptor

    def requests_completed(self, devno: int) -> int:
        """Reads, writes, discards and flushes completed since the device exists, failed ones too.

        Fields 1, 5, 12 and 16 of ``stat``; the last ones came with Linux 4.18 and 5.5.
        """
        fields = (self.attribute(devno, "stat") or "").split()
        return sum(int(fields[at]) for at in (0, 4, 11, 15) if at < len(fields))

    def in_flight(self, devno: int) -> int:
        """Reads and writes that the device has begun and not completed."""
        return sum(int(count) for count in (self.attribute(devno, "inflight") or "").split())

    def logical_block_bytes(self, devno: int) -> int:
        return self.integer(devno, "queue/logical_block_size") or 512

    def discard_max_bytes(self, devno: int) -> int:
        """The largest discard that the block layer sends down in one piece; 0: none at all."""
        return self.integer(devno, "queue/discard_max_bytes") or 0

    def set_discard_max_bytes(self, devno: int, size_bytes: int) -> None:
        """0 turns discards off; the kernel clamps to ``queue/discard_max_hw_bytes``."""
        self.write(devno, "queue/discard_max_bytes", size_bytes)

    def dm_name(self, devno: int) -> str | None:
        return self.attribute(devno, "dm/name")

    def dm_uuid(self, devno: int) -> str | None:
        return self.attribute(devno, "dm/uuid")

    def dm_suspended(self, devno: int) -> bool:
        return self.integer(devno, "dm/suspended") == 1

    def any_dm_suspended(self) -> bool:
        """Whether any dm device is suspended now. Asks no target."""
        directory = f"{self.root}/block"
        names = (name for name in _names(directory) if name.startswith("dm-"))
        return any(attribute_text(f"{directory}/{name}/dm/suspended") == "1" for name in names)

    def loop_backing_file(self, devno: int) -> str | None:
        """The path as the kernel knows it, ``… (deleted)`` included; None: no loop, or detached."""
        return self.attribute(devno, "loop/backing_file") or None

    def loops(self) -> dict[str, str]:
        """The kernel names of the loop devices that are attached, and ``loop_backing_file``."""
        directory = f"{self.root}/block"
        names = (name for name in _names(directory) if name.startswith("loop"))
        files = ((name, attribute_text(f"{directory}/{name}/loop/backing_file")) for name in names)
        return {name: file for name, file in files if file}

    def partition_parent(self, devno: int) -> int | None:
        """The disk that a partition lies on; None for everything else."""
        directory = self.directory(devno)
        if not (directory / "partition").exists():
            return None
        with system_call(f"read {directory.parent / 'dev'}"):
            return parse_devno((directory.parent / "dev").read_text())

    def partitions(self, devno: int) -> list[int]:
        """The partitions of a disk; of whatever else none."""
        return _numbers(each.parent for each in sorted(self.directory(devno).glob("*/partition")))

    def slaves(self, devno: int) -> list[int]:
        """The devices directly below a dm or md device."""
        return self._neighbours(devno, "slaves")

    def holders(self, devno: int) -> list[int]:
        """The devices directly above."""
        return self._neighbours(devno, "holders")

    def _neighbours(self, devno: int, relation: str) -> list[int]:
        directory = self.directory(devno) / relation
        with system_call(f"list {directory}"):
            try:
                entries = sorted(directory.iterdir())
            except FileNotFoundError:
                return []
        return _numbers(entries)

    def btrfs_siblings(self, devno: int) -> list[int]:
        """All devices of the mounted btrfs that this device is one of; none where it is in none."""
        name = self.kernel_name(devno)
        for entry in sorted(self.root.glob("fs/btrfs/*/devices")):
            with system_call(f"list {entry}"):
                found = {link.name: link for link in entry.iterdir()}
            if name in found:
                return _numbers(found.values())
        return []

    def block_devices(self) -> list[int]:
        """Every disk and partition."""
        return list(self._listed("class/block").values())

    def disks(self, prefix: str = "") -> dict[str, int]:
        """Every whole disk whose kernel name begins with ``prefix``, with its number."""
        return self._listed("block", prefix)

    def has_own_clock(self) -> bool:
        """Whether a clock that runs while the host is off set the wall clock at boot (hctosys).

        A kernel that has no such clocks lists none (Documentation/ABI/testing/sysfs-class-rtc).
        """
        return self._own_clock() is not None

    def own_clock_ns(self) -> int | None:
        """What that clock says now, since the epoch; None: there is none, or it does not say."""
        directory = self._own_clock()
        try:
            text = attribute_text(f"{directory}/since_epoch") if directory is not None else None
            return int(text) * 10**9 if text is not None else None
        except (DmsnapError, ValueError):  # as where its voltage was low
            return None

    def _own_clock(self) -> str | None:
        directory = f"{self.root}/class/rtc"
        try:
            names = _names(directory)
        except NotFoundError:
            return None
        clocks = (f"{directory}/{name}" for name in names)
        return next((each for each in clocks if attribute_text(f"{each}/hctosys") == "1"), None)

    def _listed(self, kind: str, prefix: str = "") -> dict[str, int]:
        """What is listed at a place, by name."""
        directory = f"{self.root}/{kind}"
        names = (name for name in _names(directory) if name.startswith(prefix))
        numbers = ((name, _number(f"{directory}/{name}")) for name in names)
        return {name: number for name, number in numbers if number is not None}


def _numbers(directories: Iterable[Path]) -> list[int]:
    """Of devices that were listed, those that are still there."""
    found = map(_number, directories)
    return [number for number in found if number is not None]


def _number(directory: Path | str) -> int | None:
    """None when the disk went away between the listing and now."""
    text = attribute_text(f"{directory}/dev")
    return None if text is None else parse_devno(text)


def _names(directory: str) -> list[str]:
    with system_call(f"list {directory}"):
        return sorted(os.listdir(directory))  # noqa: PTH208 - text, see above


# Before the file was opened, or before it was read (fs/kernfs/file.c). Of a dm device that is being
# removed the files in dm/ are there, and cannot be read (drivers/md/dm-sysfs.c, dm_attr_show).
_GONE = (errno.ENOENT, errno.ENODEV)


def attribute_text(path: str) -> str | None:
    """What an attribute says, without its newline; None when there is none, or none any more."""
    try:
        return _content(path).decode(errors="surrogateescape").removesuffix("\n")
    except OSError as error:
        if error.errno in _GONE or (error.errno == errno.EINVAL and "/dm/" in path):
            return None
        raise failure(f"read {path}", error.errno or errno.EIO) from error


def _content(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return b"".join(iter(lambda: os.read(descriptor, PIECE_BYTES), b""))
    finally:
        os.close(descriptor)


SYSFS = Sysfs()
