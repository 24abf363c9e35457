"""What a measurement yields: values only, which the store keeps and the report renders.

A figure module has ``measure(setting) -> Iterator[Figure]``. A :class:`Figure` answers one question
in one unit; its series are what each contestant did in each case, as raw samples in the order in
which they were taken. Medians, ratios and verdicts are the report's to work out.
"""

from dataclasses import dataclass
from enum import StrEnum


class Unit(StrEnum):
    """What the numbers of a figure count; seconds and bytes are scaled when they are shown."""

    SECONDS = "seconds"
    BYTES = "bytes"
    BYTES_PER_SECOND = "bytes_per_second"
    OPERATIONS_PER_SECOND = "operations_per_second"
    COUNT = "count"


class Plot(StrEnum):
    """How a figure is drawn, beside its table."""

    NONE = "none"
    BARS = "bars"  # a group of bars for each case, with the spread
    LINES = "lines"  # over Series.position, both axes logarithmic
    DISTRIBUTION = "distribution"  # for each case, the share of samples below a value


class Statistic(StrEnum):
    """What is taken of a series to hold it against a goal."""

    MEDIAN = "median"
    P90 = "p90"
    P99 = "p99"
    MAX = "max"
    CPU = "cpu"  # median of the processor's seconds
    MEMORY = "memory"  # largest resident set in bytes


@dataclass(frozen=True, slots=True)
class Series:
    """One contestant in one case.

    ``cpu_seconds`` and ``peak_bytes`` go sample by sample, or are empty. ``command`` is the command
    line as it was run, or what stands for one. ``position`` is the case's place on the axis of a
    LINES plot, in ``Figure.axis_unit``.
    """

    contestant: str
    case: str
    samples: tuple[float, ...]
    cpu_seconds: tuple[float, ...] = ()
    peak_bytes: tuple[float, ...] = ()
    command: str = ""
    position: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Goal:
    """``statistic`` of a contestant in a case is at most, or at least, a bound.

    The bound is absolute (in the figure's unit, seconds for CPU, bytes for MEMORY), or with
    ``against`` a multiple of the same statistic of another contestant in the same case.
    """

    text: str
    case: str
    contestant: str
    bound: float
    statistic: Statistic = Statistic.MEDIAN
    against: str = ""
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """One question. Ratios are to ``subject``, "" where parts of one thing stand side by side.

    ``key`` names the plot's file.
    ``limits`` are contestants that show what the machine can do, and that nobody uses instead.
    """

    key: str
    title: str
    text: str
    unit: Unit
    series: tuple[Series, ...]
    subject: str = "dmsnap"
    limits: tuple[str, ...] = ()
    plot: Plot = Plot.BARS
    axis: str = ""
    axis_unit: Unit = Unit.BYTES
    more_is_better: bool = False
    goals: tuple[Goal, ...] = ()


@dataclass(frozen=True, slots=True)
class Machine:
    """What a section was measured on, as it describes itself."""

    name: str  # the host, or a guest of the lab
    system: str
    kernel: str
    processor: str
    nr_processors: int
    memory_bytes: int
    storage: str
    versions: tuple[tuple[str, str], ...]  # program, what it says of itself
    load_average: float  # of the last minute, before the section began


@dataclass(frozen=True, slots=True)
class Section:
    """The figures that were measured together."""

    name: str
    title: str
    begun_ns: int  # since the epoch
    seconds: float
    quick: bool  # few rounds on small volumes: proves the machinery, is no result
    revision: str  # of dmsnap: git describe
    machines: tuple[Machine, ...]  # the host, and the guest if it was in one
    figures: tuple[Figure, ...]
