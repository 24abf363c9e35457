"""The points of a volume on a line of time, in a lane for each place.

Points that fall into one column are one mark, which says how many it stands for: so a thousand
are as legible as ten, and take no more room.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from xml.etree.ElementTree import Element

from dmsnap.catalogue.clock import format_time
from dmsnap.report.axis import COLUMN, Axis
from dmsnap.report.content import Lane, PlottedPoint, Standing
from dmsnap.report.markup import element

LEFT, COLUMNS, WIDTH = 100, 115, 800
LANE_HEIGHT, MARK_HEIGHT, TOP = 26, 18, 6
REASONS = 3
WORDS = {Standing.GONE: "deleted ", Standing.FAULTY: "faulty ", Standing.HERE: ""}
DIGITS = 8


def timeline(volume: str, points: Sequence[PlottedPoint], now_ns: int) -> Element | None:
    """The drawing; None where there is no point."""
    if not points:
        return None
    lanes = [lane for lane in Lane if lane is not Lane.NOWHERE or _in_lane(points, lane)]
    start_ns = min(point.created_ns for point in points)
    axis = Axis(start_ns, max(now_ns, *(point.created_ns for point in points)), LEFT, COLUMNS)
    bottom = TOP + len(lanes) * LANE_HEIGHT
    drawing = element(
        "svg",
        element("title", f"Points of {volume}"),
        element("desc", summary(points)),
        *axis.drawn(TOP, bottom),
        viewBox=f"0 0 {WIDTH} {bottom + 20}",
        role="img",
        aria_label=f"Points of {volume}: {summary(points)}",
    )
    for number, lane in enumerate(lanes):
        top = TOP + number * LANE_HEIGHT
        middle = top + LANE_HEIGHT // 2 + 4
        drawing.append(element("text", str(lane), x=LEFT - 8, y=middle, text_anchor="end"))
        drawing.extend(_marks(_in_lane(points, lane), axis, top, lane))
    return drawing


def _in_lane(points: Sequence[PlottedPoint], lane: Lane) -> list[PlottedPoint]:
    return [point for point in points if lane in point.lanes]


def _marks(points: Sequence[PlottedPoint], axis: Axis, top: int, lane: Lane) -> Iterator[Element]:
    """A mark for each column and standing, the good ones last, over the others."""
    columns: dict[tuple[Standing, int], list[PlottedPoint]] = defaultdict(list)
    for point in points:
        columns[point.standing, axis.column(point.created_ns)].append(point)
    order = list(Standing)
    for standing, column in sorted(columns, key=lambda key: (order.index(key[0]), key[1])):
        yield element(
            "rect",
            element("title", described(columns[standing, column])),
            class_=f"{lane.name.lower()} {standing}",
            x=axis.place(column),
            y=top + (LANE_HEIGHT - MARK_HEIGHT) // 2,
            width=COLUMN - 1,
            height=MARK_HEIGHT,
        )


def described(points: Sequence[PlottedPoint]) -> str:
    """What a mark stands for: points of one standing."""
    if len(points) == 1:
        return _described_alone(points[0])
    standing = points[0].standing
    times = f"{format_time(points[0].created_ns)} to {format_time(points[-1].created_ns)}"
    reasons = f": {_reasons(points)}" if standing is Standing.GONE else ""
    return f"{len(points)} {WORDS[standing]}points, {times}{reasons}"


def _described_alone(point: PlottedPoint) -> str:
    said = [f"point {point.id[:DIGITS]} of {format_time(point.created_ns)}"]
    said += ["kept"] if point.keep else []
    said += [point.fault] if point.fault else []
    if point.deleted_ns is not None:
        said.append(f"deleted {format_time(point.deleted_ns)}: {reason(point)}")
    return ", ".join(said)


def reason(point: PlottedPoint) -> str:
    """Why it was deleted."""
    return point.deleted_reason or "why was not recorded"


def _reasons(points: Sequence[PlottedPoint]) -> str:
    counted = Counter(reason(point) for point in points).most_common()
    said = [f"{text} ({count})" for text, count in counted[:REASONS]]
    others = sum(count for _, count in counted[REASONS:])
    return ", ".join([*said, f"others ({others})"] if others else said)


def summary(points: Sequence[PlottedPoint]) -> str:
    """The drawing in words."""
    here = [point for point in points if not point.is_gone]
    gone = len(points) - len(here)
    said = [f"{len(here)} points"]
    if here:
        counts = [(lane, len(_in_lane(here, lane))) for lane in Lane]
        said.append(", ".join(f"{count} {lane}" for lane, count in counts if count))
        times = [format_time(point.created_ns) for point in (here[0], here[-1])]
        said.append(f"taken {times[0]} to {times[1]}")
    faulty = sum(point.standing is Standing.FAULTY for point in here)
    if faulty:
        said.append(f"{faulty} of them faulty")
    if gone:
        said.append(f"{gone} deleted ones")
    return "; ".join(said)
