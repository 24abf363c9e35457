"""A year of a volume under a policy, on a clock that is set by mistake and on a host that is off.

Points are taken, copied and pruned as a policy's runs do it, by the same functions: what waits to
be copied stays, what no rule keeps goes, and ages count only while the clock can be trusted. Beside
each side runs a ledger of all that was ever there, by which every pruning is judged.
"""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from itertools import islice, pairwise
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
import retention_model

from dmsnap.policy import chronology, copying, retention
from dmsnap.policy.chronology import Reading
from dmsnap.policy.copying import Copying, Hours, WaitingPoint
from dmsnap.policy.retention import Action, AgingPoint, Decision, Retention, Rule

SECOND = 10**9
HOUR = 3600 * SECOND
DAY = 24 * HOUR
MIB = 2**20
START = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * SECOND
BERLIN = ZoneInfo("Europe/Berlin")

VOLUME_BYTES = 4096 * MIB
WRITTEN_AN_HOUR = 64 * MIB  # each hour other blocks, until the whole volume was written to
OFF = range(200 * DAY, 212 * DAY, DAY)
AHEAD = range(100 * DAY, 100 * DAY + 5 * HOUR, HOUR)  # the clock is a month ahead
MONTH_AHEAD = 30 * DAY
IN_DOUBT_HOURS = 2 * 24 + 12 * 24  # two settlings at most, and what the host was off
HELD_EVERY, HELD_DAYS = 17 * DAY, 6  # somebody mounts some point, and forgets it for a while


# A host that is off each night, and is alone for three days a month.
NIGHT_HOURS, ALONE_EVERY, ALONE_DAYS, SET_EVERY, SET_HOUR = 8, 30, 3, 60, 13


@dataclass(frozen=True, slots=True)
class Policy:
    """What a simulated policy says, and how old the replica may be by it, on a host that runs."""

    every_hours: int
    copying: Copying
    primary: Retention
    history: Retention
    oldest_copy_hours: int


POLICIES = {
    "at once": Policy(
        every_hours=3,
        copying=Copying(),
        primary=Retention(keep_seconds=12 * 3600),
        history=Retention(keep_seconds=2 * 86400, daily=14, weekly=8, monthly=12),
        oldest_copy_hours=3,
    ),
    "at night, later": Policy(
        every_hours=6,
        copying=Copying(delay_seconds=3 * 3600, hours=Hours.parse("22:00-06:00")),
        primary=Retention(minimum=2),
        history=Retention(hourly=10, daily=7, yearly=2),
        oldest_copy_hours=48,
    ),
    "behind by three": Policy(
        every_hours=6,
        copying=Copying(passed=3),
        primary=Retention(keep_seconds=86400),
        history=Retention(weekly=20),
        oldest_copy_hours=6 * 4,
    ),
}


class Ledger:
    """All that ever was on one side, and what the rules keep of it: what went is in it still.

    Times are the true ones; but what a clock that was behind dated is as old as that says, since
    nothing tells. What a wrong clock dated is in no period: it takes nobody's place.
    """

    def __init__(self, asked: Retention, zone: tzinfo) -> None:
        self.asked = asked
        self.zone = zone
        self.points: list[tuple[UUID, int]] = []
        self.marked: set[UUID] = set()
        periods = [rule for rule in retention_model.FORMATS if getattr(asked, rule.value)]
        self.newest: dict[Rule, dict[str, UUID]] = {rule: {} for rule in periods}

    def add(self, point: AgingPoint, true_ns: int) -> None:
        self.points.append((point.id, min(true_ns, point.created_ns)))
        if point.keep:
            self.marked.add(point.id)
        if point.created_ns == true_ns:
            for rule, newest in self.newest.items():
                newest[retention_model.period(point, rule, self.zone)] = point.id

    def kept(self, now_ns: int) -> set[UUID]:
        """The points that have to be there, whatever was pruned since they were taken."""
        kept = set(self.marked)
        kept |= {each for each, _ in islice(reversed(self.points), self.asked.minimum)}
        for each, true_ns in reversed(self.points):
            if now_ns - true_ns >= self.asked.keep_seconds * SECOND:
                break
            kept.add(each)
        for rule, newest in self.newest.items():
            kept |= set(islice(reversed(newest.values()), getattr(self.asked, rule.value)))
        return kept


