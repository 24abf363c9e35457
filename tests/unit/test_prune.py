"""Pruning over volumes that are made up: what is removed together, what becomes of failures."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from test_pruning import CLOCK, a_label, a_point, ids

from dmsnap._native.label import Label, LabelState
from dmsnap.catalogue.model import Point, VolumeState
from dmsnap.errors import (
    BusyError,
    ConfigurationError,
    DmsnapError,
    ExitCode,
    LockedError,
    NoSpaceError,
    UnreachableError,
)
from dmsnap.host import local_time
from dmsnap.policy.retention import Action, Rule
from dmsnap.recovery import removal, replica
from dmsnap.service import journal
from dmsnap.service.configuration import configuration_check
from dmsnap.service.configuration.declaration import (
    CopyTable,
    Declarations,
    Make,
    Policy,
    RetentionTable,
    Subclient,
)
from dmsnap.service.configuration.declared_value import Duration
from dmsnap.service.luns.luns import Wanted
from dmsnap.service.points import clock_record, deletion, keeping, prune, pruning, waiting
from dmsnap.service.points.prune import PruneResult, Pruning

ONE = RetentionTable(minimum=1)


class House:
    """A volume, its points, and what was asked to be removed of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.volume: Any = SimpleNamespace(
            id=uuid4(), name="srv", recovery="/dev/sdc", state=VolumeState.PROTECTED, joined=False
        )
        self.label: Label = a_label(1)
        self.records: list[Point] = []
        self.used: set[UUID] = set()
        self.removed: list[tuple[set[UUID], set[UUID]]] = []
        self.failing: Callable[[set[UUID]], Exception | None] = lambda _earlier: None
        self.locked: Exception | None = None
        self.catalogue = SimpleNamespace(
            marked_points=lambda _volume: [
                each for each in self.records if each.keep or each.expires_ns
            ],
            live_points=lambda _volume: [each for each in self.records if each.area_id],
            areas=lambda *_: [],
        )
        self.now_ns: int | None = CLOCK.now_ns
        monkeypatch.setattr(clock_record, "trusted_now", lambda *_, **__: self.now_ns)
        configuration = SimpleNamespace(state_directory=None)
        self.session: Any = SimpleNamespace(catalogue=self.catalogue, configuration=configuration)
        monkeypatch.setattr(prune, "held", self.held)
        monkeypatch.setattr(prune, "hooks_of", lambda *_: None)
        self.unreadable: DmsnapError | None = None
        monkeypatch.setattr(replica, "label_of", self.label_of)
        monkeypatch.setattr(pruning, "points_in_use", lambda *_: self.used)
        self.wanted: Wanted | None = None
        self.waiting: list[Point] = []
        monkeypatch.setattr(waiting, "waiting", lambda *_: self.waiting)
        monkeypatch.setattr(prune, "removal_plan", lambda *asked: asked)
        monkeypatch.setattr(journal, "run", self.run)

    @contextmanager
    def held(self, _session: object, _name: str, wanted: Wanted) -> Iterator[Any]:
        self.wanted = wanted
        if self.locked is not None:
            raise self.locked
        yield self.volume

    def label_of(self, _volume: object) -> Label:
        if self.unreadable is not None:
            raise self.unreadable
        return self.label

    def run(self, _catalogue: object, plan: tuple[Any, ...]) -> None:
        live, earlier = (set(asked) for asked in plan[2:4])
        failure = self.failing(earlier)
        if failure is not None:
            raise failure
        self.removed.append((live, earlier))
        history = removal.groups(self.label.history, earlier)
        entries = tuple(group[-1] for group in history)
        self.label = replace(self.label, history=entries)

    def pruned(self, policy: Policy | None, *, dry_run: bool = False) -> PruneResult:
        declared = Declarations()
        if policy is not None:
            declared = Declarations(
                policy={"p": policy}, subclient={"s": Subclient(volumes=("srv",), policy="p")}
            )
        return Pruning(self.session, "srv", declared, CLOCK).run(dry_run=dry_run)


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    return House(monkeypatch)


BOTH = Policy(primary=ONE, history=ONE)


def test_the_oldest_go_together_and_each_run_by_itself(house: House) -> None:
    house.label = a_label(1, 2, 3, 4, 5, 6, 7)
    points = ids(house.label)
    house.records = [a_point(hours, area=uuid4()) for hours in (9, 8)]
    marked = [points[3], points[5]]
    house.records += [a_point(0, id=point, keep=True) for point in marked]
    result = house.pruned(BOTH)
    assert house.removed == [
        ({house.records[0].id}, {points[6]}),
        (set(), {points[1], points[2]}),
        (set(), {points[4]}),
    ]
    assert (result.error, result.exit_code) == (None, ExitCode.OK)
    assert result.policies == {"primary": "p", "history": "p"}


