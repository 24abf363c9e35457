"""What samples come to: medians, spreads, ratios, and whether a goal is met."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from measure.model import Figure, Goal, Series, Statistic

PERCENT = 100


@dataclass(frozen=True, slots=True)
class Spread:
    """A median between the smallest and the largest."""

    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal and what was reached; ``value`` is a multiple where the goal is one."""

    goal: Goal
    value: float
    met: bool


def spread(samples: Sequence[float]) -> Spread:
    """The spread of at least one sample."""
    return Spread(min(samples), statistics.median(samples), max(samples))


def percentile(samples: Sequence[float], percent: int) -> float:
    """The smallest sample that ``percent`` of all do not exceed (nearest rank)."""
    rank = math.ceil(percent * len(samples) / PERCENT)
    return sorted(samples)[max(rank, 1) - 1]


STATISTICS: dict[Statistic, Callable[[Series], float]] = {
    Statistic.MEDIAN: lambda series: statistics.median(series.samples),
    Statistic.P90: lambda series: percentile(series.samples, 90),
    Statistic.P99: lambda series: percentile(series.samples, 99),
    Statistic.MAX: lambda series: max(series.samples),
    Statistic.CPU: lambda series: statistics.median(series.cpu_seconds),
    Statistic.MEMORY: lambda series: max(series.peak_bytes),
}


def ratio(other: Sequence[float], subject: Sequence[float]) -> Spread:
    """How many times the subject's the other's are.

    Contestants that were measured in turn are compared round by round: what slowed a whole round
    down does not count. Otherwise there is only the ratio of the medians.
    """
    if len(other) == len(subject):
        return spread([a / b for a, b in zip(other, subject, strict=True)])
    only = statistics.median(other) / statistics.median(subject)
    return Spread(only, only, only)


def cases(figure: Figure) -> list[str]:
    """The cases of a figure in the order in which they were measured."""
    return list(dict.fromkeys(series.case for series in figure.series))


def contestants(figure: Figure) -> list[str]:
    """The contestants of a figure, in the order in which they first appear."""
    return list(dict.fromkeys(series.contestant for series in figure.series))


def find(figure: Figure, contestant: str, case: str) -> Series | None:
    """What a contestant did in a case, if it was measured."""
    for series in figure.series:
        if (series.contestant, series.case) == (contestant, case):
            return series
    return None


def verdict(figure: Figure, goal: Goal) -> Verdict:
    """Hold a figure against one of its goals. One that names what was not measured is a mistake."""
    subject = measured(figure, goal, goal.contestant)
    if goal.against:
        value = multiple(goal.statistic, subject, measured(figure, goal, goal.against))
    else:
        value = STATISTICS[goal.statistic](subject)
    return Verdict(goal, value, value >= goal.bound if goal.at_least else value <= goal.bound)


def measured(figure: Figure, goal: Goal, contestant: str) -> Series:
    """A contestant in the goal's case."""
    series = find(figure, contestant, goal.case)
    if series is None:
        raise ValueError(f"{figure.key} has no {contestant} in {goal.case!r}: {goal.text}")
    return series


def multiple(statistic: Statistic, subject: Series, against: Series) -> float:
    """As the tables say it: round by round, but for what is no value of a round."""
    if statistic is Statistic.MEDIAN:
        return ratio(subject.samples, against.samples).median
    if statistic is Statistic.CPU:
        return ratio(subject.cpu_seconds, against.cpu_seconds).median
    return STATISTICS[statistic](subject) / STATISTICS[statistic](against)
