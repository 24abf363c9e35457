"""What each sync overwrote, a bar for each in the order of time."""

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from dmsnap.catalogue.clock import format_time
from dmsnap.report.content import Overwritten
from dmsnap.report.markup import element
from dmsnap.units import format_size

LEFT, RIGHT, WIDTH = 100, 790, 800
TOP, HEIGHT = 10, 90
WIDEST = 40


def bars(volume: str, syncs: Sequence[Overwritten]) -> Element | None:
    """The drawing; None where nothing is recorded."""
    if not syncs:
        return None
    most = max(max(each.store_bytes for each in syncs), 1)
    bottom = TOP + HEIGHT
    said = summary(syncs)
    drawing = element(
        "svg",
        element("title", f"Overwritten by syncs of {volume}"),
        element("desc", said),
        element("line", class_="tick", x1=LEFT, x2=RIGHT, y1=TOP, y2=TOP),
        element("line", class_="tick", x1=LEFT, x2=RIGHT, y1=bottom, y2=bottom),
        element("text", format_size(most), x=LEFT - 8, y=TOP + 4, text_anchor="end"),
        element("text", "0", x=LEFT - 8, y=bottom + 4, text_anchor="end"),
        viewBox=f"0 0 {WIDTH} {bottom + 22}",
        role="img",
        aria_label=f"Overwritten by syncs of {volume}: {said}",
    )
    step = min(WIDEST, max(1, (RIGHT - LEFT) // len(syncs)))
    for number, sync in enumerate(syncs):
        drawing.append(_bar(sync, LEFT + number * step, step, most))
    first = format_time(syncs[0].point_ns)
    drawing.append(element("text", first, x=LEFT, y=bottom + 16))
    if len(syncs) > 1:
        last = format_time(syncs[-1].point_ns)
        drawing.append(element("text", last, x=RIGHT, y=bottom + 16, text_anchor="end"))
    return drawing


def _bar(sync: Overwritten, left: int, step: int, most: int) -> Element:
    """At least a line, so that a small sync is not taken for none."""
    height = max(1, sync.store_bytes * HEIGHT / most)
    return element(
        "rect",
        element("title", f"{format_time(sync.point_ns)}: {format_size(sync.store_bytes)}"),
        class_="bytes",
        x=left,
        y=TOP + HEIGHT - height,
        width=max(1, step - 2),
        height=height,
    )


def summary(syncs: Sequence[Overwritten]) -> str:
    """The drawing in words."""
    sizes = [each.store_bytes for each in syncs]
    return (
        f"{len(sizes)} syncs, from {format_size(min(sizes))} to {format_size(max(sizes))}, "
        f"{format_size(sum(sizes))} in all"
    )