def test_a_dry_run_removes_nothing(house: House) -> None:
    house.label = a_label(1, 2, 3)
    result = house.pruned(BOTH, dry_run=True)
    assert house.removed == []
    assert [each.action for each in result.points] == [Action.DROP, Action.DROP, Action.STAY]


def test_one_without_room_keeps_no_other(house: House) -> None:
    house.label = a_label(1, 2, 3, 4, 5)
    points = ids(house.label)
    house.records = [a_point(0, id=point, keep=True) for point in (points[2], points[4])]
    house.failing = lambda earlier: NoSpaceError("no room") if points[1] in earlier else None
    result = house.pruned(BOTH)
    assert house.removed == [(set(), {points[3]})]
    assert (result.error, result.exit_code) == ("no room", ExitCode.NO_SPACE)
    left = {each.point: each for each in result.points}
    assert left[points[1]].stays
    assert left[points[1]].reason == "it could not go: no room"
    assert left[points[3]].action is Action.MERGE


def test_a_live_point_that_cannot_go_keeps_nothing_of_the_history(house: House) -> None:
    """Of those that were removed before it failed nobody says that they could not go."""
    house.label = a_label(1, 2, 3, 4)
    points = ids(house.label)
    house.records = [a_point(hours, area=uuid4()) for hours in (9, 8, 7)]
    house.records.append(a_point(0, id=points[2], keep=True))
    gone, stuck, _newest, _kept = house.records

    def failing(earlier: set[UUID]) -> Exception | None:
        if earlier != {points[3]} or gone not in house.records:
            return None
        house.records = [each for each in house.records if each is not gone]
        return BusyError("the device is open")

    house.failing = failing
    result = house.pruned(BOTH)
    assert house.removed == [(set(), {points[3]}), (set(), {points[1]})]
    assert (result.error, result.exit_code) == ("the device is open", ExitCode.BUSY)
    judged = {each.point: each for each in result.points}
    assert judged[gone.id].action is Action.DROP
    assert judged[stuck.id].reason == "it could not go: the device is open"
    assert not judged[points[3]].stays


@pytest.mark.parametrize("is_open", [False, True])
def test_a_history_that_cannot_be_changed_keeps_no_live_point(house: House, is_open: bool) -> None:
    """That is asked before anything goes. One that cannot go for itself does not either."""
    house.label = a_label(1, 2)
    points = ids(house.label)
    house.records = [a_point(hours, area=uuid4()) for hours in (9, 8, 7)]
    first, second, _newest = (point.id for point in house.records)

    def failing(earlier: set[UUID]) -> Exception | None:
        if earlier:
            return BusyError("the recovery volume is in use")
        house.records = [each for each in house.records if each.id != first]
        return BusyError("the device is open") if is_open else None

    house.failing = failing
    result = house.pruned(BOTH)
    assert house.removed == ([] if is_open else [({first, second}, set())])
    assert (result.error, result.exit_code) == ("the recovery volume is in use", ExitCode.BUSY)
    judged = {each.point: each for each in result.points}
    assert judged[first].action is Action.DROP
    assert judged[second].stays is is_open
    assert judged[points[1]].reason == "it could not go: the recovery volume is in use"


def test_a_run_that_has_no_room_together_goes_in_parts(house: House) -> None:
    """The oldest first; one whose turn comes too early has another."""
    house.label = a_label(1, 2, 3, 4, 5)
    points = ids(house.label)
    house.records = [a_point(0, id=points[4], keep=True)]
    asked: list[set[UUID]] = []

    def failing(earlier: set[UUID]) -> Exception | None:
        asked.append(earlier)
        too_early = earlier == {points[3]} and len(asked) == 2
        return NoSpaceError("no room") if len(earlier) > 1 or too_early else None

    house.failing = failing
    result = house.pruned(BOTH)
    assert house.removed == [(set(), {points[at]}) for at in (2, 1, 3)]
    assert (result.error, result.exit_code) == (None, ExitCode.OK)


