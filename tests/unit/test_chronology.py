"""Which times are believed, and when the clock is in doubt."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from dmsnap.policy import chronology
from dmsnap.policy.chronology import Reading, has_jumped, moments

SECOND = 10**9
HOUR = 3600 * SECOND
DAY = 24 * HOUR
WALL = 1_800_000_000 * SECOND

times = st.lists(st.integers(0, 30), max_size=9)


def longest_rising(values: list[int]) -> int:
    """The length, by trying all."""
    return max(
        len(chosen)
        for length in range(len(values) + 1)
        for chosen in combinations(values, length)
        if list(chosen) == sorted(chosen)
    )


@given(times, st.integers(0, 30))
def test_as_many_times_are_believed_as_fit_together(created: list[int], now: int) -> None:
    found = moments(created, now)
    longest = longest_rising([*created, now])
    if found is None:
        assert longest > longest_rising([time for time in created if time <= now]) + 1
        return
    assert sum(each.believed for each in found) == longest - 1
    for index, (time, each) in enumerate(zip(created, found, strict=True)):
        following = [later.latest_ns for later in found[index + 1 :] if later.believed]
        expected = time if each.believed else min([*following, now])
        assert each.latest_ns == max(expected, time if time <= now else 0)


@given(st.lists(st.integers(0, 10**18), max_size=50).map(sorted))
def test_a_clock_that_never_jumped_is_believed(created: list[int]) -> None:
    found = moments(created, 10**18)
    assert found is not None
    assert [each.latest_ns for each in found] == created
    assert all(each.believed for each in found)


def all_longest(created: list[int], now: int) -> list[set[int]]:
    """The longest series that rise and end in the present, by trying all, as indexes."""
    length = longest_rising([*(time for time in created if time <= now), now]) - 1
    return [
        set(chosen)
        for chosen in combinations(range(len(created)), length)
        if (series := [*(created[index] for index in chosen), now]) == sorted(series)
    ]


@given(times, st.integers(0, 30))
def test_of_series_that_are_as_long_the_one_is_believed_by_which_all_are_younger(
    created: list[int], now: int
) -> None:
    """What goes by a wrong one nobody can bring back."""
    if (found := moments(created, now)) is None:
        return
    for chosen in all_longest(created, now):
        for index, (time, each) in enumerate(zip(created, found, strict=True)):
            following = [created[other] for other in chosen if other > index]
            latest = time if index in chosen else min([*following, now])
            assert each.latest_ns >= max(latest, time if time <= now else 0)


def test_a_clock_that_began_anew_for_as_many_points_as_were_right_is_not_believed() -> None:
    for turns in (1, 5):
        right = [(100 + number) * DAY for number in range(2 * turns)]
        created = [time for pair in zip(right[::2], range(turns), strict=True) for time in pair]
        found = moments([*created, right[-1]], 200 * DAY)
        assert found is not None
        assert all(each.latest_ns >= 100 * DAY for each in found)
        assert [each.believed for each in found] == [True, False] * turns + [True]


def test_thousands_of_points_take_no_time_to_speak_of() -> None:
    found = moments([*range(100_000), *range(50_000)], 200_000)
    assert found is not None
    assert sum(each.believed for each in found) == 100_000


def trusted_now(
    earlier: Sequence[Reading],
    now: Reading,
    *,
    own_clock: bool = False,
    synchronised: bool = False,
) -> int | None:
    """As of a host without a clock of its own, of which less is known."""
    return chronology.trusted_now(earlier, now, own_clock=own_clock, synchronised=synchronised)


def worth_keeping(
    earlier: Sequence[Reading], now: Reading, *, own_clock: bool = False
) -> list[Reading]:
    return chronology.worth_keeping(earlier, now, own_clock=own_clock)


def reading(hours: float, *, wall_off: int = 0, boot: str = "a") -> Reading:
    return Reading(WALL + int(hours * HOUR) + wall_off, int(hours * HOUR), boot)


def test_a_clock_that_runs_is_trusted() -> None:
    readings = [reading(hour) for hour in range(100)]
    assert trusted_now(readings, reading(100)) == reading(100).wall_ns
    assert trusted_now([], reading(0)) == WALL


def test_a_clock_that_was_set_is_in_doubt_for_a_day() -> None:
    for offset in (-DAY, DAY):
        before = [reading(hour) for hour in range(10)]
        after = [reading(hour, wall_off=offset) for hour in range(10, 35)]
        for count in range(24):
            assert trusted_now(before + after[:count], after[count]) is None
        assert trusted_now(before + after[:-1], after[-1]) == after[-1].wall_ns


def test_small_corrections_are_no_jump() -> None:
    assert trusted_now([reading(0)], reading(1, wall_off=200 * SECOND)) is not None
    # Nor are they when they add up: each of them is none.
    drifting = [reading(hour, wall_off=hour * 100 * SECOND) for hour in range(20)]
    assert trusted_now(drifting[:-1], drifting[-1]) is not None


def test_over_a_reboot_only_what_is_unlikely_is_a_jump() -> None:
    off = reading(0)
    for vouched, longest in ((False, 24), (True, 24 * 7)):
        for hours, jumped in ((-1, True), (0, False), (longest, False), (longest + 1, True)):
            woken = Reading(off.wall_ns + hours * HOUR, 5 * SECOND, "b")
            assert has_jumped(off, woken, vouched=vouched) is jumped
    late = Reading(off.wall_ns + 60 * DAY, 0, "b")
    assert trusted_now([off], late) is None
    settled = replace(late, wall_ns=late.wall_ns + DAY, boottime_ns=DAY)
    assert trusted_now([off, late], settled) == settled.wall_ns


def early(hours: float, seconds: int, boot: str = "b") -> Reading:
    return Reading(WALL + int(hours * HOUR), seconds * SECOND, boot)


def test_a_clock_that_is_set_while_the_host_boots_is_believed() -> None:
    """One without a clock of its own: it begins with what it finds on its disk, or in 1970."""
    before = early(100, 360_000, "a")
    for unset in (100, -400_000):
        readings = [before, early(unset, 30), early(unset, 60)]
        assert trusted_now(readings, early(108, 90)) == early(108, 90).wall_ns
    # It is held against the boot before.
    for hours, synchronised in ((99, True), (100 + 24 * 8, True), (100 + 25, False)):
        now = early(hours, 90)
        assert trusted_now([before, early(100, 30)], now, synchronised=synchronised) is None
    # What was set before, or is set later, is no less a jump.
    assert trusted_now([early(20, 300_000, "a"), before, early(100, 30)], early(108, 90)) is None
    running = [before, early(100, 30), early(104.9, 17_670)]
    assert trusted_now(running, early(113, 18_000)) is None
    assert trusted_now(running[:2], early(113, 18_000)) is None


def test_a_clock_that_was_right_and_is_set_while_the_host_boots_is_in_doubt() -> None:
    """One that has a clock of its own was off for a moment, and is set on by days then: against the
    boot before that is what may be the truth.
    """
    off, booted, wrong = early(100, 360_000, "a"), early(100.1, 30), early(100 + 24 * 6, 90)
    assert trusted_now([off, booted], wrong, own_clock=True) is None
    assert trusted_now([off, booted], early(100.11, 90), own_clock=True) is not None
    kept: list[Reading] = []
    for now in (off, booted, wrong):
        kept = worth_keeping(kept, now, own_clock=True)
    for hours in (1, 23):
        later = early(100 + 24 * 6 + hours, 90 + hours * 3600)
        assert trusted_now(kept, later, own_clock=True) is None
        kept = worth_keeping(kept, later, own_clock=True)
    settled = early(100 + 24 * 7, 90 + 24 * 3600)
    assert trusted_now(kept, settled, own_clock=True) == settled.wall_ns


def lost(hours: float, seconds: int, boot: str = "b") -> Reading:
    return replace(early(hours, seconds, boot), lost=True)


def test_a_clock_that_had_lost_the_time_is_believed_once_others_tell_it() -> None:
    """The host's own had stood still: what the boot began with was no time at all. From the disk it
    may be moved on to where the host went down, and whenever the network is there to what it is.
    """
    before = early(100, 360_000, "a")
    for unset in (100, -400_000):
        for seconds in (90, 20_000):
            kept = [before]
            now = early(112 + seconds / 3600, seconds)
            for each in (lost(-400_000, 10), lost(unset, 40), now):
                assert trusted_now(kept, now, own_clock=True, synchronised=True) == now.wall_ns
                assert trusted_now([*kept, lost(unset, 41)], now, own_clock=True) is None
                kept = worth_keeping(kept, each, own_clock=True)
            # What was known before stays known, for whoever asks later whether it is kept right.
            later = early(115 + seconds / 3600, seconds + 3 * 3600)
            assert trusted_now(kept, later, own_clock=True, synchronised=True) == later.wall_ns
            assert trusted_now(kept, later, own_clock=True) is None
    # It is held against the boot before, and what was set before that, or is set later, is a jump.
    readings = [before, lost(100, 30)]
    for hours in (99, 100 + 24 * 8):
        now = early(hours, 90)
        assert trusted_now(readings, now, own_clock=True, synchronised=True) is None
    jumped = [early(20, 300_000, "a"), *readings]
    assert trusted_now(jumped, early(108, 90), own_clock=True, synchronised=True) is None
    running = [*readings, early(104.9, 17_670)]
    assert trusted_now(running, early(113, 18_000), own_clock=True, synchronised=True) is None
    # One that has run while the host was off is another matter, whoever tells the time now.
    ran = [before, early(100.1, 30)]
    assert trusted_now(ran, early(100 + 24 * 5, 90), own_clock=True, synchronised=True) is None


def test_an_own_clock_is_lost_that_is_behind_the_boot_before() -> None:
    earlier = [early(100, 360_000, "a"), early(-400_000, 30)]
    for days, is_lost in ((-1.01, True), (-0.99, False), (0, False), (400, False)):
        own_ns = earlier[0].wall_ns + int(days * DAY)
        assert chronology.has_lost_time(earlier, "b", own_ns) is is_lost
    assert not chronology.has_lost_time([], "b", 0)
    assert not chronology.has_lost_time(earlier[1:], "b", 0)


def test_a_clock_that_was_ahead_when_the_power_was_lost() -> None:
    """By less than a week, with nobody to read it: it looks like time that the host was off. It is
    believed where others tell the time by now; else nothing goes for a day.
    """
    before = early(100, 360_000, "a")
    for own_clock in (False, True):
        ahead = early(100 + 24 * 6, 60)
        assert trusted_now([before], ahead, own_clock=own_clock) is None
        kept = worth_keeping([before], ahead, own_clock=own_clock)
        later = early(100 + 24 * 6 + 23, 60 + 23 * 3600)
        assert trusted_now(kept, later, own_clock=own_clock) is None
        # What they tell instead of it is a clock that was set.
        back = early(101, 7200)
        assert trusted_now(kept, back, own_clock=own_clock, synchronised=True) is None
        assert trusted_now([before], ahead, own_clock=own_clock, synchronised=True) is not None


def test_a_boot_that_takes_its_clock_back_leaves_what_was_known() -> None:
    """A jump of before is in the record still when the readings behind it are worth nothing."""
    kept: list[Reading] = []
    jumped = [early(10, 360_000, "a"), early(30, 361_000, "a"), early(30.5, 362_800, "a")]
    for now in [*jumped, early(-400_000, 30), early(31, 90)]:
        kept = worth_keeping(kept, now)
    assert kept == [*jumped, early(31, 90)]
    assert trusted_now(kept[:-1], kept[-1]) is None


def test_boots_that_never_end_leave_no_more_than_others() -> None:
    kept: list[Reading] = []
    for number in range(4 * 96):
        kept = worth_keeping(kept, early(number / 4, 30, f"boot {number}"))
    assert len(kept) <= 96 + 3


def test_readings_that_are_old_do_not_matter() -> None:
    old = [reading(-100, wall_off=50 * DAY), reading(-99)]
    assert trusted_now([*old, reading(0)], reading(25)) is not None
    assert chronology.SETTLING_NS == DAY
