"""From moments to places on a line, in columns that are wide enough to be seen and hit."""

from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from dmsnap.catalogue.clock import format_time
from dmsnap.report.markup import element

COLUMN = 6
TICKS = 5
_DAY_NS = 86400 * 10**9
# Below this span the hour tells ticks apart.
_HOURS_BELOW_NS = 3 * _DAY_NS
_DATE, _MINUTE = 10, 16  # letters of an ISO 8601 time


@dataclass(frozen=True, slots=True)
class Axis:
    """The time from ``start_ns`` to ``end_ns`` over ``columns`` columns, the first at ``left``."""

    start_ns: int
    end_ns: int
    left: int
    columns: int

    @property
    def span_ns(self) -> int:
        return max(1, self.end_ns - self.start_ns)

    @property
    def right(self) -> int:
        return self.left + self.columns * COLUMN

    def column(self, moment_ns: int) -> int:
        """The column of a moment; those beyond the ends are in the outermost ones."""
        column = (moment_ns - self.start_ns) * self.columns // self.span_ns
        return min(max(column, 0), self.columns - 1)

    def place(self, column: int) -> int:
        """Where a column begins."""
        return self.left + column * COLUMN

    def drawn(self, top: int, bottom: int) -> Iterator[Element]:
        """Ticks over the whole height, each with its time below."""
        for number in range(TICKS):
            x = self.left + (self.right - self.left) * number // (TICKS - 1)
            moment_ns = self.start_ns + self.span_ns * number // (TICKS - 1)
            anchor = {0: "start", TICKS - 1: "end"}.get(number, "middle")
            yield element("line", class_="tick", x1=x, x2=x, y1=top, y2=bottom)
            yield element("text", self._label(moment_ns), x=x, y=bottom + 14, text_anchor=anchor)

    def _label(self, moment_ns: int) -> str:
        text = format_time(moment_ns)
        return text[:_MINUTE].replace("T", " ") if self.span_ns < _HOURS_BELOW_NS else text[:_DATE]