def test_of_a_run_without_room_all_that_can_goes(house: House) -> None:
    house.label = a_label(1, 2, 3, 4, 5)
    points = ids(house.label)
    house.records = [a_point(0, id=points[4], keep=True)]
    house.failing = lambda earlier: NoSpaceError("no room") if points[3] in earlier else None
    result = house.pruned(BOTH)
    assert house.removed == [(set(), {points[at]}) for at in (2, 1)]
    assert (result.error, result.exit_code) == ("no room", ExitCode.NO_SPACE)


def test_a_volume_that_is_locked_says_so(house: House) -> None:
    house.locked = LockedError("srv is locked by 'dmsnap sync srv'")
    result = house.pruned(BOTH)
    assert (result.points, result.exit_code) == ((), ExitCode.LOCKED)


def test_a_recovery_volume_that_is_away_keeps_no_live_point(house: House) -> None:
    house.records = [a_point(hours, area=uuid4()) for hours in (9, 8)]
    house.unreadable = UnreachableError("the session is lost")
    looked = house.pruned(BOTH, dry_run=True)
    assert [each.action for each in looked.points] == [Action.DROP, Action.STAY]
    assert house.removed == []
    result = house.pruned(BOTH)
    assert house.wanted is Wanted.THERE
    assert house.removed == [({house.records[0].id}, set())]
    assert [each.action for each in result.points] == [Action.DROP, Action.STAY]
    for each in (looked, result):
        assert (each.error, each.exit_code) == ("the session is lost", ExitCode.UNREACHABLE)


def test_a_history_alone_wants_its_recovery_volume(house: House) -> None:
    house.pruned(Policy(make=Make.RECOVERY_VOLUME, history=ONE))
    assert house.wanted is Wanted.REPLICA


