"""What the providers of LVM's snapshots have in common: taking, finding and removing them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar
from uuid import uuid4

from dmsnap.catalogue.clock import now_ns
from dmsnap.errors import NotFoundError, WrongStateError, WrongWordError
from dmsnap.host import lvm, lvm_snapshot
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.host.lvm_snapshot import LvState
from dmsnap.service import journal
from dmsnap.service.journal import Plan, Step
from dmsnap.service.session import Session
from dmsnap.service.snapshots import logical_snapshot
from dmsnap.service.snapshots.logical_snapshot import NAME_PREFIX, Taken
from dmsnap.service.snapshots.snapshot_provider import HeldOrigin, Snapshot


class LogicalProvider(ABC):
    """Origins are logical volumes, ``VG/LV``, and so are their snapshots."""

    name: ClassVar[str]

    def __init__(self, session: Session) -> None:
        self.session = session

    @abstractmethod
    def is_origin(self, volume: LvState) -> bool:
        """Whether snapshots of this kind are taken of the volume."""

    @abstractmethod
    def is_snapshot(self, volume: LvState) -> bool:
        """Whether it is one of this kind, whoever took it."""

    @abstractmethod
    def room_bytes(self, origin: LvState, percent: int) -> int:
        """What a snapshot's own store will have; ``NoSpaceError`` when there is no room for it."""

    @abstractmethod
    def create(self, origin: LvState, name: str, tags: Sequence[str], room_bytes: int) -> None:
        """Have LVM take one."""

    @abstractmethod
    def invalid_reason(self, volume: LvState) -> str | None:
        """Why a snapshot shows nothing of worth any more."""

    def serves(self, origin: str) -> bool:
        volume = logical_snapshot.named(origin) if "/" in origin else None
        return volume is not None and self.is_origin(volume)

    def snapshots(self) -> list[Snapshot]:
        volumes = lvm_snapshot.volumes()
        return [
            self._snapshot(found, volumes)
            for found in map(logical_snapshot.read, volumes)
            if found is not None and self.is_snapshot(found.volume)
        ]

    def find(self, name: str) -> Snapshot | None:
        volume = logical_snapshot.named(name) if "/" in name else None
        if volume is None or not self.is_snapshot(volume):
            return None
        return self._snapshot(logical_snapshot.require_ours(volume), lvm_snapshot.volumes())

    def take(self, origin: str, *, percent: int = 0, dry_run: bool = False) -> Snapshot | Plan:
        with self.session.locked([logical_snapshot.lock_name(self._origin(origin).uuid)]):
            volume = self._origin(origin)
            name = f"{NAME_PREFIX}{uuid4().hex[:8]}"
            plan = self._taking(volume, name, percent)
            if dry_run:
                return plan
            journal.run(self.session.catalogue, plan)
            found = self.find(f"{volume.vg}/{name}")
        if found is None:
            raise NotFoundError(f"the snapshot {volume.vg}/{name} is gone as soon as it was taken")
        return found

    def remove(self, snapshot: Snapshot, *, dry_run: bool = False) -> Plan | None:
        with self.held(snapshot) as origin:
            plan = self._removing(snapshot, origin.lock)
            if dry_run:
                return plan
            journal.run(self.session.catalogue, plan)
        return None

    @contextmanager
    def held(self, snapshot: Snapshot) -> Iterator[HeldOrigin]:
        lock = logical_snapshot.lock_name(self.taken(snapshot).origin_uuid)
        with self.session.locked([lock]):
            origin = self.origin(self.taken(snapshot))
            device = None
            if origin is not None and origin.active:
                device = BlockDevice.probe(dm.node(origin.dm_name))
            yield HeldOrigin(lock, (), device)

    def taken(self, snapshot: Snapshot) -> Taken:
        """The snapshot as LVM knows it now."""
        words = logical_snapshot.split(snapshot.name)
        volume = lvm_snapshot.find(*words) if words else None
        if volume is None or not self.is_snapshot(volume):
            raise NotFoundError(f"there is no snapshot {snapshot.name}", name=snapshot.name)
        return logical_snapshot.require_ours(volume)

    def pair(self, since: Snapshot, until: Snapshot) -> tuple[Taken, Taken]:
        """Two snapshots of one origin, the older one first."""
        first, second = sorted(
            (self.taken(since), self.taken(until)), key=lambda taken: taken.sequence
        )
        if first.origin_uuid != second.origin_uuid:
            raise WrongStateError(f"{since.name} and {until.name} are snapshots of two origins")
        return first, second

    def between(self, since: Snapshot, until: Snapshot | None) -> tuple[Taken, LvState]:
        """The older of two snapshots and the volume of the younger; without one, the origin."""
        if until is None:
            older = self.taken(since)
            return older, self.living_origin(older)
        older, younger = self.pair(since, until)
        return older, younger.volume

    @staticmethod
    def origin(taken: Taken) -> LvState | None:
        """What a snapshot was taken of; None when that is gone."""
        return logical_snapshot.origin_of(taken, lvm_snapshot.volumes())

    def living_origin(self, taken: Taken) -> LvState:
        """What a snapshot was taken of, else :class:`NotFoundError`."""
        found = self.origin(taken)
        if found is None:
            raise NotFoundError(f"what {taken.volume.full_name} was taken of is gone")
        return found

    def _origin(self, text: str) -> LvState:
        volume = logical_snapshot.named(text)
        if volume is None:
            raise NotFoundError(f"there is no logical volume {text}", origin=text)
        if not self.is_origin(volume):
            raise WrongWordError(
                f"the provider {self.name} takes no snapshots of {volume.full_name}"
            )
        if not volume.active:
            raise WrongStateError(
                f"{volume.full_name} is not active",
                hint=f"lvchange --activate y {volume.full_name}",
            )
        return volume

    def _taking(self, origin: LvState, name: str, percent: int) -> Plan:
        """LVM, killed in the middle, would leave the origin suspended: signals wait."""
        logical_snapshot.require_apart(self.session, origin)
        room_bytes = self.room_bytes(origin, percent)
        sequence = logical_snapshot.next_sequence(origin.uuid)
        tags = logical_snapshot.tags(sequence, now_ns(), origin.uuid)

        def create() -> None:
            try:
                with logical_snapshot.whole_afterwards(origin):
                    self.create(origin, name, tags, room_bytes)
            except BaseException as error:
                with dm.noted(error, f"removing what is left of {name}"):
                    logical_snapshot.remove_unfinished(origin.vg, name)
                raise

        full_name = f"{origin.vg}/{name}"
        arguments = {
            "name": logical_snapshot.lock_name(origin.uuid),
            "provider": self.name,
            "origin": origin.full_name,
            "percent": percent,
            "snapshot": full_name,
        }
        what = f"have LVM take the snapshot {full_name} of {origin.full_name}"
        return Plan("snapshot create", (), [Step("create", what, create, final=True)], arguments)

    def _removing(self, snapshot: Snapshot, lock: str) -> Plan:
        found = self.taken(snapshot)

        def remove() -> None:
            with logical_snapshot.whole_afterwards(self.origin(found)):
                lvm.remove_lv(found.volume.vg, found.volume.name)

        step = Step(
            "remove",
            f"have LVM remove {snapshot.name}",
            remove,
            final=True,
            check=self._require_same(snapshot, found),
        )
        arguments = {"name": lock, "snapshot": snapshot.name}
        return Plan("snapshot delete", (), [step], arguments)

    def _require_same(self, snapshot: Snapshot, found: Taken) -> Callable[[], None]:
        def check() -> None:
            if self.taken(snapshot).volume.uuid != found.volume.uuid:
                raise NotFoundError(f"{snapshot.name} is another one than was looked at")

        return check

    def _snapshot(self, taken: Taken, volumes: Sequence[LvState]) -> Snapshot:
        origin = logical_snapshot.origin_of(taken, volumes)
        return Snapshot(
            provider=self.name,
            name=taken.volume.full_name,
            origin=origin.full_name if origin else taken.origin_uuid,
            size_bytes=taken.volume.size_bytes,
            created_ns=taken.created_ns,
            invalid_reason=self.invalid_reason(taken.volume),
        )
