"""The backup of the catalogue: what no label and no stack could say again of a volume.

It lies on the volume's recovery volume, and is written when what a command recorded is recorded,
while the command still holds the volume: never within a window, and only where it says something
new. A promoted volume has none: what is written to its device past its front counts as foreign.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dmsnap._native import label as labels
from dmsnap._native.label import Label
from dmsnap.catalogue import excerpt as excerpts
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.excerpt import Excerpt
from dmsnap.catalogue.model import Volume, VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import DmsnapError, InterruptedBySignal, NoSpaceError
from dmsnap.host import private_directory, signals
from dmsnap.host.blockdev import BlockDevice, open_shared
from dmsnap.recovery import answering, backup_area, history, replica
from dmsnap.recovery.backup_area import Backup

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recalled:
    """What a recovery volume says of its volume's past; ``reason``: why it says nothing."""

    excerpt: Excerpt | None = None
    written_ns: int | None = None
    reason: str | None = None


NOTHING = Recalled()


@contextmanager
def kept(catalogue: Catalogue, names: Sequence[str]) -> Iterator[None]:
    """Back up, at the block's end, the volumes named of which something may have been recorded.

    However the block ends: what was recorded of a failure is worth as much. What the block did is
    done, and a signal takes nothing away from it.
    """
    before = catalogue.changes
    try:
        yield
    finally:
        if catalogue.changes != before:
            for name in sorted(set(names)):
                try:
                    keep(catalogue, name)
                except InterruptedBySignal as signalled:
                    log.warning("interrupted: the catalogue of %s is not backed up", name)
                    signals.conclude(signalled.signal_number)


@contextmanager
def put_off(catalogue: Catalogue, names: Sequence[str], run_directory: Path) -> Iterator[None]:
    """Note, at the block's end, which of the volumes named are to be backed up later, and were not:
    see ``catalogue_backup.catch_up``.
    """
    before = catalogue.changes
    try:
        yield
    finally:
        if catalogue.changes != before:
            for name in names:
                _note(run_directory, name)


def _note(run_directory: Path, name: str) -> None:
    try:
        private_directory.make(_owed(run_directory))
        (_owed(run_directory) / name).touch()
    except OSError as error:
        log.warning("the catalogue of %s is not backed up before it changes again: %s", name, error)


def owed(run_directory: Path) -> list[str]:
    """The volumes whose backup was put off."""
    directory = _owed(run_directory)
    return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []


def settle(run_directory: Path, name: str) -> None:
    """It was tried: what failed of it is made up for by the next command that records something."""
    with suppress(OSError):
        (_owed(run_directory) / name).unlink(missing_ok=True)


def _owed(run_directory: Path) -> Path:
    return run_directory / "backups-owed"


def keep(catalogue: Catalogue, name: str) -> None:
    """Back up one volume. Nothing happens where there can be no backup; a failure is told, and so
    is a disk that does not answer.
    """
    try:
        volume = catalogue.find_volume(name)
        if volume is not None and has_backup(volume):
            # Whatever the command was about is done: it is not to be held by that disk.
            answering.require(volume)
            write(catalogue, volume)
    except (DmsnapError, OSError) as error:
        log.warning("the catalogue of %s is not backed up: %s", name, error)


def has_backup(volume: Volume) -> bool:
    """Whether there is a recovery volume, and a label on it."""
    return volume.recovery is not None and volume.state is not VolumeState.BUILDING


def write(catalogue: Catalogue, volume: Volume) -> Backup | None:
    """Back up what is recorded of a volume, its lock held; None: there is no room for it.

    Makes room where there was none yet: the history gets that much shorter.
    """
    content = fitting(catalogue, volume)
    with replica.opened_for_label(volume) as current:
        size_bytes, name = current.device.size_bytes, str(current.device.path)
        with_room = history.with_backup(current.label, labels.offset(size_bytes))
        if with_room is None:
            log.debug("%s has no room for a backup of the catalogue", name)
            return None
        if with_room is not current.label:
            current.write_label(with_room)
        return backup_area.write(
            current.fd, current.label, size_bytes, content, time_ns=now_ns(), name=name
        )


def measured(catalogue: Catalogue, volume: Volume) -> int | None:
    """How many bytes would be written for a volume; None: there is no room for them."""
    packed_bytes = len(backup_area.packed(fitting(catalogue, volume)))
    device = BlockDevice.probe(replica.recovery_path(volume))
    current = replica.label_of(volume)
    replica.require_usable(device.path, current)
    with_room = history.with_backup(current, labels.offset(device.size_bytes))
    return packed_bytes if with_room is not None else None


def fitting(catalogue: Catalogue, volume: Volume) -> bytes:
    """What is backed up of a volume: as much of its past as a slot has room for."""
    deleted, jobs = excerpts.MAX_DELETED, excerpts.MAX_JOBS
    while True:
        taken = excerpts.take(catalogue, volume.id, deleted=deleted, jobs=jobs)
        content = excerpts.encode(taken)
        try:
            backup_area.packed(content)
        except NoSpaceError:
            if not deleted and not jobs:
                raise
            deleted, jobs = deleted // 2, jobs // 2
        else:
            return content


def read(device: BlockDevice, label: Label) -> Recalled:
    """What is backed up beside a label; fails on nothing."""
    name = str(device.path)
    try:
        with open_shared(device.path) as fd:
            found = backup_area.read(fd, label, device.size_bytes, name)
        if found is None:
            return NOTHING
        # It takes SQLAlchemy's tables, and most commands read none.
        from dmsnap.catalogue import excerpt_reader

        taken = excerpt_reader.decode(found.content, label.volume_uuid, name)
    except DmsnapError as error:
        return Recalled(reason=str(error))
    return Recalled(taken, found.time_ns)
