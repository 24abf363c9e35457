"""Era devices that are alive: whose metadata a device is, reading it through a snapshot."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from dmsnap._native.era import EraMetadata
from dmsnap.host.blockdev import open_shared
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.target import Era
from dmsnap.host.locks import volume_lock
from dmsnap.host.signals import interruptible
from dmsnap.host.sysfs import SYSFS
from dmsnap.service.inspection.metadata_snapshot import candidates, holding


@dataclass(frozen=True, slots=True)
class EraFront:
    """A live era device: its name, its metadata device, the bytes it has."""

    name: str
    ours: bool
    metadata: int
    size_bytes: int


@contextmanager
def metadata_of(front: EraFront) -> Iterator[tuple[EraMetadata, bool]]:
    """The metadata of ``front`` while a snapshot of it is held; True when it was taken here."""
    path = dm.path_by_devno(front.metadata)
    with (
        interruptible(),
        lock_of(front),
        metadata_snapshot(front.name) as taken,
        open_shared(path) as fd,
        EraMetadata.open(fd, str(path)) as metadata,
    ):
        yield metadata, taken


def find_front(devno: int) -> EraFront | None:
    """The era device that ``devno`` is, or that uses it as its metadata."""
    for name in candidates(devno, "an era device"):
        front = _era_front(name)
        if front is not None and (front.metadata == devno or name == SYSFS.dm_name(devno)):
            return front
    return None


def _era_front(name: str) -> EraFront | None:
    for line in dm.table(name):
        if isinstance(line.target, Era):
            state = dm.existing(name)
            return EraFront(name, state.ours, line.target.metadata, line.length_bytes)
    return None


def metadata_snapshot(name: str) -> AbstractContextManager[bool]:
    """A metadata snapshot of the era device ``name``: True when it was taken here."""
    return holding(
        name,
        lambda: dm.era_status(name).metadata_snap,
        lambda: dm.message(name, "take_metadata_snap"),
        lambda: dm.message(name, "drop_metadata_snap"),
    )


def lock_of(front: EraFront) -> AbstractContextManager[None]:
    """The volume's lock, so that no sync takes and drops metadata snapshots meanwhile.

    The configuration knows where locks lie; reading it costs more than reading metadata does, so
    it is not imported for devices that are not ours.
    """
    if not front.ours:
        return nullcontext()
    settings: Any = import_module("dmsnap.service.configuration.configuration").load()
    return volume_lock(settings.run_directory / "locks", front.name, settings.lock_wait_seconds)
