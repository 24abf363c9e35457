"""The page: a table of all volumes, and a section for each."""

from collections.abc import Iterator, Sequence
from xml.etree.ElementTree import Element

from dmsnap.catalogue.clock import format_time
from dmsnap.report.bars import bars
from dmsnap.report.content import Content, PlottedPoint, Verdict, VolumeContent
from dmsnap.report.markup import Child, document, element
from dmsnap.report.punctuality import sentence
from dmsnap.report.style import STYLE
from dmsnap.report.timeline import DIGITS, reason, timeline
from dmsnap.units import format_age, format_measured, format_size

# Rows of a table of points: drawings show all.
ROWS = 200
# Nothing is loaded and nothing runs, whatever should get into the page.
CONTENT_SECURITY = "default-src 'none'; style-src 'unsafe-inline'"
OVERWRITTEN = (
    "What each sync overwrote, by the undo stores that the recovery volume has now, over the time "
    "of the points that they brought. A store that pruning merged stands for several syncs."
)


def page(content: Content) -> str:
    """The report as one file: ASCII, HTML and XML at once."""
    title = f"Recovery of {content.host}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        _meta("Content-Security-Policy", CONTENT_SECURITY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", STYLE),
    )
    body = element(
        "body",
        element("h1", title),
        element("p", f"As it was at {format_time(content.made_ns)}. All times are UTC."),
        _overview(content) if content.volumes else element("p", "No volume is protected."),
        *(_section(number, each, content.made_ns) for number, each in enumerate(content.volumes)),
    )
    return document(element("html", head, body, lang="en"))


def _meta(name: str, text: str) -> Element:
    return element("meta", http_equiv=name, content=text)


def _overview(content: Content) -> Element:
    headings = ("Volume", "State", "Newest point", "By the policy", "Last swap took", "Problems")
    rows = [
        (
            element("a", each.name, href=f"#volume-{number}"),
            each.state,
            _age(each, content.made_ns),
            _verdict(each),
            _measured(each),
            str(len(each.problems)),
        )
        for number, each in enumerate(content.volumes)
    ]
    return table(headings, rows)


def _age(volume: VolumeContent, now_ns: int) -> str:
    if volume.newest_ns is None:
        return "none"
    age = format_age(max(0, now_ns - volume.newest_ns) / 1e9)
    return f"{age} old, of {format_time(volume.newest_ns)}"


def _verdict(volume: VolumeContent) -> Element:
    verdict = volume.punctuality.verdict
    wrong = "wrong" if verdict in (Verdict.LATE, Verdict.MISSING) else None
    return element("span", str(verdict), class_=wrong)


def _measured(volume: VolumeContent) -> str:
    seconds = volume.recovery_seconds
    return "not measured" if seconds is None else format_measured(seconds)


def _section(number: int, volume: VolumeContent, now_ns: int) -> Element:
    return element(
        "section",
        element("h2", volume.name, id=f"volume-{number}"),
        _facts(volume, now_ns),
        *_listed("Problems", volume.problems),
        *_points(volume, now_ns),
        *_overwritten(volume),
        *_failed(volume),
    )


def _facts(volume: VolumeContent, now_ns: int) -> Element:
    facts = (
        ("State", volume.state),
        ("Device", f"{volume.device}, {format_size(volume.size_bytes)}"),
        ("Recovery volume", volume.recovery or "none"),
        ("Newest point", _age(volume, now_ns)),
        ("By the policy", sentence(volume.punctuality)),
        ("Last swap took", _measured(volume)),
    )
    listed = element("dl")
    for name, text in facts:
        listed.extend((element("dt", name), element("dd", text)))
    return listed


def _listed(heading: str, texts: Sequence[str]) -> Iterator[Element]:
    if texts:
        yield element("h3", heading)
        yield element("ul", *(element("li", text, class_="wrong") for text in texts))


def _points(volume: VolumeContent, now_ns: int) -> Iterator[Element]:
    yield element("h3", "Points")
    drawing = timeline(volume.name, volume.points, now_ns)
    if drawing is None:
        yield element("p", "There are none.")
        return
    yield drawing
    newest = [*reversed(volume.points)][:ROWS]
    summary = f"The newest {len(newest)} of {len(volume.points)} points"
    headings = ("Point", "Taken", "Where", "Remarks")
    yield element(
        "details",
        element("summary", summary),
        table(headings, [_point_row(point) for point in newest]),
    )


def _point_row(point: PlottedPoint) -> tuple[str, ...]:
    places = ", ".join(str(lane) for lane in point.lanes)
    remarks = ["kept"] if point.keep else []
    if point.expires_ns is not None:
        remarks.append(f"until {format_time(point.expires_ns)}")
    remarks += [text for text in (point.comment, point.fault) if text]
    if point.deleted_ns is not None:
        places = f"was {places}"
        remarks.append(f"deleted {format_time(point.deleted_ns)}: {reason(point)}")
    return point.id[:DIGITS], format_time(point.created_ns), places, ", ".join(remarks)


def _overwritten(volume: VolumeContent) -> Iterator[Element]:
    drawing = bars(volume.name, volume.overwritten)
    if drawing is None:
        return
    yield element("h3", "Overwritten by syncs")
    yield element("p", OVERWRITTEN)
    yield drawing
    rows = [
        (format_time(each.point_ns), format_size(each.store_bytes))
        for each in reversed(volume.overwritten)
    ]
    yield element(
        "details",
        element("summary", "In numbers"),
        table(("Point of", "Overwritten"), rows),
    )


def _failed(volume: VolumeContent) -> Iterator[Element]:
    if not volume.failed:
        return
    yield element("h3", "Jobs that failed or were undone")
    rows = [
        (format_time(each.ended_ns), each.operation, each.state, each.outcome)
        for each in volume.failed
    ]
    yield table(("Ended", "Job", "State", "Why"), rows)


def table(headings: Sequence[str], rows: Sequence[Sequence[Child]]) -> Element:
    """A table; a cell with no text has a dash."""
    return element(
        "table",
        element("thead", element("tr", *(element("th", each, scope="col") for each in headings))),
        element("tbody", *(element("tr", *(_cell(each) for each in row)) for row in rows)),
    )


def _cell(content: Child) -> Element:
    return element("td", "-" if content is None or content == "" else content)
