"""Keeps stores ahead of what is written: extends them, and ends points that cannot be kept."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from dmsnap.errors import DmsnapError, NotFoundError
from dmsnap.host.dm.status import SnapshotState, SnapshotStatus
from dmsnap.policy import filling
from dmsnap.policy.filling import Reading
from dmsnap.service.health.room import Room
from dmsnap.units import format_size, to_bytes

log = logging.getLogger(__name__)

READINGS = 16
# Events come in flocks: one look is for all that come within this time.
FLOCK_SECONDS = 0.1
# A point is recorded after the window that makes it, and the kernel announces it in the window: it
# may be the longer until the next list, the longer ago that was.
RECORDED_SECONDS = 60.0
LISTS_PER_AGE = 8
# A point that cannot be kept is ended with this much time, or this little room, left.
END_SECONDS = 10.0
END_PERCENT = 90
# A unit that was to end it may have failed: behind a command that holds the volume, or for want of
# the catalogue.
END_AGAIN_SECONDS = 60.0


class Stores(Protocol):
    """What is watched; tests give their own."""

    def rooms(self) -> list[Room]: ...

    def read(self, room: Room) -> SnapshotStatus: ...

    def extend(self, room: Room) -> Room: ...

    def end_point(self, point: UUID) -> None: ...


@dataclass(slots=True)
class _Watched:
    """One store, and what was seen of it."""

    room: Room
    readings: deque[Reading] = field(default_factory=lambda: deque(maxlen=READINGS))
    refused: bool = False  # it was told that there is no more room
    given_up_at: float | None = None


class RoomWatch:
    """Looks at every store again when it could have become full enough, and at any event."""

    def __init__(self, stores: Stores, clock: Callable[[], float]) -> None:
        self._stores = stores
        self._clock = clock
        self._watched: dict[str, _Watched] = {}
        self._heard_at = clock()
        self._list_at: float | None = self._heard_at
        self.event = asyncio.Event()

    async def run(self) -> None:
        """Until it is cancelled. Without a store to watch only events wake it."""
        while True:
            seconds = await asyncio.to_thread(self.look)
            try:
                await asyncio.wait_for(self.event.wait(), seconds)
            except TimeoutError:
                continue
            self.event.clear()
            self._heard_at = self._list_at = self._clock()
            await asyncio.sleep(FLOCK_SECONDS)

    def look(self) -> float | None:
        """Look at all stores; returns how long nobody needs to, None: until the next event."""
        found = [self._look_at(watched) for watched in self._watched.values()]
        if self._list_at is not None and self._clock() >= self._list_at:
            new = self._list()
            found += [self._look_at(watched) for watched in new]
            self._list_at = self._next_list()
        if self._list_at is not None:
            found.append(max(0.0, self._list_at - self._clock()))
        return min((seconds for seconds in found if seconds is not None), default=None)

    def _next_list(self) -> float | None:
        """When to list them again, which is done at least once after each event."""
        now = self._clock()
        age = now - self._heard_at
        if age > RECORDED_SECONDS:
            return None
        return now + max(filling.SHORTEST_SECONDS, age / LISTS_PER_AGE)

    def _list(self) -> list[_Watched]:
        """Ask what stores there are, which takes longer than to look at those that are known."""
        try:
            rooms = {room.device: room for room in self._stores.rooms()}
        except DmsnapError as error:
            log.warning("stores cannot be looked at: %s", error)
            return []
        new = {name: _Watched(room) for name, room in rooms.items() if name not in self._watched}
        kept = {name: each for name, each in self._watched.items() if name in rooms}
        self._watched = {**kept, **new}
        return list(new.values())

    def _look_at(self, watched: _Watched) -> float | None:
        try:
            status = self._stores.read(watched.room)
        except DmsnapError as error:
            log.debug("%s: %s", watched.room, error)
            return None if isinstance(error, NotFoundError) else filling.LONGEST_SECONDS
        if status.state is not SnapshotState.OK:
            self._give_up(watched, f"is {status.state.value}")
            return END_AGAIN_SECONDS if _is_ours(watched.room) else None
        watched.readings.append(
            Reading(self._clock(), to_bytes(status.used_sectors), to_bytes(status.total_sectors))
        )
        if filling.needs_room(watched.readings):
            self._make_room(watched)
        return filling.next_look_seconds(watched.readings)

    def _make_room(self, watched: _Watched) -> None:
        """At the first refusal it is told; the store is asked again at every look."""
        try:
            watched.room = self._stores.extend(watched.room)
        except DmsnapError as error:
            self._refused(watched, error)
            return
        watched.refused = False
        size = format_size(watched.room.area.size_bytes)
        log.info("%s has %s now", watched.room, size, extra=_fields(watched.room))

    def _refused(self, watched: _Watched, error: DmsnapError) -> None:
        left = filling.seconds_left(watched.readings)
        latest = watched.readings[-1]
        percent = latest.used_bytes * 100 // max(1, latest.total_bytes)
        if latest.total_bytes >= watched.room.largest_bytes:
            return  # it cannot become full
        if not watched.refused:
            watched.refused = True
            when = "" if left is None else f" and will be full in {left:.0f} s at this rate"
            log.warning(
                "%s is %d %% full%s, and cannot be given more room: %s",
                watched.room, percent, when, error, extra=_fields(watched.room),
            )  # fmt: skip
        if percent >= END_PERCENT or (left is not None and left <= END_SECONDS):
            self._give_up(watched, "cannot be kept")

    def _give_up(self, watched: _Watched, reason: str) -> None:
        """End a point, and give its room back. A sync ends its own, people their trials.

        It is said once, and tried again as long as the point is there.
        """
        room, before = watched.room, watched.given_up_at
        if room.temporary or (before is not None and not _is_ours(room)):
            return
        if before is not None and self._clock() < before + END_AGAIN_SECONDS:
            return
        watched.given_up_at = self._clock()
        if room.point is None:
            log.error("%s %s: dmsnap status says more", room, reason, extra=_fields(room))
            return
        level = logging.WARNING if before is None else logging.INFO
        log.log(level, "%s %s: the point is ended", room, reason, extra=_fields(room))
        try:
            self._stores.end_point(room.point)
        except DmsnapError as error:
            log.error("point %s cannot be ended: %s", room.point, error, extra=_fields(room))


def _is_ours(room: Room) -> bool:
    """Whether what cannot be kept is the service's to end."""
    return room.point is not None and not room.temporary


def _fields(room: Room) -> dict[str, object]:
    return {"volume": room.volume.name, "point": room.point}
