"""Points that wait to be copied, and the runs that copy them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from catalogue_samples import a_point, a_volume
from test_pruning import a_label

from dmsnap._native.extent_set import ExtentSet
from dmsnap._native.io_priority import IoClass, IoPriority
from dmsnap.catalogue import skipped
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import Point, Volume, VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import NotFoundError, PointInvalidError, WrongStateError
from dmsnap.policy.copying import NextCopy
from dmsnap.recovery import replica
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.configuration.declaration import CopyTable, DeclaredIoClass, Make, Policy
from dmsnap.service.configuration.declared_value import Duration
from dmsnap.service.points import copyable, waiting
from dmsnap.service.points import point as points
from dmsnap.service.replicas import rolling, sync
from dmsnap.service.replicas.synchronisation import Sync
from dmsnap.service.schedules import policy_run
from dmsnap.service.schedules.policy_run import PolicyRun, VolumeRun
from dmsnap.service.session import Session
from dmsnap.service.volumes import recognition, renewal
from dmsnap.snapshot import live, write_count
from dmsnap.snapshot.window_count import WriteCounts
from dmsnap.tracking import choice
from dmsnap.tracking.choice import Tracker, TrackerChoice

HOUR = 3600 * 10**9
COUNTS = WriteCounts(0, 0, 0)
VOLUME = replace(a_volume(), state=VolumeState.PROTECTED)


def taken(hours_ago: int, era: int, tracking_id: str = "boot:1") -> Point:
    return replace(
        a_point(VOLUME, now_ns() - hours_ago * HOUR), invalid_reason=None, keep=False,
        era_since=era, tracking_id=tracking_id,
    )  # fmt: skip


class House:
    """A volume whose devices are made up; ``on_replica`` is what its label names."""

    def __init__(self, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
        self.session = Session(Configuration(), catalogue)
        self.on_replica: Point | None = None
        self.beside = 0
        self.lost: set[UUID] = set()
        catalogue.add_volume(VOLUME)
        monkeypatch.setattr(replica, "label_of", self.label_of)
        monkeypatch.setattr(points, "labels_of", lambda volumes: [None for _ in volumes])
        monkeypatch.setattr(live, "with_validity", self.with_validity)
        monkeypatch.setattr(live, "require_valid", self.require_valid)
        monkeypatch.setattr(write_count, "bytes_beside", lambda *_: self.beside)
        monkeypatch.setattr(rolling, "counted", lambda *_: COUNTS)

    def label_of(self, _volume: Volume) -> Any:
        held = self.on_replica
        if held is None:
            return SimpleNamespace(point_uuid=None, point_time_ns=0)
        return SimpleNamespace(point_uuid=held.id, point_time_ns=held.created_ns)

    def with_validity(self, _volume: Volume, point: Point) -> Point:
        return replace(point, invalid_reason="full") if point.id in self.lost else point

    def require_valid(self, _volume: Volume, point: Point) -> None:
        if point.id in self.lost:
            raise PointInvalidError("it is Invalid")

    def add(self, *taken: Point) -> list[Point]:
        self.session.catalogue.add_points(list(taken))
        return list(taken)

    def waiting(self) -> list[UUID]:
        return [each.id for each in waiting.waiting(self.session, VOLUME)]


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    with Catalogue.open(tmp_path / "catalogue.db") as catalogue:
        yield House(catalogue, monkeypatch)


def test_those_that_are_newer_wait_in_the_order_of_their_eras(house: House) -> None:
    """A clock that was set changes nothing."""
    old, new, late = house.add(taken(9, 3), taken(1, 5), taken(5, 7))
    (held,) = house.add(replace(taken(0, 4), area_id=None))
    assert house.waiting() == [old.id, new.id, late.id]
    house.on_replica = held
    assert house.waiting() == [new.id, late.id]
    house.lost = {new.id}
    assert house.waiting() == [late.id]
    house.on_replica = late
    assert house.waiting() == []


def test_times_are_for_what_was_taken_under_another_tracking(house: House) -> None:
    old, new = house.add(taken(9, 3), taken(1, 4))
    (house.on_replica,) = house.add(replace(taken(5, 90, "boot:0"), area_id=None))
    other = replace(new, id=uuid4(), tracking_id="boot:-1")
    house.add(other)
    assert old.id in house.waiting()  # the volume is tracked anew since, whatever the clock said
    house.on_replica = replace(house.on_replica, id=uuid4())  # the catalogue does not know it
    assert set(house.waiting()) == {new.id, other.id}


def test_a_clock_that_was_years_ahead_ends_no_copying(house: House) -> None:
    """It was set back, and the host booted since: the replica seems to be of years to come."""
    before, after = house.add(taken(9, 3, "boot:0"), taken(1, 4))
    (ahead,) = house.add(replace(taken(-5 * 365 * 24, 90, "boot:0"), area_id=None))
    house.on_replica = ahead
    assert house.waiting() == [after.id]
    assert copyable.copyable(house.session, VOLUME, str(after.id)).id == after.id
    house.on_replica = replace(ahead, id=uuid4())  # the catalogue does not know it
    assert house.waiting() == [after.id]
    # What was taken by that clock under the same tracking is not copied again.
    house.on_replica = ahead
    assert before.id not in house.waiting()


def test_what_is_held_of_the_tracking_of_now_is_newer_than_what_was_before(house: House) -> None:
    (before,) = house.add(taken(-9, 300, "boot:0"))
    (house.on_replica,) = house.add(replace(taken(2, 4), area_id=None))
    assert before.id not in house.waiting()


def test_what_can_be_copied(house: House) -> None:
    old, new = house.add(taken(9, 3), taken(1, 5))
    (gone,) = house.add(replace(taken(2, 4), area_id=None))
    house.on_replica = gone
    assert copyable.copyable(house.session, VOLUME, str(new.id)[:8]).id == new.id
    with pytest.raises(WrongStateError, match="is not newer"):
        copyable.copyable(house.session, VOLUME, str(old.id))
    with pytest.raises(NotFoundError, match="is not live"):
        copyable.copyable(house.session, VOLUME, str(gone.id))
    with pytest.raises(NotFoundError):
        copyable.copyable(house.session, VOLUME, str(uuid4()))
    house.beside = 4096
    with pytest.raises(PointInvalidError, match="4 KiB were written to /dev/vg/srv past"):
        copyable.copyable(house.session, VOLUME, str(new.id))
    house.beside = 0
    house.lost = {new.id}
    with pytest.raises(PointInvalidError, match="Invalid"):
        copyable.copyable(house.session, VOLUME, str(new.id))


class Runs:
    """Runs of a policy; a sync puts on the replica what it was asked for."""

    def __init__(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        self.house = house
        self.synced: list[tuple[str | None, object]] = []
        self.meanwhile: Callable[[], None] | None = None  # while a turn is waited for
        monkeypatch.setattr(sync, "sync", self.sync)
        monkeypatch.setattr(policy_run, "turn", self.turn)

    @contextmanager
    def turn(self, *_asked: object) -> Iterator[None]:
        if self.meanwhile is not None:
            self.meanwhile()
        yield

    def sync(self, _session: Session, _name: str, **asked: Any) -> Any:
        self.synced.append((asked["source"], asked["io_priority"]))
        found = None
        if asked["source"] is not None:
            found = self.house.session.catalogue.find_point(UUID(asked["source"]))
        copy = replace(found or taken(0, 1000), id=uuid4(), area_id=None)
        (self.house.on_replica,) = self.house.add(copy)
        return cast(Any, sync.SyncResult)(
            "srv", copy.id, Tracker.ERA, None, 0, 0, 0, 0.0, 0.0, None, {}
        )

    def run(self, policy: Policy) -> VolumeRun:
        self.synced = []
        running = PolicyRun(self.house.session, "p", policy, [("s", ["srv"])], UTC)
        running.copy()
        return running.volumes["srv"]

    @property
    def sources(self) -> list[str | None]:
        return [source for source, _ in self.synced]


@pytest.fixture
def runs(house: House, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(house, monkeypatch)


def test_each_point_that_is_due_is_copied_the_oldest_first(house: House, runs: Runs) -> None:
    found = house.add(taken(9, 3), taken(5, 4), taken(1, 5))
    run = runs.run(Policy(io_class=DeclaredIoClass.IDLE))
    priority = IoPriority(IoClass.IDLE)
    assert runs.synced == [(str(each.id), priority) for each in found]
    assert house.on_replica is not None
    assert (run.synced, run.copy_due_ns, run.error) == (house.on_replica.id, None, None)
    runs.run(Policy())
    assert runs.synced == []


def test_as_many_are_let_pass_as_is_declared(house: House, runs: Runs) -> None:
    found = house.add(*(taken(9 - number, 3 + number) for number in range(5)))
    run = runs.run(Policy(copy=CopyTable(let_pass=3)))
    assert runs.sources == [str(each.id) for each in found[:2]]
    assert run.copy_due_ns is None


def test_what_is_not_due_has_its_time(house: House, runs: Runs) -> None:
    old, new = house.add(taken(9, 3), taken(1, 4))
    run = runs.run(Policy(copy=CopyTable(delay=Duration(7200))))
    assert runs.sources == [str(old.id)]
    assert run.copy_due_ns is not None
    assert abs(run.copy_due_ns - new.created_ns - 2 * HOUR) < HOUR // 10


def test_what_another_run_has_copied_meanwhile_is_not_copied_again(
    house: House, runs: Runs
) -> None:
    """It waited for its turn behind one that copied the same points: no failure, and no sync."""
    *_, newest = house.add(taken(9, 3), taken(1, 5))

    def copied() -> None:
        house.on_replica = newest

    runs.meanwhile = copied
    run = runs.run(Policy())
    assert runs.sources == []
    assert (run.synced, run.error, run.exit_code) == (None, None, 0)


def test_hours_that_end_while_a_turn_is_waited_for_are_over(
    house: House, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.add(taken(9, 3))
    late_ns = time.time_ns() + HOUR
    runs.meanwhile = lambda: monkeypatch.setattr(
        policy_run, "next_copy", lambda *_: NextCopy(uuid4(), late_ns)
    )
    run = runs.run(Policy())
    assert runs.sources == []
    assert run.copy_due_ns == late_ns


def test_the_volume_itself_where_no_point_is_to_be_had(house: House, runs: Runs) -> None:
    house.add(taken(9, 3), taken(1, 4))
    house.beside = 512
    runs.run(Policy())
    assert runs.sources == [None]
    house.beside = 0
    runs.run(Policy(make=Make.RECOVERY_VOLUME))
    assert runs.sources == [None]


def test_a_copy_is_a_point_of_its_own_of_the_same_moment(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded before the label can name it, and taken back with it; the live one stays."""
    (source,) = house.add(taken(1, 5))
    running = Sync(house.session, VOLUME, source=source)
    copy = running.point
    same = (copy.created_ns, copy.era_since, copy.tracking_id, copy.window_seconds)
    assert same == (
        source.created_ns, source.era_since, source.tracking_id, source.window_seconds
    )  # fmt: skip
    assert (copy.area_id, copy.temporary, running.shown) == (None, True, source)
    assert copy.id != source.id
    running._record_copy()
    find = house.session.catalogue.find_point
    assert find(copy.id) == copy
    running._forget_copy()
    assert (find(copy.id), find(source.id)) == (None, source)


