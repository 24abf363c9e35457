"""Keeps one store ahead of what is written: extends it, or ends the point that cannot be kept."""

import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol
from uuid import UUID

from dmsnap.errors import DmsnapError, NotFoundError
from dmsnap.host.dm.status import SnapshotState, SnapshotStatus
from dmsnap.policy import filling
from dmsnap.policy.filling import Reading
from dmsnap.service.health.room import Listing, Room
from dmsnap.units import format_size, to_bytes

log = logging.getLogger(__name__)

READINGS = 16
# A store that was refused more room is asked again after so long.
ASK_AGAIN_SECONDS = 10.0
# A point that cannot be kept is ended with this much time left, or this little room while it fills.
END_SECONDS = 10.0
END_PERCENT = 90
# A unit that was to end it may have failed: behind a command that holds the volume, or for want of
# the catalogue.
END_AGAIN_SECONDS = 60.0


class Stores(Protocol):
    """What is watched; tests give their own."""

    def rooms(self) -> Listing: ...

    def read(self, room: Room) -> SnapshotStatus: ...

    def extend(self, room: Room) -> Room: ...

    def is_kept(self, point: UUID) -> bool: ...

    def end_point(self, point: UUID) -> None: ...


class StoreWatch:
    """One store, and what was seen of it. ``look`` may hang with the disk that it lies on."""

    def __init__(self, room: Room, stores: Stores, clock: Callable[[], float]) -> None:
        self.room = room
        self._stores = stores
        self._clock = clock
        self._readings: deque[Reading] = deque(maxlen=READINGS)
        self._refused = False  # it was told that there is no more room
        self._ask_at = clock()
        self._given_up_at: float | None = None

    def look(self) -> float | None:
        """Look at it; returns how long nobody needs to, None: until the next event."""
        try:
            status = self._stores.read(self.room)
        except DmsnapError as error:
            log.debug("%s: %s", self.room, error)
            return None if isinstance(error, NotFoundError) else filling.LONGEST_SECONDS
        if status.state is not SnapshotState.OK:
            self._give_up(f"is {status.state.value}")
            return END_AGAIN_SECONDS if _is_ours(self.room) else None
        self._readings.append(
            Reading(self._clock(), to_bytes(status.used_sectors), to_bytes(status.total_sectors))
        )
        if filling.needs_room(self._readings):
            self._make_room()
        return filling.next_look_seconds(self._readings)

    def _make_room(self) -> None:
        """At the first refusal it is told; the store is asked again, though not at every look."""
        if self._clock() >= self._ask_at:
            try:
                self.room = self._stores.extend(self.room)
            except DmsnapError as error:
                self._ask_at = self._clock() + ASK_AGAIN_SECONDS
                self._tell_refusal(error)
            else:
                self._refused = False
                size = format_size(self.room.area.size_bytes)
                log.info("%s has %s now", self.room, size, extra=_fields(self.room))
                return
        if self._cannot_be_kept():
            self._give_up("cannot be kept")

    def _tell_refusal(self, error: DmsnapError) -> None:
        if self._refused or self._has_all():
            return
        self._refused = True
        left = filling.seconds_left(self._readings)
        when = "" if left is None else f" and will be full in {left:.0f} s at this rate"
        log.warning(
            "%s is %d %% full%s, and cannot be given more room: %s",
            self.room, self._percent(), when, error, extra=_fields(self.room),
        )  # fmt: skip

    def _cannot_be_kept(self) -> bool:
        """What is nearly full and is not being filled stays: it may for years."""
        left = filling.seconds_left(self._readings)
        if left is None or self._has_all():
            return False
        return self._percent() >= END_PERCENT or left <= END_SECONDS

    def _has_all(self) -> bool:
        """Whether it cannot become full."""
        return self._readings[-1].total_bytes >= self.room.largest_bytes

    def _percent(self) -> int:
        latest = self._readings[-1]
        return latest.used_bytes * 100 // max(1, latest.total_bytes)

    def _give_up(self, reason: str) -> None:
        """End a point, and give its room back. A sync ends its own, people their trials.

        It is said once, and tried again as long as the point is there.
        """
        room, before = self.room, self._given_up_at
        if room.temporary or (before is not None and not _is_ours(room)):
            return
        if before is not None and self._clock() < before + END_AGAIN_SECONDS:
            return
        self._given_up_at = self._clock()
        if room.point is None:
            log.error("%s %s: dmsnap status says more", room, reason, extra=_fields(room))
            return
        try:
            self._end(room.point, reason, again=before is not None)
        except DmsnapError as error:
            log.error("point %s cannot be ended: %s", room.point, error, extra=_fields(room))

    def _end(self, point: UUID, reason: str, *, again: bool) -> None:
        """One that is to be kept is the kernel's, which does the volume no harm for it."""
        room, level = self.room, logging.INFO if again else logging.WARNING
        if self._stores.is_kept(point):
            log.log(
                level,
                "%s %s; the point is to be kept: it is not ended, but lost once that is full",
                room, reason, extra=_fields(room),
            )  # fmt: skip
            return
        log.log(level, "%s %s: the point is ended", room, reason, extra=_fields(room))
        self._stores.end_point(point)


def _is_ours(room: Room) -> bool:
    """Whether what cannot be kept is the service's to end."""
    return room.point is not None and not room.temporary


def _fields(room: Room) -> dict[str, object]:
    return {"volume": room.volume.name, "point": room.point}