class Host:
    """A volume, what is on its two sides, and a wall clock that need not be right."""

    is_often_wrong = False  # so that others may stay for longer, too

    def __init__(self, policy: Policy, zone: tzinfo, dice: random.Random) -> None:
        self.policy = policy
        self.zone = zone
        self.dice = dice
        self.live: list[AgingPoint] = []
        self.history: list[AgingPoint] = []
        self.taken, self.copied = Ledger(policy.primary, zone), Ledger(policy.history, zone)
        self.taken_at: dict[UUID, int] = {}  # in true time
        self.readings: list[Reading] = []
        self.boot_id = "1"
        self.lost: set[UUID] = set()  # gone before they were copied
        self.held: UUID | None = None
        self.held_until_ns = 0
        self.true_ns = START

    def hour(self, passed_ns: int) -> None:
        """One hour of its timers, ``passed_ns`` after the beginning."""
        wall_ns = START + passed_ns + (MONTH_AHEAD if passed_ns in AHEAD else 0)
        self.run(passed_ns, wall_ns, self.trusted(Reading(wall_ns, passed_ns, self.boot_id)))

    def run(self, passed_ns: int, wall_ns: int, now_ns: int | None) -> None:
        true_ns = START + passed_ns
        self.true_ns = true_ns
        self.look(passed_ns)
        if passed_ns // HOUR % self.policy.every_hours == 0:
            number = len(self.taken_at)
            point = AgingPoint(UUID(int=number), wall_ns, keep=number % 400 == 399)
            self.live.append(point)
            self.taken_at[point.id] = true_ns
            self.taken.add(point, true_ns)
        self.copy(wall_ns)
        self.prune(now_ns)
        if number_of_day(passed_ns) % 90 == 89:
            self.history, self.live = (
                [replace(each, keep=False) for each in side] for side in (self.history, self.live)
            )
            self.taken.marked.clear()
            self.copied.marked.clear()

    def look(self, passed_ns: int) -> None:
        """Somebody mounts a point, on whichever side it is, and unmounts it days later."""
        found = [*self.live, *self.history]
        if found and passed_ns % HELD_EVERY == 0:
            self.held = self.dice.choice(found).id
            self.held_until_ns = passed_ns + self.dice.randint(2, HELD_DAYS) * DAY
        elif passed_ns >= self.held_until_ns:
            self.held = None

    def trusted(self, reading: Reading, *, synchronised: bool = False) -> int | None:
        now_ns = chronology.trusted_now(
            self.readings, reading, own_clock=True, synchronised=synchronised
        )
        self.readings = chronology.worth_keeping(self.readings, reading, own_clock=True)
        return now_ns

    @property
    def waiting(self) -> list[WaitingPoint]:
        """Live points that are newer than what the recovery volume holds."""
        newest = self.history[-1].id.int if self.history else -1
        return [
            WaitingPoint(each.id, each.created_ns) for each in self.live if each.id.int > newest
        ]

    def copy(self, wall_ns: int) -> None:
        """All that is due."""
        while True:
            found = copying.next_copy(self.waiting, self.policy.copying, wall_ns, self.zone)
            if found is None or found.due_ns > wall_ns:
                return
            (point,) = [each for each in self.live if each.id == found.point]
            self.history.append(point)
            self.copied.add(point, self.taken_at[point.id])

    def prune(self, now_ns: int | None) -> None:
        waiting: frozenset[UUID] = frozenset()
        if now_ns is not None:
            waiting = copying.still_to_copy(self.waiting, self.policy.copying, now_ns)
        uncopied = {each.id for each in self.waiting}
        before = self.live, self.history
        live, earlier = ([self.as_used(each) for each in side] for side in before)
        primary = retention.of_primary(live, self.policy.primary, now_ns, self.zone)
        history = retention.of_history(earlier, self.policy.history, now_ns, self.zone)
        if now_ns is None:
            assert all(each.action is Action.STAY for each in (*primary, *history))
        went = {each.point for each in primary if each.action is not Action.STAY} - waiting
        self.lost |= went & uncopied
        self.live = [each for each in self.live if each.id not in went]
        self.history = staying(self.history, history)
        has_gone = (len(self.live), len(self.history)) != (len(live), len(earlier))
        if now_ns is not None and has_gone:
            in_use = {each.id for each in before[0] if each.id == self.held}
            self.check(before[0], self.live, self.taken.kept(self.true_ns) | in_use, waiting)
            replica = {each.id for each in self.history[-1:]}
            kept = self.copied.kept(self.true_ns) | self.chained(before[1])
            self.check(before[1], self.history, kept, replica)

    def as_used(self, point: AgingPoint) -> AgingPoint:
        return replace(point, held=True) if point.id == self.held else point

    def chained(self, history: Sequence[AgingPoint]) -> set[UUID]:
        """The point of a history that is in use, and all through which it is read."""
        ids, held = [each.id for each in history], self.held
        return set(ids[ids.index(held) :]) if held is not None and held in ids else set()

    def check(
        self,
        before: Sequence[AgingPoint],
        points: Sequence[AgingPoint],
        kept: Collection[UUID],
        excused: Collection[UUID],
    ) -> None:
        """Nothing has gone, ever, that a rule keeps; and nothing is there that none does.

        What a wrong clock dated may stay for longer: it counts as young as it can be. As long as
        it passes for the newest of a period, another may be in place of that which is.
        """
        there = {each.id for each in points}
        assert there.issuperset(kept)
        dated = {each.id for each in before if each.created_ns != self.taken_at[each.id]}
        others = there - {*kept, *excused, *dated}
        assert self.is_often_wrong or len(others) <= len(dated)

    def behind_ns(self, passed_ns: int) -> int:
        """How old the replica is."""
        return START + passed_ns - self.taken_at[self.history[-1].id]

    def used_bytes(self, passed_ns: int) -> int:
        """What the COW stores of live points and the undo stores of the history take."""
        times = [self.taken_at[each.id] for each in self.history]
        spans = [after - before for before, after in pairwise(times)]
        spans += [START + passed_ns - self.taken_at[each.id] for each in self.live]
        return sum(min(span // HOUR * WRITTEN_AN_HOUR, VOLUME_BYTES) for span in spans)


class NightlyHost(Host):
    """One whose own clock is dead, and that is off each night: it goes on where it was, until it is
    told the time. On some days there is nobody to tell it, and on the last of some of them somebody
    sets it: a clock that is wrong for a day and steady is believed, whoever it is of.
    """

    is_often_wrong = True

    def __init__(self, policy: Policy, zone: tzinfo, dice: random.Random) -> None:
        super().__init__(policy, zone, dice)
        self.off_by_ns = 0
        self.synchronised = False
        self.trusting: list[int] = []  # days on which something may go

    def hour(self, passed_ns: int) -> None:
        day, hour = number_of_day(passed_ns), passed_ns % DAY // HOUR
        if hour < NIGHT_HOURS:
            return
        own_is_dead = True
        if hour == NIGHT_HOURS:
            self.boot_id, self.synchronised = str(day), False
            self.off_by_ns -= NIGHT_HOURS * HOUR if day else 0
        elif day % ALONE_EVERY >= ALONE_DAYS:
            self.synchronised, self.off_by_ns, own_is_dead = True, 0, False
        elif day % SET_EVERY == ALONE_DAYS - 1 and hour == SET_HOUR:
            self.off_by_ns, own_is_dead = self.dice.choice([-3, 2, 5]) * DAY, False
        wall_ns = START + passed_ns + self.off_by_ns
        up_ns = (hour - NIGHT_HOURS) * HOUR + 30 * SECOND
        lost = own_is_dead and chronology.has_lost_time(self.readings, self.boot_id, 0)
        reading = Reading(wall_ns, up_ns, self.boot_id, lost)
        now_ns = self.trusted(reading, synchronised=self.synchronised)
        if now_ns is not None:
            # Never later than it is: what would go by that is too young.
            assert now_ns <= START + passed_ns + chronology.TOLERANCE_NS
            self.trusting.append(day)
        self.run(passed_ns, wall_ns, now_ns)


def staying(points: Sequence[AgingPoint], decisions: Sequence[Decision]) -> list[AgingPoint]:
    actions = [each.action for each in decisions]
    return [point for point, action in zip(points, actions, strict=True) if action is Action.STAY]


def number_of_day(passed_ns: int) -> int:
    return passed_ns // DAY


@pytest.mark.parametrize("name", POLICIES)
def test_a_year(name: str) -> None:
    policy = POLICIES[name]
    host = Host(policy, BERLIN, random.Random(name))
    bounds = most_points(policy)
    used: list[int] = []
    for passed_ns in range(0, 365 * DAY, HOUR):
        if OFF.start <= passed_ns < OFF.stop:
            host.boot_id = "2"
            continue
        host.hour(passed_ns)
        since_off_ns = passed_ns - OFF.stop
        if passed_ns > 3 * DAY and not 0 <= since_off_ns < 3 * DAY:
            assert host.behind_ns(passed_ns) <= policy.oldest_copy_hours * HOUR
        assert len(host.live) <= bounds[0]
        assert len(host.history) <= bounds[1]
        used.append(host.used_bytes(passed_ns) if host.held is None else 0)
    assert len(host.taken_at) >= 352 * 24 // policy.every_hours
    assert not host.lost
    second, last = (max(used[quarter]) for quarter in (quarter_of(used, 1), quarter_of(used, 3)))
    assert last <= second + most_growth_bytes(policy)


def test_a_year_of_nights() -> None:
    """What goes does so on all days but few; nothing ever goes that is too young for it."""
    # By ages alone: which day a point is of, a clock that stood still for a night may get wrong.
    history = Retention(keep_seconds=14 * 86400, minimum=3)
    policy = replace(POLICIES["at once"], history=history)
    host = NightlyHost(policy, BERLIN, random.Random(7))
    bounds = most_points(policy)
    for passed_ns in range(0, 365 * DAY, HOUR):
        host.hour(passed_ns)
        assert len(host.live) <= bounds[0]
        assert len(host.history) <= bounds[1]
    assert len(set(host.trusting)) > 365 * 3 // 4
    assert not host.lost


def quarter_of(used: Sequence[int], number: int) -> slice:
    length = len(used) // 4
    return slice(number * length, (number + 1) * length)


def most_points(policy: Policy) -> tuple[int, int]:
    """What may be on each side: what the rules keep, marked ones, what came in doubt or was read
    through while a point was in use.
    """
    in_doubt = IN_DOUBT_HOURS // policy.every_hours
    marked = 365 * 24 // policy.every_hours // 400 + 1
    found = []
    for asked in (policy.primary, policy.history):
        by_age = asked.keep_seconds // 3600 // policy.every_hours + 1
        periods = asked.hourly + asked.daily + asked.weekly + asked.monthly + asked.yearly
        found.append(by_age + periods + asked.minimum + marked + in_doubt)
    waiting = policy.copying.passed + policy.oldest_copy_hours // policy.every_hours + 1
    return found[0] + waiting + 1, found[1] + HELD_DAYS * 24 // policy.every_hours


def most_growth_bytes(policy: Policy) -> int:
    """Undo stores of months and years that had not begun in the second quarter, and a mark."""
    return (min(policy.history.monthly, 6) + policy.history.yearly + 1) * VOLUME_BYTES
