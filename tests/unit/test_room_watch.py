"""The watch over stores that fill, on a fake clock, with stores in memory."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from uuid import UUID, uuid4

import fake_clock
import pytest

from dmsnap.catalogue.model import Area, AreaRole, Volume, VolumeState
from dmsnap.daemon import room_watch, store_watch
from dmsnap.daemon.room_watch import RoomWatch
from dmsnap.daemon.store_watch import StoreWatch
from dmsnap.errors import NoSpaceError, NotFoundError, UnreachableError
from dmsnap.host.dm.status import SnapshotState, SnapshotStatus
from dmsnap.policy import filling
from dmsnap.service.health.room import Listing, Room
from dmsnap.units import GIB, MIB, SECTOR_BYTES

VOLUME = Volume(
    uuid4(), "data", VolumeState.PROTECTED, "/dev/sda", "/dev/sdb", uuid4(), "/store", 100 * GIB,
    65536, 4096, "ext4", "", (), 1, "t", 0,
)  # fmt: skip


@dataclass
class FakeStores:
    """One store, filled at some rate; ``limit_bytes`` is what it may have."""

    rate: int
    limit_bytes: int
    room: Room
    now: float = 0.0
    used_bytes: int = 0
    state: SnapshotState = SnapshotState.OK
    ended: list[UUID] = field(default_factory=list)
    lowest_free_bytes: int = 1 << 60
    kept: bool = False
    asked: int = 0  # for more room

    def rooms(self) -> Listing:
        return Listing([] if self.ended else [self.room], {})

    def read(self, room: Room) -> SnapshotStatus:
        assert room.device == self.room.device
        total = self.room.area.size_bytes
        self.lowest_free_bytes = min(self.lowest_free_bytes, total - self.used_bytes)
        if self.used_bytes >= total:
            self.state = SnapshotState.INVALID
        if self.state is not SnapshotState.OK:
            return SnapshotStatus(self.state)
        return SnapshotStatus(self.state, self.used_bytes // SECTOR_BYTES, total // SECTOR_BYTES)

    def extend(self, room: Room) -> Room:
        self.asked += 1
        size = 2 * room.area.size_bytes
        if size > self.limit_bytes:
            raise NoSpaceError("the store has no more")
        self.room = replace(room, area=replace(room.area, size_bytes=size))
        return self.room

    def is_kept(self, point: UUID) -> bool:
        assert point == self.room.point
        return self.kept

    def end_point(self, point: UUID) -> None:
        self.ended.append(point)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.used_bytes += int(self.rate * seconds)


def stores(rate: int, limit_bytes: int, *, size: int = GIB, point: bool = True) -> FakeStores:
    area = Area(uuid4(), VOLUME.id, AreaRole.COW, 1, "/store/x.img", size)
    return FakeStores(rate, limit_bytes, Room(VOLUME, area, "dev", uuid4() if point else None))


def watch(watched: FakeStores, seconds: float) -> None:
    """Look as often as is asked for."""
    looking = StoreWatch(watched.room, watched, lambda: watched.now)
    while watched.now < seconds and not watched.ended:
        wait = looking.look()
        watched.sleep(filling.LONGEST_SECONDS if wait is None else wait)


@pytest.mark.parametrize("rate", [0, MIB, 100 * MIB, 500 * MIB])
def test_extended_ahead_of_any_rate(rate: int) -> None:
    found = stores(rate, 1 << 50)
    watch(found, 60)
    assert found.state is SnapshotState.OK
    assert found.ended == []
    assert (found.room.area.size_bytes > GIB) == (rate > MIB)


def test_what_cannot_be_extended_is_ended_before_it_is_full(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = stores(20 * MIB, 2 * GIB)
    watch(found, 3600)
    assert found.ended == [found.room.point]
    assert found.lowest_free_bytes > 0
    told = [record.getMessage() for record in caplog.records]
    assert len([line for line in told if "cannot be given more room" in line]) == 1
    assert "will be full in" in told[0]
    assert caplog.records[0].__dict__["volume"] == "data"


def test_one_that_overflowed_is_ended() -> None:
    found = stores(0, 2 * GIB)
    found.state = SnapshotState.OVERFLOW
    watch(found, 10)
    assert found.ended == [found.room.point]


@pytest.mark.parametrize("state", [SnapshotState.OVERFLOW, SnapshotState.OK])
def test_a_point_that_is_there_still_is_ended_again(
    state: SnapshotState, caplog: pytest.LogCaptureFixture
) -> None:
    """What was to end it may have failed, as while a sync holds the volume. It is said once."""

    held = FakeStores(MIB // 8, GIB, stores(0, GIB).room, used_bytes=GIB * 95 // 100)
    held.state = state
    looking = StoreWatch(held.room, held, lambda: held.now)
    while held.now < 150:
        wait = looking.look()
        assert wait is not None
        held.sleep(wait)
    assert held.ended == [held.room.point] * 3
    ends = [each for each in caplog.records if each.getMessage().endswith("the point is ended")]
    assert [each.levelname for each in ends if each.levelname != "INFO"] == ["WARNING"]


def test_an_overlay_and_a_syncs_point_are_not_ours_to_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    overlay = stores(MIB, GIB, point=False)
    overlay.used_bytes = GIB * 95 // 100
    watch(overlay, 30)
    assert overlay.ended == []
    assert [each.levelname for each in caplog.records] == ["WARNING", "ERROR"]
    syncing = stores(MIB, GIB)
    syncing.room = replace(syncing.room, temporary=True)
    syncing.used_bytes = GIB * 95 // 100
    watch(syncing, 30)
    assert syncing.ended == []


def test_a_store_that_goes_while_it_is_looked_at() -> None:
    class Gone(FakeStores):
        def read(self, room: Room) -> SnapshotStatus:
            raise NotFoundError(str(room))

    found = stores(0, GIB)
    gone = Gone(0, GIB, found.room)
    assert StoreWatch(gone.room, gone, lambda: gone.now).look() is None


def test_what_is_nearly_full_and_not_being_filled_stays() -> None:
    """It may for years: what it had was written long ago."""
    still = stores(0, GIB)
    still.used_bytes = GIB * 95 // 100
    watch(still, 3600)
    assert still.ended == []
    assert still.asked > 100
    still.rate = MIB // 8
    watch(still, 7200)
    assert still.ended == [still.room.point]


@pytest.mark.parametrize("rate", [0, 20 * MIB])
def test_a_kept_point_is_the_kernels(rate: int, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing drops it to make room; that its store is full does its volume no harm."""
    found = stores(rate, GIB)
    found.kept = True
    found.used_bytes = GIB * 80 // 100
    watch(found, 3600)
    assert found.ended == []
    warned = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert len([each for each in warned if "is to be kept" in each]) == (1 if rate else 0)


