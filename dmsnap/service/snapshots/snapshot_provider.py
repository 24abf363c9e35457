"""What a snapshot provider is: who takes snapshots, shows them, and knows what changed since.

Providers are found by the entry points of the group ``dmsnap.snapshot_providers``: each names a
class that is made with a Session. tests/lab/scenarios/test_providers.py is what each has to pass.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import UUID

from dmsnap._native.extent_set import ExtentSet
from dmsnap.host.blockdev import BlockDevice
from dmsnap.service.journal import Plan


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A moment of ``origin``. ``name`` is what its provider finds it by, whatever else happens.

    One with an ``invalid_reason`` shows nothing that could be relied on.
    """

    provider: str
    name: str
    origin: str
    size_bytes: int
    created_ns: int
    invalid_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """What a snapshot's store, or the pool it lies in, has taken of what it can take, in bytes."""

    used_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class HeldOrigin:
    """An origin whose lock is held: ``lock`` names it, ``volume_ids`` are for the journal.

    ``device`` is None when the origin is gone, or not active.
    """

    lock: str
    volume_ids: Sequence[UUID]
    device: BlockDevice | None


class Provider(Protocol):
    """Takes snapshots of one kind of origins. Needs root.

    ``held`` comes before ``shown``, ``changed`` and ``room``; ``take`` and ``remove`` hold by
    themselves. A snapshot that its store could not follow raises ``PointInvalidError`` wherever it
    would be relied on, and one for which there is no room is not taken: ``NoSpaceError``.
    """

    @property
    def name(self) -> str:
        """What the entry point is called."""

    def serves(self, origin: str) -> bool:
        """Whether ``origin`` is one of those that snapshots can be taken of."""

    def snapshots(self) -> list[Snapshot]:
        """All that this provider has taken and that are there still."""

    def find(self, name: str) -> Snapshot | None:
        """The snapshot called ``name``; None where that is no name of this provider's.

        Raises ``NotFoundError`` when there is none, ``ForeignDeviceError`` for one that others
        have taken.
        """

    def take(self, origin: str, *, percent: int = 0, dry_run: bool = False) -> Snapshot | Plan:
        """A snapshot of ``origin`` as it is at one moment between call and return.

        ``percent`` of the origin may be written to while it is kept, where its store has a size of
        its own; 0: what the configuration says.
        """

    def remove(self, snapshot: Snapshot, *, dry_run: bool = False) -> Plan | None:
        """Remove a snapshot and all that was made for it, and nothing else."""

    def held(self, snapshot: Snapshot) -> AbstractContextManager[HeldOrigin]:
        """Nobody takes or removes a snapshot of the same origin meanwhile."""

    def shown(self, snapshot: Snapshot) -> AbstractContextManager[Path]:
        """A block device to read the snapshot from.

        Raises ``PointInvalidError``, at the end, too, when what was read is worth nothing.
        """

    def changed(self, since: Snapshot, until: Snapshot | None = None) -> ExtentSet:
        """Every byte in which two snapshots of an origin may differ, in whichever order they are.

        Without ``until``, in which the origin may differ from the snapshot: what was written to it
        before the call. Bytes that do not differ may be among them.
        """

    def room(self, snapshot: Snapshot) -> Room:
        """How full that is which the snapshot depends on."""