def test_what_is_written_past_the_front_meanwhile_is_noticed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source,) = house.add(taken(1, 5))
    running = Sync(house.session, VOLUME, source=source)
    running._require_valid()
    house.beside = 512
    with pytest.raises(PointInvalidError, match="may show them"):
        running._require_valid()


@pytest.mark.parametrize("counts", [COUNTS, None])
def test_a_busy_front_hides_nothing_of_it(
    house: House, monkeypatch: pytest.MonkeyPatch, counts: WriteCounts | None
) -> None:
    """In a window it is told, and what that did not count is not known to be nothing."""
    (source,) = house.add(taken(1, 5))
    running = Sync(house.session, VOLUME, source=source)
    running._require_valid()
    monkeypatch.setattr(
        write_count, "bytes_beside", lambda _directory, _volume, of=None: 512 if of else 0
    )
    monkeypatch.setattr(rolling, "counted", lambda *_: counts)
    running._require_valid()
    with pytest.raises(PointInvalidError, match="may show them"):
        running._bytes_beside()


def test_what_was_written_past_the_front_is_not_seen_by_a_point_of_before(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a sync of now has compared it."""
    seen: list[WriteCounts | None] = []
    monkeypatch.setattr(write_count, "settle", lambda *asked: seen.append(asked[-1]))
    for name in ("settle_on_replica", "note_content", "forget_dropped", "note_replica"):
        monkeypatch.setattr(Session, name, lambda *_: None)
    monkeypatch.setattr(recognition, "note", lambda *_: None)
    (source,) = house.add(taken(1, 5))
    of_before = Sync(house.session, VOLUME, source=source)
    of_now = Sync(house.session, VOLUME)
    assert of_now.taken is not None
    of_now.taken.points, of_now.taken.counts = [source], [COUNTS]
    for running, tracker, expected in (
        (of_before, Tracker.COMPARE, []),
        (of_now, Tracker.ERA, []),
        (of_now, Tracker.COMPARE, [COUNTS]),
    ):
        running.choice = TrackerChoice(tracker)
        running._settle()
        assert seen == expected


def test_what_went_for_a_sync_that_was_not_made_is_recorded(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what it was to make, nor what is live: the label is held against what it said before."""
    label = a_label(1, 2, 3)
    kept, went = (
        replace(a_point(VOLUME, each.point_time_ns), id=each.point_uuid, area_id=None)
        for each in label.history
    )
    (source,) = house.add(taken(1, 5))
    running = Sync(house.session, VOLUME, source=source)
    house.add(kept, went, running.point)
    monkeypatch.setattr(Session, "note_replica", lambda *_: None)
    monkeypatch.setattr(replica, "label_of", lambda _: label)
    running._record_gone()
    running.before = label
    running._record_gone()
    assert house.session.catalogue.find_point(went.id) is not None
    monkeypatch.setattr(replica, "label_of", lambda _: replace(label, history=label.history[:1]))
    running._record_gone()
    left = {each.id for each in house.session.catalogue.points(VOLUME.id)}
    assert left == {source.id, running.point.id, kept.id}


def test_it_is_tracked_against_the_point_that_is_copied(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def choose(*_given: object, copied: Point | None, **_options: object) -> TrackerChoice:
        asked.append(copied)
        return TrackerChoice(Tracker.COMPARE)

    monkeypatch.setattr(choice, "choose", choose)
    monkeypatch.setattr(live, "current_era", lambda _volume: 9)
    monkeypatch.setattr(replica, "label_of", lambda _volume: a_label(1))
    monkeypatch.setattr(skipped, "of_replica", lambda *_: ExtentSet())
    monkeypatch.setattr(Sync, "_probe_point", lambda _self: None)
    monkeypatch.setattr(renewal, "require_marks", lambda *_: None)
    (source,) = house.add(taken(1, 5))
    Sync(house.session, VOLUME, source=source)._track()
    assert asked == [source]
