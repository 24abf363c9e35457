"""Earlier points, shown by the kernel: undo stores stacked over the replica.

::

    m steps back:  snapshot(… snapshot(replica, store 1) …, store m)

Nothing is moved: a store is the kernel's own persistent exception store, so each level is a
snapshot target over the level below it. Levels are read-only; what writes goes to an overlay.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from dmsnap._native import store_check
from dmsnap._native.copy import Progress
from dmsnap._native.label import HistoryEntry, Label
from dmsnap.catalogue.model import Volume
from dmsnap.errors import PointInvalidError
from dmsnap.host.blockdev import BlockDevice, open_shared
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.target import Linear, Snapshot, Table, single
from dmsnap.recovery import history, replica
from dmsnap.recovery.history import MAX_ENTRIES
from dmsnap.snapshot import cow_store, stack
from dmsnap.snapshot.stack import DmName
from dmsnap.units import GIB, to_bytes

TRIAL = "trial"
# So much of undo stores is read before a swap, which is to take seconds.
READ_BYTES = 2 * GIB


def browse_purpose(point_id: UUID) -> str:
    """The purpose of a chain that shows a point for browsing."""
    return f"browse-{point_id.hex[:12]}"


def export_purpose(mark: str) -> str:
    """The purpose of a chain that shows a point to LIO."""
    return f"export-{mark}"


@dataclass(frozen=True, slots=True)
class Level:
    """One step back: the device that shows the point, and the slice that holds its undo store."""

    shown: DmName
    store: DmName
    chunk_bytes: int


def levels(volume: Volume, label: Label, steps: int, purpose: str) -> list[Level]:
    """The levels down to ``steps`` steps back, newest first. ``purpose`` keeps two chains apart."""
    return [
        Level(
            stack.history_level(volume, position, purpose),
            stack.history_store(volume, position, purpose),
            to_bytes(label.history[position].chunk_size),
        )
        for position in range(steps)
    ]


def build(volume: Volume, label: Label, recovery: BlockDevice, chain: list[Level]) -> int:
    """Make the devices of ``chain``; returns the device number of the oldest level shown.

    With no levels that is the recovery volume itself. What was made is removed on any failure.
    Every store is looked at before the first is given to the kernel.
    """
    require_whole(recovery, label.history[: len(chain)])
    below = recovery.devno
    try:
        for level, entry in zip(chain, label.history, strict=False):
            store = store_table(entry, recovery)
            store_info = dm.create(level.store.name, level.store.uuid, store)
            shown = level_table(volume, below, store_info.devno, level.chunk_bytes)
            below = dm.create(level.shown.name, level.shown.uuid, shown, read_only=True).devno
    except BaseException:
        remove(chain)
        raise
    return below


@dataclass(frozen=True, slots=True)
class Found:
    """Where a point lies on a recovery volume, as its label says now."""

    label: Label
    recovery: BlockDevice
    steps_back: int


def find(volume: Volume, point_id: UUID) -> Found:
    """Look for a point on the recovery volume, which must be this host's, and check all of it.

    Raises :class:`PointInvalidError` when the label does not have it, ``ForeignDeviceError`` when
    another host claims the recovery volume, ``CorruptError`` for a damaged label or undo store.
    """
    found = _by_label(volume, point_id)
    require_written(found.recovery, found.label.history[: found.steps_back])
    return found


def _by_label(volume: Volume, point_id: UUID) -> Found:
    """As :func:`find`, with no undo store read."""
    path = replica.recovery_path(volume)
    label = replica.label_of(volume)
    replica.require_usable(path, label)
    steps_back = history.position_of(label, point_id)
    if steps_back is None or not replica.holds(label, point_id):
        raise PointInvalidError(
            f"point {point_id} of {volume.name} is not on {path}, which is "
            f"{label.state.name.lower()}",
            point=str(point_id),
        )
    return Found(label, BlockDevice.probe(path), steps_back)


def show(volume: Volume, point_id: UUID, purpose: str) -> int:
    """Make the devices that show a point of the recovery volume; the number of the one that does.

    Raises as :func:`find` does, with nothing made.
    """
    found = _by_label(volume, point_id)
    require_written(found.recovery, found.label.history[: found.steps_back])
    chain = levels(volume, found.label, found.steps_back, purpose)
    return build(volume, found.label, found.recovery, chain)


def require_whole(recovery: BlockDevice, entries: Sequence[HistoryEntry]) -> None:
    """Raise :class:`CorruptError` when an undo store's header or areas are not what they must be.

    The kernel reads the same when it is shown, and may write to it: see ``snapshot.cow_store``. Of
    what was written no word: a store that a commit merges has fewer pairs by now.
    """
    with open_shared(recovery.path) as fd:
        for entry in entries:
            offset, length = entry.store_offset_bytes, entry.store_length_bytes
            chunk_bytes = to_bytes(entry.chunk_size)
            cow_store.require_whole(
                fd, offset, length, chunk_bytes, replica.store_name(recovery.path, entry)
            )


def require_written(recovery: BlockDevice, entries: Sequence[HistoryEntry]) -> None:
    """As :func:`require_whole`, and the pairs must be those that were written."""
    with open_shared(recovery.path) as fd:
        for entry in entries:
            _require_written(fd, recovery, entry, data=False)


def require_recoverable(recovery: BlockDevice, entries: Sequence[HistoryEntry]) -> None:
    """As :func:`require_written`, of what is to become the volume: what stores keep is read, too.

    As long as that is a matter of seconds; of more, ``dmsnap verify --history`` reads it.
    """
    kept_bytes = sum(entry.store_length_bytes for entry in entries)
    with open_shared(recovery.path) as fd:
        for entry in entries:
            _require_written(fd, recovery, entry, data=kept_bytes <= READ_BYTES)


def holds_what_was_written(
    recovery: BlockDevice, entry: HistoryEntry, progress: Progress | None = None
) -> bool:
    """Read all of an undo store; False where it is of an earlier version, and has no seal.

    Raises :class:`CorruptError` when it is not what was written.
    """
    with open_shared(recovery.path) as fd:
        return _require_written(fd, recovery, entry, data=True, progress=progress)


def _require_written(
    fd: int,
    recovery: BlockDevice,
    entry: HistoryEntry,
    *,
    data: bool,
    progress: Progress | None = None,
) -> bool:
    offset, length = entry.store_offset_bytes, entry.store_length_bytes
    name = replica.store_name(recovery.path, entry)
    cow_store.require_whole(fd, offset, length, to_bytes(entry.chunk_size), name)
    return store_check.require_sealed(fd, offset, length, data=data, progress=progress, name=name)


def store_table(entry: HistoryEntry, recovery: BlockDevice) -> Table:
    """The slice of the recovery volume that holds an undo store."""
    return single(entry.store_length_bytes, Linear(recovery.devno, entry.store_offset_bytes))


def level_table(volume: Volume, below: int, store: int, chunk_bytes: int) -> Table:
    """A level: the undo store over what lies below."""
    return single(volume.size_bytes, Snapshot(below, store, chunk_bytes))


def remove(chain: list[Level]) -> None:
    """Remove the devices of ``chain``, the oldest point first."""
    for level in reversed(chain):
        for device in (level.shown, stack.store_again(level.shown), level.store):
            stack.remove(device)


def existing(volume: Volume, purpose: str) -> list[Level]:
    """The levels of a chain that exist now; enough to remove them, whatever the label says."""
    found = []
    for position in range(MAX_ENTRIES):
        shown = stack.history_level(volume, position, purpose)
        store = stack.history_store(volume, position, purpose)
        if dm.info(uuid=shown.uuid) is None and dm.info(uuid=store.uuid) is None:
            break
        found.append(Level(shown, store, 0))
    return found
