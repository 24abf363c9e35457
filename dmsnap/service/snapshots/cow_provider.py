"""The provider ``cow``: live points, dm-snapshot's snapshots under a front of ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dmsnap._native.exception_store import ExceptionStore
from dmsnap._native.extent_set import ExtentSet
from dmsnap.catalogue.model import Point, Volume
from dmsnap.errors import NotFoundError, WrongStateError
from dmsnap.host.blockdev import BlockDevice, open_shared
from dmsnap.host.dm import device as dm
from dmsnap.service.journal import Plan
from dmsnap.service.luns.luns import Wanted
from dmsnap.service.points import deletion
from dmsnap.service.points import point as points
from dmsnap.service.reaper import held
from dmsnap.service.session import Session
from dmsnap.service.snapshots.snapshot_provider import HeldOrigin, Room, Snapshot
from dmsnap.snapshot import live, stack
from dmsnap.units import to_bytes


class CowProvider:
    """Origins are protected volumes, by name; snapshots are points that are live, by id."""

    name = "cow"

    def __init__(self, session: Session) -> None:
        self.session = session

    def serves(self, origin: str) -> bool:
        return self.session.catalogue.find_volume(origin) is not None

    def snapshots(self) -> list[Snapshot]:
        return [
            self._snapshot(volume, live.with_validity(volume, point))
            for volume in self.session.catalogue.volumes()
            for point in self.session.catalogue.points(volume.id)
            if point.area_id is not None and not point.temporary
        ]

    def find(self, name: str) -> Snapshot | None:
        if "/" in name:
            return None
        view = points.find(self.session, name)
        volume = self.session.catalogue.volume(view.volume)
        for point in self.session.catalogue.points(volume.id):
            if point.id == view.id and point.area_id is not None:
                return self._snapshot(volume, live.with_validity(volume, point))
        raise WrongStateError(
            f"point {view.id} of {volume.name} is not live any more: it is on the recovery volume",
            hint=f"dmsnap point mount {view.id} shows it",
        )

    def take(self, origin: str, *, percent: int = 0, dry_run: bool = False) -> Snapshot | Plan:
        taken = points.create(
            self.session, [origin], keep=False, dry_run=dry_run, cow_percent=percent
        )
        if isinstance(taken, Plan):
            return taken
        volume = self.session.catalogue.volume(origin)
        return self._snapshot(volume, self._point(volume, str(taken[0].id)))

    def remove(self, snapshot: Snapshot, *, dry_run: bool = False) -> Plan | None:
        return deletion.delete(self.session, snapshot.name, dry_run=dry_run)

    @contextmanager
    def held(self, snapshot: Snapshot) -> Iterator[HeldOrigin]:
        with held(self.session, snapshot.origin, Wanted.SERVING) as volume:
            self._point(volume, snapshot.name)
            yield HeldOrigin(volume.name, (volume.id,), stack.backing(volume))

    @contextmanager
    def shown(self, snapshot: Snapshot) -> Iterator[Path]:
        volume = self.session.catalogue.volume(snapshot.origin)
        point = self._point(volume, snapshot.name)
        live.require_valid(volume, point)
        yield dm.node(stack.live_point(volume, point.id).name)
        live.require_valid(volume, point)

    def changed(self, since: Snapshot, until: Snapshot | None = None) -> ExtentSet:
        """What the older of two has kept: whatever was written after it was taken, the younger one
        included, went there first. Where it cannot be told which that is, what both have kept.
        """
        volume = self.session.catalogue.volume(since.origin)
        first = self._point(volume, since.name)
        if until is None:
            return self._kept(volume, first)
        if until.origin != since.origin:
            raise WrongStateError(f"{until.name} is no point of {since.origin}")
        older = older_of(first, self._point(volume, until.name))
        extents = self._kept(volume, older[0])
        for point in older[1:]:
            extents.merge(self._kept(volume, point))
        return extents

    def room(self, snapshot: Snapshot) -> Room:
        volume = self.session.catalogue.volume(snapshot.origin)
        point = self._point(volume, snapshot.name)
        live.require_valid(volume, point)
        status = live.usage(volume, point)
        return Room(to_bytes(status.used_sectors), to_bytes(status.total_sectors))

    def _kept(self, volume: Volume, point: Point) -> ExtentSet:
        """What a point's store holds. The kernel writes an exception down before the write that
        made it goes on, so that none of those that have ended is missing.
        """
        area = self.session.area(volume, point.area_id) if point.area_id else None
        if area is None:
            raise NotFoundError(f"point {point.id} of {volume.name} has no COW store any more")
        live.require_valid(volume, point)
        extents = kept(stack.attach_area(volume, area))
        live.require_valid(volume, point)
        extents.clamp(volume.size_bytes)
        return extents

    def _point(self, volume: Volume, name: str) -> Point:
        for point in self.session.catalogue.points(volume.id):
            if str(point.id) == name and point.area_id is not None:
                return point
        raise NotFoundError(f"{volume.name} has no live point {name}", point=name)

    def _snapshot(self, volume: Volume, point: Point) -> Snapshot:
        return Snapshot(
            provider=self.name,
            name=str(point.id),
            origin=volume.name,
            size_bytes=volume.size_bytes,
            created_ns=point.created_ns,
            invalid_reason=point.invalid_reason,
        )


def older_of(first: Point, second: Point) -> tuple[Point, ...]:
    """The older of two points; both, where eras do not tell. A clock may have been set back."""
    comparable = first.tracking_id == second.tracking_id
    if not comparable or first.era_since is None or second.era_since is None:
        return (first, second)
    if first.era_since == second.era_since:
        return (first, second)
    return (first,) if first.era_since < second.era_since else (second,)


def kept(store: BlockDevice) -> ExtentSet:
    """The extents of its origin that an exception store in use holds, in whole chunks."""
    name = str(store.path)
    with (
        open_shared(store.path) as fd,
        ExceptionStore.open(fd, 0, store.size_bytes, name) as opened,
    ):
        return opened.extents()
