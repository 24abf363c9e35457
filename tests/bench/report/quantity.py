"""Numbers with units as people read them."""

from collections.abc import Iterable
from dataclasses import dataclass

from measure.model import Unit
from measure.summary import Spread

# The name of each scale and its size, largest first; the smallest takes what is below it, too.
SCALES: dict[Unit, tuple[tuple[str, float], ...]] = {
    Unit.SECONDS: (("s", 1.0), ("ms", 1e-3)),
    Unit.BYTES: (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)),
    Unit.BYTES_PER_SECOND: (("GiB/s", 2**30), ("MiB/s", 2**20)),
    Unit.OPERATIONS_PER_SECOND: (("1000/s", 1e3), ("1/s", 1.0)),
    Unit.COUNT: (("", 1.0),),
}


@dataclass(frozen=True, slots=True)
class Scale:
    """A unit's scale: one for all numbers of a table, so that they can be compared at a glance."""

    name: str
    size: float

    @classmethod
    def fitting(cls, unit: Unit, values: Iterable[float]) -> "Scale":
        """The largest scale in which the largest value is at least 1."""
        largest = max(values, default=0.0)
        scales = SCALES[unit]
        name, size = next((scale for scale in scales if largest >= scale[1]), scales[-1])
        return cls(name, size)

    def number(self, value: float) -> str:
        """``value`` in this scale, to three digits or more."""
        return number(value / self.size)

    def spread(self, values: Spread) -> str:
        """``median (smallest-largest)``; one value stands alone."""
        if values.low == values.high:
            return self.number(values.median)
        between = f"{self.number(values.low)}–{self.number(values.high)}"
        return f"{self.number(values.median)} ({between})"

    def heading(self, words: str) -> str:
        """``words`` with the scale's name behind them."""
        return f"{words}, {self.name}" if self.name else words


def number(value: float) -> str:
    """Three significant digits, but never less than the whole number."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def exact(unit: Unit, value: float) -> str:
    """One value with its own scale."""
    scale = Scale.fitting(unit, [abs(value)])
    return " ".join(part for part in (scale.number(value), scale.name) if part)
