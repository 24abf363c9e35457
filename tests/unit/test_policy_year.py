"""A year of a volume under a policy, on a clock that is set by mistake and on a host that is off.

Points are taken, copied and pruned as a policy's runs do it, by the same functions: what waits to
be copied stays, what no rule keeps goes, and ages count only while the clock can be trusted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, tzinfo
from itertools import pairwise
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
import retention_model

from dmsnap.policy import chronology, copying, retention
from dmsnap.policy.chronology import Reading
from dmsnap.policy.copying import Copying, Hours, WaitingPoint
from dmsnap.policy.retention import Action, AgingPoint, Decision, Retention

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


@dataclass(slots=True)
class Host:
    """A volume, what is on its two sides, and a wall clock that need not be right."""

    policy: Policy
    zone: tzinfo
    live: list[AgingPoint] = field(default_factory=list)
    history: list[AgingPoint] = field(default_factory=list)
    taken_at: dict[UUID, int] = field(default_factory=dict)  # in true time
    readings: list[Reading] = field(default_factory=list)
    boot_id: str = "1"
    lost: set[UUID] = field(default_factory=set)  # gone before they were copied

    def hour(self, passed_ns: int) -> None:
        """One hour of its timers, ``passed_ns`` after the beginning."""
        true_ns = START + passed_ns
        wall_ns = true_ns + (MONTH_AHEAD if passed_ns in AHEAD else 0)
        now_ns = self.trusted(Reading(wall_ns, passed_ns, self.boot_id))
        if passed_ns // HOUR % self.policy.every_hours == 0:
            number = len(self.taken_at)
            point = AgingPoint(UUID(int=number), wall_ns, keep=number % 400 == 399)
            self.live.append(point)
            self.taken_at[point.id] = true_ns
        self.copy(wall_ns)
        self.prune(now_ns)
        if number_of_day(passed_ns) % 90 == 89:
            self.history, self.live = (
                [replace(each, keep=False) for each in side] for side in (self.history, self.live)
            )

    def trusted(self, reading: Reading) -> int | None:
        now_ns = chronology.trusted_now(self.readings, reading)
        self.readings = chronology.worth_keeping(self.readings, reading)
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
            self.history += [each for each in self.live if each.id == found.point]

    def prune(self, now_ns: int | None) -> None:
        held: frozenset[UUID] = frozenset()
        if now_ns is not None:
            held = copying.still_to_copy(self.waiting, self.policy.copying, now_ns)
        uncopied = {each.id for each in self.waiting}
        primary = retention.of_primary(self.live, self.policy.primary, now_ns, self.zone)
        history = retention.of_history(self.history, self.policy.history, now_ns, self.zone)
        if now_ns is None:
            assert all(each.action is Action.STAY for each in (*primary, *history))
        self.check(primary, history, now_ns)
        went = {each.point for each in primary if each.action is not Action.STAY} - held
        self.lost |= went & uncopied
        self.live = [each for each in self.live if each.id not in went]
        self.history = staying(self.history, history)

    def check(
        self, primary: Sequence[Decision], history: Sequence[Decision], now_ns: int | None
    ) -> None:
        """Now and then against the slow model, which knows only clocks that never jumped."""
        times = [each.created_ns for each in (*self.live, *self.history)]
        if now_ns is None or len(self.taken_at) % 61 or max(times, default=0) > now_ns:
            return
        for points, decisions, asked in (
            (self.live, primary, self.policy.primary),
            (self.history, history, self.policy.history),
        ):
            if points != sorted(points, key=lambda each: each.created_ns):
                continue
            kept = retention_model.rules_of(points, asked, now_ns, self.zone)
            for rules, decision in zip(kept, decisions, strict=True):
                is_replica = decision.point == points[-1].id and decisions is history
                assert (bool(rules) or is_replica) is (decision.action is Action.STAY)

    def behind_ns(self, passed_ns: int) -> int:
        """How old the replica is."""
        return START + passed_ns - self.taken_at[self.history[-1].id]

    def used_bytes(self, passed_ns: int) -> int:
        """What the COW stores of live points and the undo stores of the history take."""
        times = [self.taken_at[each.id] for each in self.history]
        spans = [after - before for before, after in pairwise(times)]
        spans += [START + passed_ns - self.taken_at[each.id] for each in self.live]
        return sum(min(span // HOUR * WRITTEN_AN_HOUR, VOLUME_BYTES) for span in spans)


def staying(points: Sequence[AgingPoint], decisions: Sequence[Decision]) -> list[AgingPoint]:
    actions = [each.action for each in decisions]
    return [point for point, action in zip(points, actions, strict=True) if action is Action.STAY]


def number_of_day(passed_ns: int) -> int:
    return passed_ns // DAY


@pytest.mark.parametrize("name", POLICIES)
def test_a_year(name: str) -> None:
    policy = POLICIES[name]
    host = Host(policy, BERLIN)
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
        used.append(host.used_bytes(passed_ns))
    assert len(host.taken_at) >= 352 * 24 // policy.every_hours
    assert not host.lost
    second, last = (max(used[quarter]) for quarter in (quarter_of(used, 1), quarter_of(used, 3)))
    assert last <= second + most_growth_bytes(policy)


def quarter_of(used: Sequence[int], number: int) -> slice:
    length = len(used) // 4
    return slice(number * length, (number + 1) * length)


def most_points(policy: Policy) -> tuple[int, int]:
    """What may be on each side: what the rules keep, marked ones, and what came in doubt."""
    in_doubt = IN_DOUBT_HOURS // policy.every_hours
    marked = 365 * 24 // policy.every_hours // 400 + 1
    found = []
    for asked in (policy.primary, policy.history):
        by_age = asked.keep_seconds // 3600 // policy.every_hours + 1
        periods = asked.hourly + asked.daily + asked.weekly + asked.monthly + asked.yearly
        found.append(by_age + periods + asked.minimum + marked + in_doubt)
    waiting = policy.copying.passed + policy.oldest_copy_hours // policy.every_hours + 1
    return found[0] + waiting, found[1]


def most_growth_bytes(policy: Policy) -> int:
    """Undo stores of months and years that had not begun in the second quarter, and a mark."""
    return (min(policy.history.monthly, 6) + policy.history.yearly + 1) * VOLUME_BYTES
