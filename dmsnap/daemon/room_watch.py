"""Watches the stores that fill, each by itself: what hangs with one of them holds up no other."""

import asyncio
import logging
from asyncio import TaskGroup
from collections.abc import Callable
from dataclasses import dataclass, field

from dmsnap.daemon.announcements import awaited
from dmsnap.daemon.store_watch import Stores, StoreWatch
from dmsnap.daemon.thread import in_own_thread
from dmsnap.errors import DmsnapError
from dmsnap.policy import filling
from dmsnap.service.health.room import Listing

log = logging.getLogger(__name__)

# Events come in flocks: one look is for all that come within this time.
FLOCK_SECONDS = 0.1
# A point is recorded after the window that makes it, and the kernel announces it in the window: it
# may be the longer until the next list, the longer ago that was.
RECORDED_SECONDS = 60.0
LISTS_PER_AGE = 8
# A list that failed, in all or for a volume, is asked for again after so long at the latest.
LIST_AGAIN_SECONDS = 10.0
# A look that takes longer is told of.
LATE_SECONDS = 30.0


@dataclass(slots=True, eq=False)
class _Watched:
    store: StoreWatch
    event: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class RoomWatch:
    """Lists the stores after events, and has each looked at when it could have become full enough,
    and at any event.
    """

    def __init__(self, stores: Stores, clock: Callable[[], float]) -> None:
        self._stores = stores
        self._clock = clock
        self._watched: dict[str, _Watched] = {}
        self._gone: list[_Watched] = []
        self._told: dict[str, str] = {}
        self._heard_at = clock()
        self.event = asyncio.Event()

    async def run(self) -> None:
        """Until it is cancelled. Without a store to watch only events wake it."""
        async with TaskGroup() as tasks:
            while True:
                seconds = await in_own_thread(self.list_stores)
                self._follow(tasks)
                if not await awaited(self.event, seconds):
                    continue
                self.event.clear()
                self._heard_at = self._clock()
                await asyncio.sleep(FLOCK_SECONDS)
                for each in self._watched.values():
                    each.event.set()

    @property
    def watched(self) -> list[StoreWatch]:
        """The stores that the last list had."""
        return [each.store for each in self._watched.values()]

    def list_stores(self) -> float | None:
        """Ask what stores there are; returns when to ask again, None: after the next event."""
        try:
            listing = self._stores.rooms()
        except DmsnapError as error:
            self._tell({"": f"stores cannot be looked at: {error}"})
            return self._next_list(failed=True)
        self._tell(listing.unseen)
        self._take(listing)
        return self._next_list(failed=bool(listing.unseen))

    def _tell(self, failures: dict[str, str]) -> None:
        for whose, sentence in failures.items():
            if self._told.get(whose) != sentence:
                log.warning("%s", sentence, extra={"volume": whose or None})
        self._told = failures

    def _take(self, listing: Listing) -> None:
        """Stores of a volume that could not be asked stay watched."""
        rooms = {room.device: room for room in listing.rooms}
        before = self._watched
        kept = {
            name: each
            for name, each in before.items()
            if name in rooms or each.store.room.volume.name in listing.unseen
        }
        new = {
            name: _Watched(StoreWatch(room, self._stores, self._clock))
            for name, room in rooms.items()
            if name not in before
        }
        self._gone += [each for name, each in before.items() if name not in kept]
        self._watched = {**kept, **new}

    def _next_list(self, *, failed: bool) -> float | None:
        """When to list them again, which is done at least once after each event."""
        age = self._clock() - self._heard_at
        if age > RECORDED_SECONDS:
            return LIST_AGAIN_SECONDS if failed else None
        return max(filling.SHORTEST_SECONDS, age / LISTS_PER_AGE)

    def _follow(self, tasks: TaskGroup) -> None:
        """A task for each store, as long as it is listed."""
        for each in self._watched.values():
            if each.task is None:
                each.task = tasks.create_task(_watch(each))
        while self._gone:
            task = self._gone.pop().task
            if task is not None:
                task.cancel()


async def _watch(watched: _Watched) -> None:
    while True:
        seconds = await _look(watched.store)
        await awaited(watched.event, seconds)
        watched.event.clear()


async def _look(store: StoreWatch) -> float | None:
    """As the store's own, in a thread; one that hangs is told of."""
    looking = in_own_thread(store.look)
    fields = {"volume": store.room.volume.name, "point": store.room.point}
    done, _ = await asyncio.wait([looking], timeout=LATE_SECONDS)
    if not done:
        log.warning(
            "%s has not answered for %d s: nobody can say how full it is", store.room,
            LATE_SECONDS, extra=fields,
        )  # fmt: skip
        await asyncio.wait([looking])
        log.info("%s answers again", store.room, extra=fields)
    return looking.result()
