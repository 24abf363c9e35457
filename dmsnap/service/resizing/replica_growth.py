"""A recovery volume that follows: its label, its history and its replica, in steps of a plan.

One that was promoted has label and history behind the volume, too, and no point in either: what
its label says of the size is what is left to do.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from uuid import UUID

from dmsnap._native import label
from dmsnap._native.label import LabelState
from dmsnap.catalogue.model import Volume, VolumeState
from dmsnap.errors import ForeignDeviceError, TooSmallError, WrongStateError
from dmsnap.recovery import growth, history
from dmsnap.recovery.growth import Located, Way
from dmsnap.recovery.replica import Replica
from dmsnap.service.journal import Step
from dmsnap.service.progress import Progress, of_total
from dmsnap.units import format_size

Acknowledge = Callable[[int], None]


class ReplicaGrowth:
    """The recovery volume's part: what is to be done of it, found out without a change.

    ``after`` is the volume as it is to be. ``acknowledge`` is given what was written to the device:
    where a front lies on it, that is nobody else's writing past the front.
    """

    def __init__(
        self, volume: Volume, after: Volume, acknowledge: Acknowledge | None = None
    ) -> None:
        self.volume = volume
        self.after = after
        self.acknowledge = acknowledge
        self.promoted = volume.state is VolumeState.PROMOTED
        with growth.opened(volume, write=False) as (current, located):
            self.device = current.device
            self.located = located
            self.found = located.label
        self._require_state()
        self.displaced = not growth.is_in_place(self.device, located)
        self.growing = self.found.size_bytes < after.size_bytes
        self.way = self._way(located) if self.growing else None

    def _require_state(self) -> None:
        states = (LabelState.CONSISTENT, LabelState.APPLYING)
        if self.found.state not in ((LabelState.PRIMARY,) if self.promoted else states):
            raise WrongStateError(
                f"the recovery volume {self.device.path} is {self.found.state.name.lower()}: it "
                f"cannot be resized"
            )
        if self.found.size_bytes not in (self.volume.size_bytes, self.after.size_bytes):
            raise ForeignDeviceError(
                f"the replica on {self.device.path} has {self.found.size_bytes} bytes, "
                f"{self.volume.name} has {self.volume.size_bytes}"
            )

    def _way(self, located: Located) -> Way:
        size_bytes = self.after.size_bytes
        needed_bytes = history.needed_device_bytes(size_bytes, label.AREA_BYTES)
        if self.device.size_bytes < needed_bytes:
            raise TooSmallError(
                str(self.device.path),
                self.device.size_bytes,
                needed_bytes,
                f"a replica of {format_size(size_bytes)}, its history and its label",
            )
        return growth.make_way(located.label, size_bytes, growth.future_end(self.device, located))

    def room_steps(self, progress: Progress | None) -> list[Step]:
        """Up to room for the larger replica; each is whole in itself, and can be done again."""
        device = self.device.path
        steps = []
        if self.displaced:
            moving = f"move the label of {device} to the end that it has now"
            steps.append(Step("move-label", moving, self._move_label))
        if self.found.state is LabelState.APPLYING:
            repairing = f"roll back what an earlier sync of {self.volume.name} left"
            steps.append(Step("repair", repairing, self._repair))
        if self.way is not None:
            room = f"{format_size(self.after.size_bytes)}{self._moving()}"
            making = f"have the history of {device} begin behind {room}"
            steps.append(
                Step("make-way", making, partial(self._make_way, progress), self._give_way_back)
            )
        if self.way is not None and not self.promoted:
            clearing = f"clear the new part of the replica on {device}"
            steps.append(Step("clear", clearing, partial(self._clear, progress)))
        return steps

    def size_steps(self) -> list[Step]:
        """The replica's new size, which its label says."""
        if self.way is None:
            return []
        what = "label of" if self.promoted else "replica on"
        return [
            Step(
                "grow-replica",
                f"give the {what} {self.device.path} {format_size(self.after.size_bytes)}",
                partial(self._size_replica, self.after),
                partial(self._size_replica, self.volume),
            )
        ]

    def _moving(self) -> str:
        assert self.way is not None  # noqa: S101 - asked for by the step that has one
        moved, dropped = len(self.way.moves), len(self.way.dropped)
        words = [f"{moved} undo stores move there"] if moved else []
        words += [f"the {dropped} oldest points go"] if dropped else []
        return f": {', '.join(words)}" if words else ""

    def _move_label(self) -> None:
        with self._opened(self.volume) as (current, located):
            if not growth.is_in_place(current.device, located):
                growth.move_label(current, located)

    def _repair(self) -> None:
        with self._opened(self.volume) as (current, _):
            current.settle()

    def _make_way(self, progress: Progress | None) -> None:
        assert self.way is not None  # noqa: S101
        with self._opened(self.volume) as (current, located):
            end_bytes = growth.future_end(current.device, located)
            way = growth.make_way(current.label, self.after.size_bytes, end_bytes)
            agreed = {entry.point_uuid for entry in self.way.dropped}
            require_agreed(self.volume, {entry.point_uuid for entry in way.dropped} - agreed)
            total = sum(place.length_bytes for place in way.moves.values())
            growth.clear_way(current, way, of_total(progress, total))

    def _give_way_back(self) -> None:
        with self._opened(self.volume) as (current, _):
            region = history.region(self.volume.size_bytes, growth.history_end(current.label))
            growth.begin_history(current, region.offset_bytes)

    def _clear(self, progress: Progress | None) -> None:
        added = self.after.size_bytes - self.found.size_bytes
        with self._opened(self.volume) as (current, _):
            growth.clear(current, self.after.size_bytes, of_total(progress, added))

    def _size_replica(self, volume: Volume) -> None:
        with self._opened(volume) as (current, _):
            size_replica(current, volume.size_bytes)

    @contextmanager
    def _opened(self, volume: Volume) -> Iterator[tuple[Replica, Located]]:
        with opened(volume, self.acknowledge) as found:
            yield found


