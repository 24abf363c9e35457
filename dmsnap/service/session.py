"""What every use case stands on: the configuration, the catalogue, the lock, root."""

import logging
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self
from uuid import UUID

from dmsnap.catalogue.model import Area, AreaRole, Point, Volume
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import (
    DmsnapError,
    NotFoundError,
    NotPermittedError,
    OperatingSystemError,
)
from dmsnap.host import placeholder, private_directory
from dmsnap.host.locks import Holder, has_lock, holder_of, is_held_by, read_holder, volume_lock
from dmsnap.host.signals import interruptible
from dmsnap.host.signature import Signature
from dmsnap.recovery import history, replica
from dmsnap.service.configuration import configuration
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.records import backup
from dmsnap.snapshot import live, stack
from dmsnap.snapshot.space import open_space, plan_area
from dmsnap.tracking.choice import new_tracking_id

log = logging.getLogger(__name__)


def _no_room_for(_point: Point) -> str:
    return "the history had no room for it"


@dataclass(frozen=True, slots=True)
class Session:
    """An open catalogue and the configuration. A context manager; made by :meth:`open`."""

    configuration: Configuration
    catalogue: Catalogue

    @classmethod
    def open(cls) -> Self:
        """Open the catalogue. Needs root, like everything that stands on it."""
        if os.geteuid() != 0:
            raise NotPermittedError("dmsnap changes devices: it must be run as root")
        settings = configuration.load()
        if settings.store is None:
            # The store that is used unless another is named exists from the first command on.
            make_directory(Path(settings.default_store))
        return cls(settings, Catalogue.open(settings.catalogue_place))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.catalogue.__exit__(*exception)

    @property
    def _locks(self) -> Path:
        """The directory of the volumes' locks."""
        return self.configuration.run_directory / "locks"

    @contextmanager
    def locked(self, names: Sequence[str], *, at_boot: bool = False) -> Iterator[None]:
        """Hold the locks of volumes, taken in one order by everybody.

        SIGINT and SIGTERM raise from here on: what waits for a lock in our place must end with us.
        Before they are let go, what was recorded of the volumes meanwhile is backed up, and no
        placeholder is left where a volume was not mounted again. With ``at_boot`` the backup is put
        off: the mounts of the boot wait, and it may be that the recovery volume hangs.
        """
        with interruptible(), ExitStack() as stack:
            for name in sorted(set(names)):
                stack.enter_context(
                    volume_lock(self._locks, name, self.configuration.lock_wait_seconds)
                )
            if at_boot:
                run_directory = self.configuration.run_directory
                stack.enter_context(backup.put_off(self.catalogue, names, run_directory))
            else:
                stack.enter_context(backup.kept(self.catalogue, names))
            stack.callback(placeholder.remove, names)
            yield

    def running(self, name: str) -> str | None:
        """The command that works on a volume now; None: there is none."""
        return holder_of(self._locks, name)

    def is_held_by(self, name: str, pid: int) -> bool:
        """Whether that process works on a volume now."""
        return is_held_by(self._locks, name, pid)

    def holder(self, name: str) -> Holder | None:
        """Who holds a volume now, where the kernel says the same: one that may be ended for it."""
        found = read_holder(self._locks / f"{name}.lock")
        return found if found and has_lock(self._locks, name, found.pid) else None

    # the volume's store

    def create_area(self, volume: Volume, area: Area) -> None:
        """Make a piece of the volume's store; recorded first, so that none is ever lost."""
        self.catalogue.add_area(area)
        open_space(volume.store).create(area.path, area.size_bytes)

    def release_area(self, volume: Volume, area: Area) -> None:
        """Give a piece back, whether it was made or only recorded."""
        open_space(volume.store).release(area.path)
        self.catalogue.remove_area(area.id)

    def require_store(self, volume: Volume) -> None:
        """Raise :class:`NotFoundError` where a volume's store is away: what is not seen of it then
        is not gone. A directory may be there, whose file system is not mounted.
        """
        open_space(volume.store).require()
        if not any(Path(area.path).exists() for area in self.catalogue.areas(volume.id)):
            raise NotFoundError(f"nothing of {volume.name} is in the store {volume.store} now")

    def extend_area(self, volume: Volume, area: Area, size_bytes: int) -> None:
        """Give a piece of the volume's store more room, while it is used."""
        open_space(volume.store).grow(area.path, size_bytes)
        self.catalogue.update_area(replace(area, size_bytes=size_bytes))

    def area(self, volume: Volume, area_id: UUID) -> Area | None:
        """A recorded piece of the volume's store."""
        areas = self.catalogue.areas(volume.id)
        return next((area for area in areas if area.id == area_id), None)

    def plan_cow(
        self,
        volume: Volume,
        role: AreaRole = AreaRole.COW,
        percent: int = 0,
        point_id: UUID | None = None,
    ) -> Area:
        """A COW store for ``percent`` of the volume, by default what the configuration says."""
        size_bytes = live.cow_bytes(volume, percent or self.configuration.cow_percent)
        if self.configuration.cow_limit_bytes is not None:
            size_bytes = min(size_bytes, self.configuration.cow_limit_bytes)
        return plan_area(volume, role, size_bytes, point_id=point_id)

    def require_stack(self, volume: Volume) -> None:
        """Raise :class:`StackChangedError` unless the volume's devices are as they should be."""
        areas, points = self.catalogue.areas(volume.id), self.catalogue.points(volume.id)
        stack.check(volume, areas, points)

    def live_points(self, volume: Volume) -> list[Point]:
        """The points that have a COW store on the primary, whatever has become of it."""
        return [point for point in self.catalogue.points(volume.id) if point.area_id is not None]

    def remove_live_point(self, volume: Volume, point: Point) -> None:
        """Remove a point's snapshot device and give its COW store back."""
        live.remove(volume, point.id)
        area = self.area(volume, point.area_id) if point.area_id else None
        if area is not None:
            self.release_area(volume, area)

    def undivide_writes(self, volume: Volume, but: Collection[Point] = ()) -> None:
        """After the last live point went, ``but`` those that are recorded still: writes stay whole.

        By what removes points of a volume that serves on; not on the way to other tables.
        """
        ids = {point.id for point in but}
        if all(point.id in ids for point in self.live_points(volume)):
            live.undivide(volume, self.configuration.window_deadline_ms)

    def drop_live_point(self, volume: Volume, point: Point, reason: str) -> None:
        """Remove a live point for good; the record says why it is no more."""
        self.remove_live_point(volume, point)
        self.catalogue.delete_point(point.id, reason)

    def settle_on_replica(self, volume: Volume, point: Point) -> None:
        """The replica holds a point now: its live snapshot goes, the record stays.

        What became of the snapshot since then is nothing to the replica.
        """
        self.remove_live_point(volume, point)
        self.note_replica(volume)
        settled = replace(point, temporary=False, area_id=None, invalid_reason=None)
        self.catalogue.update_point(settled)

    def note_content(self, volume: Volume, content: Signature | None) -> None:
        """Record the file system that a volume holds; nothing that is known changes nothing."""
        if content is None or content.fs_type is None:
            return
        recorded = self.catalogue.volume_by_id(volume.id)
        now = replace(recorded, fs_type=content.fs_type, fs_uuid=content.uuid or "")
        if now != recorded:
            self.catalogue.update_volume(now)

    def note_replica(self, volume: Volume) -> None:
        """Record which points the recovery volume holds, as its label says.

        Where that cannot be read, what is recorded stays: the label is the truth, this repeats it.
        """
        try:
            current = replica.label_of(volume)
        except DmsnapError as error:
            log.debug("what %s holds is not recorded: %s", volume.recovery, error)
        else:
            self.catalogue.record_replica(volume, history.held(current))

    def forget_dropped(
        self,
        volume: Volume,
        reason_of: Callable[[Point], str] = _no_room_for,
        among: Collection[UUID] | None = None,
    ) -> None:
        """Mark points as deleted that live nowhere: lost ones, or dropped to make room.

        ``among``: no others than these are looked at.
        """
        current = replica.label_of(volume)
        for point in self.catalogue.points(volume.id):
            if among is not None and point.id not in among:
                continue
            if point.area_id is None and history.position_of(current, point.id) is None:
                reason = point.invalid_reason or reason_of(point)
                self.catalogue.delete_point(point.id, reason)

    def make_durable(self, volume: Volume) -> None:
        """Have the volume's device keep what a replica is about to be called a copy of.

        A device that cannot may lose it, and nothing marks that: the next sync compares.
        """
        try:
            live.make_durable(volume)
        except OperatingSystemError as error:
            log.warning("%s: the next sync of %s compares in full", error, volume.name)
            self.distrust(volume)

    def distrust(self, volume: Volume) -> None:
        """Make the next sync compare in full: tracking before now cannot be trusted."""
        recorded = self.catalogue.volume_by_id(volume.id)
        tracking_id = new_tracking_id()
        self.catalogue.update_volume(replace(recorded, tracking_id=tracking_id))


def make_directory(path: Path) -> None:
    """Make a directory for root alone; nothing happens when it exists."""
    try:
        private_directory.make(path)
    except OSError as error:
        raise OperatingSystemError(
            f"the directory {path} cannot be made: {error.strerror}", errnum=error.errno
        ) from error