def test_without_its_label_any_may_be_the_oldest_that_waits(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.records = [a_point(hours, area=uuid4()) for hours in (60, 5, 4, 3)]
    house.unreadable = UnreachableError("the session is lost")
    monkeypatch.setattr(waiting, "waiting", lambda _session, volume: house.label_of(volume))
    monkeypatch.setattr(waiting, "holding", lambda *_: house.records)
    house.pruned(replace(BOTH, copy=CopyTable(delay=Duration(3600))))
    assert house.removed == [({house.records[0].id}, set())]


def test_what_is_left_alone(house: House) -> None:
    house.label = a_label(1, 2, 3)
    house.records = [a_point(hours, area=uuid4()) for hours in (9, 8)]
    (note,) = house.pruned(None).notes
    assert note == "srv is under no policy: it is left alone"
    notes = house.pruned(Policy()).notes
    assert [note.partition("points stay ")[2] for note in notes] == [
        "on the primary: of srv all stay there", "in the history: of srv all stay there",
    ]  # fmt: skip
    house.volume.state = VolumeState.TRIAL
    assert "is in state trial" in house.pruned(BOTH).notes[0]
    house.volume.state = VolumeState.PROTECTED
    house.label = replace(house.label, state=LabelState.APPLYING)
    far = Policy(make=Make.RECOVERY_VOLUME, history=ONE)
    assert "is applying: nothing goes from its history" in house.pruned(far).notes[0]
    house.volume.recovery = None
    assert "no recovery volume" in house.pruned(far).notes[0]
    assert house.removed == []


def test_what_a_sync_takes_for_itself_is_no_ones_point(house: House) -> None:
    house.records = [a_point(9, area=uuid4(), temporary=True), a_point(8, area=uuid4())]
    assert house.pruned(Policy(make=Make.SNAPSHOT, primary=ONE)).points[0].point == (
        house.records[1].id
    )
    assert house.removed == []


def test_a_mistake_in_the_configuration_prunes_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken() -> None:
        raise ConfigurationError("a mistake")

    monkeypatch.setattr(configuration_check, "require", mistaken)
    with pytest.raises(ConfigurationError):
        prune.prune(house.session)


def test_the_clock_is_asked_once_and_first(
    house: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[Path, bool]] = []

    def trusted_now(directory: Path, *, recording: bool) -> None:
        asked.append((directory, recording))

    declared = Declarations(
        policy={"p": BOTH}, subclient={"s": Subclient(volumes=("srv",), policy="p")}
    )
    house.label = a_label(1, 2, 3)
    house.session.configuration = SimpleNamespace(state_directory=tmp_path)
    house.catalogue.volumes = lambda: [house.volume]
    house.catalogue.volume = lambda _name: house.volume
    monkeypatch.setattr(clock_record, "trusted_now", trusted_now)
    monkeypatch.setattr(local_time, "zone", lambda: UTC)
    monkeypatch.setattr(configuration_check, "require", lambda: SimpleNamespace(declared=declared))
    (doubted,) = prune.prune(house.session)
    assert "the clock was set" in doubted.notes[-1]
    assert house.removed == []
    prune.prune(house.session, ["srv", "srv"], dry_run=True)
    assert asked == [(tmp_path, True), (tmp_path, False)]


def test_what_is_counted_to_be_copied_stays(house: House) -> None:
    """Of one that lets two pass there must be three, whatever retention would leave."""
    house.records = [a_point(hours, area=uuid4()) for hours in (5, 4, 3, 2)]
    house.waiting = house.records
    passing = replace(BOTH, copy=CopyTable(let_pass=2))
    judged = {each.point: each for each in house.pruned(passing, dry_run=True).points}
    rules = [judged[each.id].rules for each in house.records]
    assert rules == [(), (Rule.WAITING,), (Rule.WAITING,), (Rule.MINIMUM,)]
    house.pruned(passing)
    assert house.removed == [({house.records[0].id}, set())]
    # Where nothing is copied, nothing waits for it.
    house.removed = []
    house.pruned(replace(passing, make=Make.SNAPSHOT, history=None))
    assert house.removed == [({each.id for each in house.records[:3]}, set())]


def cut_off(house: House, live: list[UUID], earlier: list[UUID]) -> bool:
    """What a command does later about a prune that was cut off at dropping points."""
    arguments = {"live": list(map(str, live)), "earlier": list(map(str, earlier))}
    job: Any = SimpleNamespace(last_begun="drop-history", arguments=arguments)
    return prune.finish(house.session, house.volume, job)


def test_what_was_marked_since_it_was_cut_off_stays(house: House) -> None:
    house.label = a_label(1, 2, 3, 4, 5)
    points = ids(house.label)
    house.records = [a_point(hours, area=uuid4()) for hours in (9, 8, 7)]
    live = [each.id for each in house.records]
    house.records[0] = replace(house.records[0], keep=True)
    house.records[1] = replace(house.records[1], expires_ns=2**62)
    house.records.append(a_point(0, id=points[4], keep=True))
    house.label = keeping.with_mark(house.label, points[2], keep=True)
    assert cut_off(house, live, points[2:])
    assert house.removed == [({live[2]}, {points[3]})]


def test_what_has_a_time_of_its_own_stays_while_the_clock_is_in_doubt(house: House) -> None:
    """By a clock that is far ahead it would be over."""
    over = replace(a_point(9, area=uuid4()), expires_ns=1)
    for now_ns in (None, CLOCK.now_ns):
        house.records, house.now_ns = [over], now_ns
        assert cut_off(house, [over.id], [])
        assert house.removed == ([] if now_ns is None else [({over.id}, set())])


def test_what_is_in_use_since_it_was_cut_off_stays(house: House) -> None:
    house.label = a_label(1, 2, 3, 4)
    points = ids(house.label)
    used, free = a_point(9, area=uuid4()), a_point(8, area=uuid4())
    house.records, house.used = [used, free], {used.id, points[2]}
    assert cut_off(house, [used.id, free.id], points[2:])
    assert house.removed == [({free.id}, set())]
    house.removed, house.used = [], {used.id}
    assert cut_off(house, [used.id], [])
    assert house.removed == []


@pytest.mark.parametrize(
    ("marked_before", "marked_now", "used", "goes"),
    [
        (False, False, False, True),
        (False, True, False, False),
        (True, True, False, True),
        (False, False, True, False),
    ],
)
def test_a_deletion_that_was_cut_off_asks_again(
    house: House,
    monkeypatch: pytest.MonkeyPatch,
    marked_before: bool,
    marked_now: bool,
    used: bool,
    goes: bool,
) -> None:
    point = a_point(3, keep=marked_now)
    house.used = {point.id} if used else set()
    house.catalogue.find_point = lambda _point: point
    monkeypatch.setattr(deletion, "label_of", lambda _volume: house.label)
    monkeypatch.setattr(deletion, "list_points", lambda *_: [point])
    monkeypatch.setattr(deletion, "deletion", lambda *_: ("", "", (), ()))
    arguments = {"text": str(point.id), "keep": marked_before}
    job: Any = SimpleNamespace(last_begun="remove-live", arguments=arguments)
    assert deletion.finish_deletion(house.session, house.volume, job) is goes
    assert len(house.removed) == goes
