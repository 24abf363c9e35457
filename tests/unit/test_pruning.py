"""What would go of a volume by what is so now, and by whose policy."""

from dataclasses import replace
from datetime import UTC
from uuid import UUID, uuid4

from dmsnap._native.label import HistoryEntry, HistoryFlag, Label, LabelState
from dmsnap.catalogue.model import Point
from dmsnap.policy.retention import Action, Retention, Rule
from dmsnap.service.configuration import coherence
from dmsnap.service.configuration.declaration import Declarations, Make, Policy, Subclient
from dmsnap.service.points import pruning
from dmsnap.service.points.pruning import Clock, JudgedPoint, Side

HOUR = 3600 * 10**9
NOW = 1_790_000_000 * 10**9
CLOCK = Clock(NOW, UTC)
DOUBT = Clock(None, UTC)
LAST = Retention(minimum=1)
UNMARKED = HistoryFlag(0)


def a_point(hours_ago: int, era: int = 0, area: UUID | None = None, **more: object) -> Point:
    point = Point(
        id=uuid4(), volume_id=UUID(int=1), created_ns=NOW - hours_ago * HOUR, keep=False,
        temporary=False, era_since=era, tracking_id="x", window_seconds=0.001, area_id=area,
    )  # fmt: skip
    return replace(point, **more)  # type: ignore[arg-type]


def a_label(*hours_ago: int, flags: HistoryFlag = UNMARKED) -> Label:
    """The replica's point and those of its history, newest first."""
    newest, *earlier = hours_ago
    entries = [
        HistoryEntry(uuid4(), NOW - hours * HOUR, 4096 * number, 4096, 8, flags)
        for number, hours in enumerate(earlier, start=1)
    ]
    return Label(
        generation=3, size_bytes=4096, volume_uuid=uuid4(), recovery_uuid=uuid4(),
        state=LabelState.CONSISTENT, flags=flags, point_uuid=uuid4(),
        point_time_ns=NOW - newest * HOUR, next_point_uuid=None, next_point_time_ns=0,
        history_offset_bytes=4096, history_length_bytes=4096 * 64, name="srv", fs_type="",
        fs_uuid="", host="", history=tuple(entries),
    )  # fmt: skip


def actions(judged: list[JudgedPoint]) -> dict[UUID, Action]:
    return {each.point: each.action for each in judged}


def ids(label: Label) -> list[UUID]:
    """The points of a label, newest first."""
    assert label.point_uuid is not None
    return [label.point_uuid, *(entry.point_uuid for entry in label.history)]


# the primary


def test_the_order_is_that_of_eras_and_stacks() -> None:
    """Whatever the clock said: a stack's eras rise, and stacks follow each other."""
    first, second = uuid4(), uuid4()
    points = [
        a_point(1, era=9, area=first), a_point(7, era=3, area=second),
        a_point(5, era=2, area=first), a_point(3, era=2, area=second),
    ]  # fmt: skip
    ordered = pruning.in_order(points, {first: 1, second: 2})
    assert ordered == [points[2], points[0], points[3], points[1]]


def test_without_eras_the_records_are_in_order_of_time() -> None:
    """As after a rebuild of the catalogue."""
    points = [a_point(1), a_point(3), a_point(2)]
    assert pruning.in_order(points, {}) == [points[1], points[2], points[0]]


def test_a_point_that_is_lost_takes_no_place_of_a_good_one() -> None:
    good, lost = a_point(3), a_point(1, invalid_reason="the kernel reports it as Invalid")
    judged = pruning.of_primary([good, lost], (), LAST, CLOCK)
    assert actions(judged) == {lost.id: Action.DROP, good.id: Action.STAY}
    assert judged[0].reason == "it is lost: the kernel reports it as Invalid"
    assert {each.side for each in judged} == {Side.PRIMARY}


def test_a_point_that_is_lost_stays_while_it_is_marked_or_in_use() -> None:
    marked = a_point(3, invalid_reason="lost", keep=True)
    used = a_point(2, invalid_reason="lost")
    judged = pruning.of_primary([marked, used], {used.id}, LAST, CLOCK)
    assert [(each.action, each.rules) for each in judged] == [
        (Action.STAY, (Rule.KEEP,)), (Action.STAY, (Rule.HELD,)),
    ]  # fmt: skip