def size_replica(current: Replica, size_bytes: int) -> None:
    """Have the label say another size, where it does not say that yet."""
    if current.label.size_bytes != size_bytes:
        current.write_label(replace(current.label, size_bytes=size_bytes))


def require_agreed(volume: Volume, points: Collection[UUID]) -> None:
    """Raise when points would go for the larger replica that nobody agreed to lose."""
    if points:
        raise WrongStateError(
            f"the larger replica of {volume.name} needs the room of the {len(points)} oldest "
            f"points of its history: nothing was changed",
            hint="make the recovery volume larger, too, or give --drop-points",
            points=sorted(map(str, points)),
        )


def settle_label(volume: Volume, former_bytes: int, acknowledge: Acknowledge | None = None) -> bool:
    """Have one label at the end of the recovery volume, of the size that is recorded.

    Says whether it lies elsewhere than it did.
    """
    with opened(volume, acknowledge) as (current, located):
        if not growth.is_in_place(current.device, located):
            growth.move_label(current, located)
        if current.label.size_bytes > volume.size_bytes:
            size_replica(current, volume.size_bytes)
        area_bytes = label.offset(current.device.size_bytes)
        if former_bytes != area_bytes:
            growth.tidy_former(current, volume, former_bytes)
        region = history.region(volume.size_bytes, area_bytes)
        if current.label.history_offset_bytes > region.offset_bytes:
            growth.begin_history(current, region.offset_bytes)
    return former_bytes != area_bytes


@contextmanager
def opened(
    volume: Volume, acknowledge: Acknowledge | None = None
) -> Iterator[tuple[Replica, Located]]:
    """The recovery volume, to be written to; what was written is acknowledged at the end."""
    with growth.opened(volume) as (current, located):
        try:
            yield current, located
        finally:
            if acknowledge is not None and current.bytes_written:
                acknowledge(current.bytes_written)