def test_a_refused_store_is_not_asked_at_every_look() -> None:
    full = stores(0, GIB, point=False)
    full.used_bytes = GIB - MIB
    watch(full, 60)
    assert full.asked <= 60 / store_watch.ASK_AGAIN_SECONDS + 1


def test_without_a_store_events_alone_have_them_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a minute after an event also by itself, ever more rarely, and then never more."""
    monkeypatch.setattr(room_watch, "in_own_thread", fake_clock.at_once)
    listed: list[float] = []

    class Listed(FakeStores):
        def rooms(self) -> Listing:
            listed.append(asyncio.get_running_loop().time())
            return Listing([], {})

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        looking = RoomWatch(Listed(0, GIB, stores(0, GIB).room), loop.time)
        running = asyncio.create_task(looking.run())
        for begins in (0.0, 3600.0):
            await asyncio.sleep(3600)
            assert listed[0] == pytest.approx(begins, abs=1)
            longest = room_watch.RECORDED_SECONDS * (1 + 1 / room_watch.LISTS_PER_AGE)
            assert listed[-1] <= begins + longest + 1
            listed.clear()
            looking.event.set()
        running.cancel()

    fake_clock.run(scene())


def test_what_is_recorded_late_is_found() -> None:
    """By a command that took most of a minute from the window on."""
    found = stores(0, GIB)
    found.ended.append(uuid4())
    looking = RoomWatch(found, lambda: found.now)
    assert looking.list_stores() == filling.SHORTEST_SECONDS
    while found.now < 50:
        wait = looking.list_stores()
        assert wait is not None
        found.sleep(wait)
    found.ended.clear()
    looking.list_stores()
    assert [each.room for each in looking.watched] == [found.room]


def test_a_list_that_fails_is_asked_for_again(caplog: pytest.LogCaptureFixture) -> None:
    """However long ago the event was, and it is told once. What is watched stays watched."""
    found = stores(0, GIB)
    answers: list[Callable[[], Listing]] = []

    def away() -> Listing:
        raise UnreachableError("the catalogue cannot be reached")

    class Answering(FakeStores):
        def rooms(self) -> Listing:
            return answers.pop(0)()

    asked = Answering(0, GIB, found.room)
    looking = RoomWatch(asked, lambda: asked.now)
    asked.now = 3600
    seen = Listing([found.room], {})
    half = Listing([], {found.room.volume.name: "not all stores of data can be looked at"})
    answers += [lambda: seen, away, away, lambda: half, lambda: half, lambda: seen]
    waits = [looking.list_stores() for _ in range(6)]
    again = room_watch.LIST_AGAIN_SECONDS
    assert waits == [None, again, again, again, again, None]
    assert [each.room for each in looking.watched] == [found.room]
    assert len(caplog.records) == 2


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def test_a_store_that_hangs_holds_up_no_other(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as hang: the others are looked at and extended, and new ones are found."""
    monkeypatch.setattr(room_watch, "LATE_SECONDS", 0.05)
    caplog.set_level("INFO")
    dead, well, new = stores(0, GIB).room, stores(0, GIB).room, stores(0, GIB).room
    hanging = [replace(dead, device=f"dead{number}") for number in range(40)]
    listed = [*hanging, replace(well, device="well")]
    released, extended = threading.Event(), list[str]()

    class Many(FakeStores):
        def rooms(self) -> Listing:
            return Listing([*listed], {})

        def read(self, room: Room) -> SnapshotStatus:
            total = room.area.size_bytes // SECTOR_BYTES
            if room.device.startswith("dead"):
                released.wait()
            return SnapshotStatus(SnapshotState.OK, total * 8 // 10, total)

        def extend(self, room: Room) -> Room:
            extended.append(room.device)
            return replace(room, area=replace(room.area, size_bytes=VOLUME.size_bytes * 2))

    async def scene() -> None:
        looking = RoomWatch(Many(0, GIB, dead), lambda: 0.0)
        running = asyncio.create_task(looking.run())
        await until(lambda: "well" in extended)
        listed.append(replace(new, device="new"))
        looking.event.set()
        await until(lambda: "new" in extended)
        assert not any(each.startswith("dead") for each in extended)
        await until(lambda: "has not answered for" in caplog.text)
        released.set()
        await until(lambda: "answers again" in caplog.text)
        listed.clear()
        looking.event.set()
        await until(lambda: looking.watched == [])
        running.cancel()
        await asyncio.wait([running])

    try:
        asyncio.run(scene())
    finally:
        released.set()
