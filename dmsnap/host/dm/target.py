"""dm targets and tables: typed here, sectors and ``major:minor`` only in the lines they become.

The lines are those that the kernel prints (``STATUSTYPE_TABLE``), so that a live table, parsed,
compares equal to the one that was loaded.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

from dmsnap.errors import CorruptError
from dmsnap.host.sysfs import format_devno, parse_devno
from dmsnap.units import MIB, to_bytes, to_sectors


class Target(Protocol):
    """A dm target: its kernel name and what follows it in a table line."""

    @property
    def type_name(self) -> str: ...

    def parameters(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Linear:
    """``device`` (a device number) from ``offset_bytes``."""

    type_name: ClassVar[str] = "linear"
    device: int
    offset_bytes: int = 0

    def parameters(self) -> str:
        return f"{format_devno(self.device)} {to_sectors(self.offset_bytes)}"

    @classmethod
    def parse(cls, words: Sequence[str]) -> "Linear":
        device, offset = words
        return cls(parse_devno(device), to_bytes(int(offset)))


@dataclass(frozen=True, slots=True)
class Era:
    """dm-era: records in ``metadata`` which blocks of ``origin`` are written in which era."""

    type_name: ClassVar[str] = "era"
    metadata: int
    origin: int
    block_bytes: int

    def parameters(self) -> str:
        devices = f"{format_devno(self.metadata)} {format_devno(self.origin)}"
        return f"{devices} {to_sectors(self.block_bytes)}"

    @classmethod
    def parse(cls, words: Sequence[str]) -> "Era":
        metadata, origin, block = words
        return cls(parse_devno(metadata), parse_devno(origin), to_bytes(int(block)))


@dataclass(frozen=True, slots=True)
class SnapshotOrigin:
    """``device`` as seen by its snapshots: writes copy old chunks to them first."""

    type_name: ClassVar[str] = "snapshot-origin"
    device: int

    def parameters(self) -> str:
        return format_devno(self.device)

    @classmethod
    def parse(cls, words: Sequence[str]) -> "SnapshotOrigin":
        (device,) = words
        return cls(parse_devno(device))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """``origin`` overlaid with the exception store on ``cow``.

    ``overflow`` (``PO``): a full store fails writes to the snapshot with the status ``Overflow``
    and stays valid; without, it is invalid for good. Only persistent stores know it.
    """

    type_name: ClassVar[str] = "snapshot"
    origin: int
    cow: int
    chunk_bytes: int
    persistent: bool = True
    overflow: bool = True

    def parameters(self) -> str:
        mode = ("PO" if self.overflow else "P") if self.persistent else "N"
        devices = f"{format_devno(self.origin)} {format_devno(self.cow)}"
        return f"{devices} {mode} {to_sectors(self.chunk_bytes)}"

    @classmethod
    def parse(cls, words: Sequence[str]) -> "Snapshot":
        origin, cow, mode, chunk = words
        overflow = mode == "PO" or mode == "N"  # the field says nothing of a transient store
        chunk_bytes = to_bytes(int(chunk))
        return cls(parse_devno(origin), parse_devno(cow), chunk_bytes, mode != "N", overflow)


@dataclass(frozen=True, slots=True)
class SnapshotMerge:
    """As ``Snapshot``, and the store is merged back into ``origin`` in the background."""

    type_name: ClassVar[str] = "snapshot-merge"
    origin: int
    cow: int
    chunk_bytes: int
    overflow: bool = True

    def parameters(self) -> str:
        return Snapshot(self.origin, self.cow, self.chunk_bytes, True, self.overflow).parameters()

    @classmethod
    def parse(cls, words: Sequence[str]) -> "SnapshotMerge":
        same = Snapshot.parse(words)
        return cls(same.origin, same.cow, same.chunk_bytes, same.overflow)


@dataclass(frozen=True, slots=True)
class Zero:
    """Reads zeroes, forgets writes."""

    type_name: ClassVar[str] = "zero"

    def parameters(self) -> str:
        return ""

    @classmethod
    def parse(cls, words: Sequence[str]) -> "Zero":
        () = words
        return cls()


@dataclass(frozen=True, slots=True)
class Error:
    """Fails all I/O at once."""

    type_name: ClassVar[str] = "error"

    def parameters(self) -> str:
        return ""

    @classmethod
    def parse(cls, words: Sequence[str]) -> "Error":
        () = words
        return cls()


@dataclass(frozen=True, slots=True)
class Mirror:
    """Copies of the first leg on all others, with a log in memory only.

    ``in_sync``: the legs are equal already, nothing is copied (``nosync``). ``handle_errors``: a
    leg that fails is dropped, instead of the write failing.
    """

    type_name: ClassVar[str] = "mirror"
    legs: tuple[Linear, ...]
    region_bytes: int = MIB
    in_sync: bool = False
    handle_errors: bool = False

    def parameters(self) -> str:
        arguments = [str(to_sectors(self.region_bytes)), *(["nosync"] if self.in_sync else [])]
        legs = " ".join(leg.parameters() for leg in self.legs)
        features = " 1 handle_errors" if self.handle_errors else ""
        return f"core {len(arguments)} {' '.join(arguments)} {len(self.legs)} {legs}{features}"

    @classmethod
    def parse(cls, words: Sequence[str]) -> "Mirror":
        if words[0] != "core":
            raise ValueError(f"a mirror log {words[0]!r}")
        end = 2 + int(words[1])
        region, *sync = words[2:end]
        last = end + 1 + 2 * int(words[end])
        pairs = list(words[end + 1 : last])
        legs = tuple(Linear.parse(pairs[at : at + 2]) for at in range(0, len(pairs), 2))
        return cls(legs, to_bytes(int(region)), sync == ["nosync"], "handle_errors" in words[last:])


@dataclass(frozen=True, slots=True)
class ThinPool:
    """Blocks of ``data`` for thin devices; what they map is in ``metadata``. Never loaded by us."""

    type_name: ClassVar[str] = "thin-pool"
    metadata: int
    data: int
    block_bytes: int
    low_water_blocks: int
    features: tuple[str, ...] = ()

    def parameters(self) -> str:
        devices = f"{format_devno(self.metadata)} {format_devno(self.data)}"
        numbers = f"{to_sectors(self.block_bytes)} {self.low_water_blocks} {len(self.features)}"
        return " ".join((devices, numbers, *self.features))

    @classmethod
    def parse(cls, words: Sequence[str]) -> "ThinPool":
        metadata, data, block, low_water, count, *features = words
        if len(features) != int(count):
            raise ValueError(f"{count} features announced, {len(features)} given")
        devices = parse_devno(metadata), parse_devno(data)
        return cls(*devices, to_bytes(int(block)), int(low_water), tuple(features))


@dataclass(frozen=True, slots=True)
class Thin:
    """A thin device of ``pool``, over ``external`` where it maps nothing. Never loaded by us."""

    type_name: ClassVar[str] = "thin"
    pool: int
    dev_id: int
    external: int | None = None

    def parameters(self) -> str:
        below = "" if self.external is None else f" {format_devno(self.external)}"
        return f"{format_devno(self.pool)} {self.dev_id}{below}"

    @classmethod
    def parse(cls, words: Sequence[str]) -> "Thin":
        pool, dev_id, *external = words
        if len(external) > 1:
            raise ValueError(f"more than one external origin: {external}")
        return cls(parse_devno(pool), int(dev_id), parse_devno(external[0]) if external else None)


@dataclass(frozen=True, slots=True)
class Foreign:
    """A target that dmsnap never loads, or one with parameters it never writes, as text."""

    type_name: str
    text: str

    def parameters(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class TableLine:
    """``length_bytes`` of the device from ``start_bytes`` are ``target``."""

    start_bytes: int
    length_bytes: int
    target: Target

    def __str__(self) -> str:
        extent = f"{to_sectors(self.start_bytes)} {to_sectors(self.length_bytes)}"
        return f"{extent} {self.target.type_name} {self.target.parameters()}".rstrip()


Table = tuple[TableLine, ...]


@dataclass(frozen=True, slots=True)
class RawLine:
    """A line of a table or a status as the kernel wrote it, the extent in bytes."""

    start_bytes: int
    length_bytes: int
    type_name: str
    parameters: str


_PARSERS: dict[str, Callable[[Sequence[str]], Target]] = {
    "linear": Linear.parse,
    "era": Era.parse,
    "snapshot-origin": SnapshotOrigin.parse,
    "snapshot": Snapshot.parse,
    "snapshot-merge": SnapshotMerge.parse,
    "zero": Zero.parse,
    "error": Error.parse,
    "mirror": Mirror.parse,
    "thin": Thin.parse,
    "thin-pool": ThinPool.parse,
}


def single(length_bytes: int, target: Target) -> Table:
    """The table of a device that is one target."""
    return (TableLine(0, length_bytes, target),)


def past_era(table: Table) -> Table | None:
    """``table`` with what dm-era lies over in its place; None where there is no dm-era in it."""
    if not any(isinstance(line.target, Era) for line in table):
        return None
    return tuple(
        replace(line, target=Linear(line.target.origin, line.start_bytes))
        if isinstance(line.target, Era)
        else line
        for line in table
    )


def parse_target(type_name: str, parameters: str) -> Target:
    """The typed target, or ``Foreign`` for what dmsnap does not write."""
    parser = _PARSERS.get(type_name)
    try:
        return parser(parameters.split()) if parser else Foreign(type_name, parameters)
    except (ValueError, IndexError):
        return Foreign(type_name, parameters)


def parse_table(lines: Iterable[str]) -> Table:
    """Read lines ``start length type parameters``, in sectors; ``CorruptError`` quotes a bad one.

    ``table()`` of ``device`` gives live tables typed already; this reads what dmsetup(8) prints.
    """
    return tuple(_parse_line(line) for line in lines if line.strip())


def _parse_line(line: str) -> TableLine:
    words = line.split(maxsplit=3)
    try:
        start, length, type_name, *rest = words
        extent = to_bytes(int(start)), to_bytes(int(length))
    except ValueError as error:
        raise CorruptError(f"not a line of a dm table: {line!r}") from error
    return TableLine(*extent, parse_target(type_name, rest[0].strip() if rest else ""))


def format_table(table: Iterable[TableLine]) -> str:
    """The table as dmsetup(8) takes it, a line per target."""
    return "\n".join(str(line) for line in table)