def test_a_clock_in_doubt_keeps_the_good_ones() -> None:
    points = [a_point(hours) for hours in (900, 500, 1)]
    judged = pruning.of_primary(points, (), LAST, DOUBT)
    assert set(actions(judged).values()) == {Action.STAY}
    assert all(Rule.CLOCK in each.rules for each in judged)


# the history


def test_what_goes_of_a_history() -> None:
    label = a_label(1, 2, 3, 4, 5)
    points = ids(label)
    judged = pruning.of_history(label, {points[3]: a_point(4, keep=True)}, (), LAST, CLOCK)
    assert actions(judged) == {
        points[4]: Action.DROP, points[3]: Action.STAY, points[2]: Action.MERGE,
        points[1]: Action.MERGE, points[0]: Action.STAY,
    }  # fmt: skip
    assert [each.created_ns for each in judged] == [NOW - hours * HOUR for hours in (5, 4, 3, 2, 1)]


def test_marks_of_the_label_count() -> None:
    label = a_label(1, 2, 3, flags=HistoryFlag.KEEP)
    judged = pruning.of_history(label, {}, (), LAST, CLOCK)
    assert set(actions(judged).values()) == {Action.STAY}


def test_a_time_of_its_own_is_in_the_record() -> None:
    """Of either side; in the history its undo store is merged or dropped as any other's."""
    label = a_label(1, 2, 3, 4)
    points = ids(label)
    records = {
        points[1]: a_point(2, expires_ns=NOW), points[2]: a_point(3, expires_ns=NOW + 1),
    }  # fmt: skip
    judged = pruning.of_history(label, records, (), Retention(keep_seconds=9 * 3600), CLOCK)
    assert actions(judged) == {
        points[3]: Action.STAY, points[2]: Action.STAY, points[1]: Action.MERGE,
        points[0]: Action.STAY,
    }  # fmt: skip
    live = [a_point(3, expires_ns=NOW), a_point(2, expires_ns=NOW + 1), a_point(1)]
    found = pruning.of_primary(live, (), LAST, CLOCK)
    assert [each.action for each in found] == [Action.DROP, Action.STAY, Action.STAY]


def test_one_point_in_use_holds_all() -> None:
    """Also those that are older: whoever shows it has the recovery volume."""
    label = a_label(1, 2, 3, 4)
    points = ids(label)
    judged = {each.point: each for each in pruning.of_history(label, {}, {points[2]}, LAST, CLOCK)}
    assert {each.action for each in judged.values()} == {Action.STAY}
    assert judged[points[2]].reason == "it is in use"
    assert judged[points[3]].reason == "another point of the recovery volume is in use"
    assert judged[points[1]].rules == (Rule.CHAIN,)


def test_what_shows_the_replica_holds_all() -> None:
    label = a_label(1, 2, 3)
    judged = pruning.of_history(label, {}, {ids(label)[0]}, LAST, CLOCK)
    assert {each.action for each in judged} == {Action.STAY}


def test_a_use_of_the_primary_holds_nothing_of_the_history() -> None:
    label = a_label(1, 2)
    judged = pruning.of_history(label, {}, {uuid4()}, LAST, CLOCK)
    assert actions(judged)[ids(label)[1]] is Action.DROP


# whose policy


def test_each_side_may_have_a_policy_of_its_own() -> None:
    declared = Declarations(
        policy={
            "fast": Policy(make=Make.SNAPSHOT),
            "far": Policy(make=Make.RECOVERY_VOLUME),
            "both": Policy(),
        },
        subclient={
            "all": Subclient(volumes=("a", "b"), policy="fast"),
            "some": Subclient(include=("inner",), policy="far"),
            "inner": Subclient(volumes=("b",)),
            "rest": Subclient(volumes=("c",), policy="both"),
            "none": Subclient(volumes=("d",)),
        },
    )
    assert coherence.policies_of(declared, "a") == {"primary": "fast"}
    assert coherence.policies_of(declared, "b") == {"primary": "fast", "history": "far"}
    assert coherence.policies_of(declared, "c") == {"primary": "both", "history": "both"}
    assert coherence.policies_of(declared, "d") == {}
