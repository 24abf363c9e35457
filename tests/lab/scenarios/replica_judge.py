"""What a recovery volume holds, as docs/FORMATS.md has it: read by nothing that dmsnap has.

Labels and undo stores are read by the models of the unit tests, or by the kernel's own snapshots.
What a point must hold was read from the front when the point was taken.
"""

import hashlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from uuid import UUID, uuid4

import exception_store_model
import label_model
from conftest import run, sha256
from label_model import Entry, Model
from raw_volume import SECTOR

STATES = {1: "copying", 2: "consistent", 3: "applying", 4: "merging", 5: "primary"}


@dataclass(frozen=True)
class Found:
    """The state of a label, ``none`` where there is none, and the points that can be recovered."""

    state: str
    points: tuple[UUID, ...] = ()


@dataclass
class Judge:
    """Knows what each point holds, and holds against it whatever a disk offers as that point."""

    contents: dict[UUID, bytes] = field(default_factory=dict)
    _digests: dict[tuple[UUID, int], bytes] = field(default_factory=dict)
    _shown: bytearray = field(default_factory=bytearray)  # of all that are judged: see write_log

    def digest(self, point: UUID, size_bytes: int) -> bytes:
        """Of what a point holds; a volume that has grown since had zeroes there."""
        key = (point, size_bytes)
        if key not in self._digests:
            held = self.contents[point]
            assert len(held) <= size_bytes
            held += bytes(size_bytes - len(held))
            self._digests[key] = hashlib.sha256(held).digest()
        return self._digests[key]

    def judge(self, image: bytes | bytearray) -> Found:
        """What a disk holds; fails where it offers a point that is not what it was."""
        label = label_on(image)
        if label is None:
            return Found("none")
        state = STATES[label.state]
        if state in ("copying", "primary"):
            assert label.point_uuid == label_model.NONE
            assert label.history == []
            return Found(state)
        if state == "merging":
            return Found(state)
        if state == "applying":
            assert label.history[0].point_uuid == label.point_uuid
        return Found(state, tuple(self._offered(image, label, state)))

    def _offered(self, image: bytes | bytearray, label: Model, state: str) -> Iterator[UUID]:
        """The points that a label names, newest first, each of them right."""
        shown = self._shown_first(image, label.size_bytes)
        if state == "consistent":
            yield self._require(label.point_uuid, shown)
        for entry in label.history:
            go_back(image, shown, entry)
            yield self._require(entry.point_uuid, shown)

    def _shown_first(self, image: bytes | bytearray, size_bytes: int) -> bytearray:
        """What a disk begins with, in the memory of what was shown before."""
        if len(self._shown) != size_bytes:
            self._shown = bytearray(size_bytes)
        with memoryview(self._shown) as shown, memoryview(image) as whole:
            shown[:] = whole[:size_bytes]
        return self._shown

    def _require(self, point: UUID, shown: bytearray) -> UUID:
        assert hashlib.sha256(shown).digest() == self.digest(point, len(shown)), point
        return point

    def require_by_kernel(self, device: str, points: Collection[UUID]) -> None:
        """Have the kernel show what is on a device, and find these points there, and no other."""
        label = label_on(Path(device).read_bytes())
        assert label is not None
        found = [] if STATES[label.state] == "applying" else [(label.point_uuid, Path(device))]
        with chain(device, label) as levels:
            for entry, level in zip(label.history, levels, strict=True):
                found.append((entry.point_uuid, level))
            assert [point for point, _ in found] == list(points)
            for point, level in found:
                shown = bytes.fromhex(sha256(level, label.size_bytes))
                assert shown == self.digest(point, label.size_bytes), point


def label_on(image: bytes | bytearray) -> Model | None:
    """The label at the end of a device."""
    begin = label_model.area_offset(len(image))
    return _label(bytes(image[begin : begin + label_model.AREA]), len(image))


def state_of(image: bytes | bytearray) -> str:
    """What the label of a device says that it is; ``none`` where there is none."""
    label = label_on(image)
    return "none" if label is None else STATES[label.state]


@lru_cache(maxsize=4096)
def _label(area: bytes, device_bytes: int) -> Model | None:
    return label_model.newest(area, device_bytes)


def store_pairs(image: bytes | bytearray, entry: Entry) -> list[tuple[int, int]]:
    """The chunks of an undo store."""
    store = image[entry.store_offset : entry.store_offset + entry.store_length]
    pairs = exception_store_model.read(store)
    assert pairs is not None, f"no store at {entry.store_offset}"
    assert int.from_bytes(store[12:16], "little") == entry.chunk_size
    return pairs


def go_back(image: bytes | bytearray, shown: bytearray, entry: Entry) -> None:
    """Turn what is shown into the point that an undo store leads back to."""
    size_bytes, chunk_bytes = len(shown), entry.chunk_size * SECTOR
    for old, new in store_pairs(image, entry):
        begin = old * chunk_bytes
        length = min(chunk_bytes, size_bytes - begin)
        data = entry.store_offset + new * chunk_bytes
        shown[begin : begin + length] = image[data : data + length]
    assert len(shown) == size_bytes


@contextmanager
def chain(device: str, label: Model) -> Iterator[list[Path]]:
    """The kernel's view of a history: each undo store over the one before."""
    key, levels, tables = uuid4().hex[:6], list[Path](), list[str]()
    below = device
    for number, entry in enumerate(label.history):
        store, level = f"judge-{key}-store-{number}", f"judge-{key}-level-{number}"
        offset, length = entry.store_offset // SECTOR, entry.store_length // SECTOR
        tables.append(f"{store},,,ro,0 {length} linear {device} {offset}")
        tables.append(
            f"{level},,,ro,0 {label.size_bytes // SECTOR} snapshot {below} /dev/mapper/{store} P "
            f"{entry.chunk_size}"
        )
        below = f"/dev/mapper/{level}"
        levels.append(Path(below))
    names = [table.partition(",")[0] for table in tables]
    if tables:
        run("env", "DM_DISABLE_UDEV=1", "dmsetup", "create", "--concise", ";".join(tables))
    try:
        yield levels
    finally:
        if names:
            run("env", "DM_DISABLE_UDEV=1", "dmsetup", "remove", *reversed(names))
