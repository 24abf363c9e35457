"""What a swap shows: a point of the recovery volume, or one that is live on the primary."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import UUID

from dmsnap._native.label import Label, LabelState
from dmsnap.catalogue.clock import format_time
from dmsnap.catalogue.model import Area, Point, Volume
from dmsnap.errors import NotFoundError, PointInvalidError
from dmsnap.host import blockdev
from dmsnap.host.blockdev import BlockDevice
from dmsnap.recovery import chain, history, replica
from dmsnap.recovery.chain import Level
from dmsnap.service.session import Session
from dmsnap.service.swaps import primary, trial
from dmsnap.snapshot import live, stack


class Source(Protocol):
    """A point that can be shown. ``device`` is where it lies, ``levels`` what shows it."""

    @property
    def point(self) -> UUID: ...

    @property
    def device(self) -> Path: ...

    @property
    def levels(self) -> list[Level]: ...

    @property
    def is_live(self) -> bool: ...

    @property
    def is_torn(self) -> bool:
        """Whether :func:`repair` must come before it is shown."""

    def show(self) -> int:
        """The number of the device that shows it, made where it is not there."""


@dataclass(frozen=True, slots=True)
class OnRecovery:
    """The replica, or a point of its history; ``label`` is what it says once it is repaired."""

    volume: Volume
    label: Label
    recovery: BlockDevice
    point: UUID
    levels: list[Level]
    is_torn: bool = False
    is_live: bool = False

    @property
    def device(self) -> Path:
        return self.recovery.path

    def show(self) -> int:
        return chain.build(self.volume, self.label, self.recovery, self.levels)


@dataclass(frozen=True, slots=True)
class OnPrimary:
    """A live COW snapshot: its device is there."""

    volume: Volume
    point: UUID
    levels: list[Level]
    store: Area
    is_live: bool = True
    is_torn: bool = False

    @property
    def device(self) -> Path:
        return Path(self.volume.backing)

    def show(self) -> int:
        """Its store's header is to be there after a power cut, as that of the overlay."""
        blockdev.flush_cache(stack.attach_area(self.volume, self.store).path)
        return stack.require(stack.live_point(self.volume, self.point)).devno


def choose(session: Session, volume: Volume, wanted: UUID | None, *, force: bool) -> Source:
    """The point to show, the recovery volume's newest when none is wanted.

    Every check is made, and nothing is changed: an interrupted sync is still to be rolled back.
    """
    point = session.catalogue.find_point(wanted) if wanted else None
    if point is not None and point.area_id is not None:
        return _on_primary(session, volume, point)
    path = replica.recovery_path(volume)
    found = replica.label_of(volume)
    replica.require_usable(path, found)
    label = replica.settled(path, found)
    chosen, steps_back = choose_point(volume, label, wanted)
    require_not_wrong(session, volume, chosen, force=force)
    recovery = BlockDevice.probe(path)
    is_torn = label is not found
    chain.require_recoverable(recovery, found.history[: steps_back + is_torn])
    levels = chain.levels(volume, label, steps_back, chain.TRIAL)
    return OnRecovery(volume, label, recovery, chosen, levels, is_torn)


def _on_primary(session: Session, volume: Volume, point: Point) -> Source:
    live.require_valid(volume, point)
    primary.require_answer(
        volume,
        session.configuration.primary_wait_seconds,
        hint=f"dmsnap swap {volume.name} without --to shows the recovery volume",
    )
    store = trial.point_area(session.catalogue.areas(volume.id), point.id)
    return OnPrimary(volume, point.id, [], store)


def repair(volume: Volume) -> None:
    """Roll an interrupted sync back: the recovery volume must hold a point to be swapped in."""
    with replica.opened(volume) as current:
        current.settle()
        current.require_consistent()


def choose_point(volume: Volume, label: Label, wanted: UUID | None) -> tuple[UUID, int]:
    """The point to show and how many steps back it is; the newest when none is wanted."""
    if label.state is not LabelState.CONSISTENT or label.point_uuid is None:
        raise PointInvalidError(
            f"the recovery volume of {volume.name} holds no point: it is {label.state.name.lower()}"
        )
    if wanted is None:
        return label.point_uuid, 0
    position = history.position_of(label, wanted)
    if position is None:
        raise NotFoundError(
            f"point {wanted} is not on the recovery volume of {volume.name}",
            hint=f"its newest is {label.point_uuid} of {format_time(label.point_time_ns)}",
        )
    return wanted, position


def require_not_wrong(session: Session, volume: Volume, point_id: UUID, *, force: bool) -> None:
    """Raise for a point that a verification found wrong, unless it is wanted all the same."""
    point = session.catalogue.find_point(point_id)
    if point is not None and point.invalid_reason is not None and not force:
        raise PointInvalidError(
            f"point {point_id} of {volume.name} is not what it should be: {point.invalid_reason}",
            hint="dmsnap sync puts the newest right; --force shows this one as it is",
            point=str(point_id),
        )
