"""The watch over stores that fill, on a fake clock, with stores in memory."""

from dataclasses import dataclass, field, replace
from uuid import UUID, uuid4

import pytest

from dmsnap.catalogue.model import Area, AreaRole, Volume, VolumeState
from dmsnap.daemon.room_watch import RoomWatch
from dmsnap.errors import NoSpaceError, NotFoundError
from dmsnap.host.dm.status import SnapshotState, SnapshotStatus
from dmsnap.policy import filling
from dmsnap.service.health.room import Room
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

    def rooms(self) -> list[Room]:
        return [] if self.ended else [self.room]

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
        size = 2 * room.area.size_bytes
        if size > self.limit_bytes:
            raise NoSpaceError("the store has no more")
        self.room = replace(room, area=replace(room.area, size_bytes=size))
        return self.room

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
    looking = RoomWatch(watched, lambda: watched.now)
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

    class Held(FakeStores):
        def rooms(self) -> list[Room]:
            return [self.room]

    held = Held(0, GIB, stores(0, GIB).room, used_bytes=GIB * 95 // 100)
    held.state = state
    looking = RoomWatch(held, lambda: held.now)
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
    overlay = stores(0, GIB, point=False)
    overlay.used_bytes = GIB * 95 // 100
    watch(overlay, 30)
    assert overlay.ended == []
    assert [each.levelname for each in caplog.records] == ["WARNING", "ERROR"]
    syncing = stores(0, GIB)
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
    looking = RoomWatch(gone, lambda: gone.now)
    looking.look()
    gone.now = 61
    assert looking.look() is None


def test_nothing_to_watch_is_not_looked_at_again() -> None:
    found = stores(0, GIB)
    found.ended.append(uuid4())
    looking = RoomWatch(found, lambda: found.now)
    looking.look()
    found.now = 61
    assert looking.look() is None


def test_a_point_that_is_recorded_after_its_announcement() -> None:
    """It is asked for again for some seconds."""
    found = stores(0, GIB)
    recorded = found.room
    found.ended.append(uuid4())
    looking = RoomWatch(found, lambda: found.now)
    assert looking.look() == filling.SHORTEST_SECONDS
    found.ended.clear()
    found.now = 1
    looking.look()
    found.now = 60
    assert looking.look() == pytest.approx(1.0)
    assert recorded.area.size_bytes == GIB


def test_what_is_late_to_look_lists_the_stores_all_the_same() -> None:
    """On a machine that is busy, an hour after it was told."""
    found = stores(0, 1 << 50)
    found.used_bytes = GIB * 9 // 10
    looking = RoomWatch(found, lambda: found.now)
    found.now = 3600
    assert looking.look() is not None
    assert found.room.area.size_bytes == 2 * GIB


def test_what_is_recorded_late_is_found() -> None:
    """By a command that took most of a minute from the window on."""
    found = stores(0, 1 << 50)
    found.used_bytes = GIB * 9 // 10
    point = found.room.point
    assert point is not None
    found.ended.append(point)
    looking = RoomWatch(found, lambda: found.now)
    while found.now < 50:
        wait = looking.look()
        assert wait is not None
        found.sleep(wait)
    assert found.room.area.size_bytes == GIB
    found.ended.clear()
    wait = looking.look()
    assert wait is not None
    found.sleep(wait)
    looking.look()
    assert found.room.area.size_bytes == 2 * GIB
