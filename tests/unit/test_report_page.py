"""The report as a page: what it says, and that nothing in it can be more than text."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from uuid import UUID
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmsnap.report import markup
from dmsnap.report.axis import TICKS, Axis
from dmsnap.report.bars import bars
from dmsnap.report.content import (
    Content,
    FailedJob,
    Lane,
    Overwritten,
    PlottedPoint,
    Punctuality,
    Verdict,
    VolumeContent,
)
from dmsnap.report.page import ROWS, page
from dmsnap.report.punctuality import judged, sentence
from dmsnap.report.timeline import COLUMNS, LEFT, described, summary, timeline

SECOND = 10**9
HOUR = 3600 * SECOND
NOW = 1_790_000_000 * SECOND
VOID = {"meta"}


def point(number: int, *lanes: Lane, age_hours: int = 0) -> PlottedPoint:
    return PlottedPoint(str(UUID(int=number)), NOW - age_hours * HOUR, lanes or (Lane.HISTORY,))


def deleted(number: int, why: str | None = "prune", age_hours: int = 0) -> PlottedPoint:
    known = point(number, age_hours=age_hours)
    return replace(known, deleted_ns=NOW, deleted_reason=why)


VOLUME = VolumeContent(
    "srv", "protected", "/dev/sda", "/dev/sdb", 2**40, NOW - 2 * HOUR, 3.25,
    Punctuality(Verdict.LATE, ("daily",), NOW - HOUR),
    [
        replace(deleted(3, age_hours=9), expires_ns=NOW + HOUR, comment="before it"),
        point(1, age_hours=5), point(2, Lane.LIVE, age_hours=2),
    ],
    [Overwritten(NOW - 5 * HOUR, 2**20), Overwritten(NOW - 2 * HOUR, 3 * 2**20)],
    ["dmsnap-srv-origin-1 is missing: dmsnap assemble srv puts it right"],
    [FailedJob("sync", NOW - HOUR, "undone", "no room")],
)  # fmt: skip


class Elements(HTMLParser):
    """What a browser would make of it, and whether every element is closed where it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.seen.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID or "svg" in self.open, f"HTML does not close <{tag}/>"
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(*volumes: VolumeContent) -> Elements:
    """The page as HTML; it must be XML as well, ASCII, and ask for nothing else."""
    text = page(Content("host", NOW, volumes))
    assert text.isascii()
    ET.fromstring(text)
    found = Elements()
    found.feed(text)
    found.close()
    assert found.open == []
    tags = {tag for tag, _ in found.seen}
    assert not tags & {"script", "link", "img", "iframe", "object", "image", "use", "foreignobject"}
    for _, attributes in found.seen:
        assert not [
            name for name in attributes if name.startswith("on") or name in {"src", "style"}
        ]
        assert (attributes.get("href") or "#").startswith("#")
    assert "url(" not in text
    assert "@import" not in text
    return found


def marks(points: Sequence[PlottedPoint]) -> Iterator[ET.Element]:
    drawing = timeline("srv", points, NOW)
    assert drawing is not None
    return drawing.iter("rect")


def test_everything_is_said() -> None:
    text = re.sub(r"\s+", " ", parsed(VOLUME).text)
    for said in (
        "Recovery of host", "2026-09-21T14:13:20Z", "2 h old", "3.2 s", "1 TiB", "/dev/sdb",
        "late: runs of daily have brought no newer point since 2026-09-21T13:13:20Z",
        "dmsnap assemble srv puts it right", "no room", "undone", "3 MiB",
        "until 2026-09-21T15:13:20Z, before it, deleted 2026-09-21T14:13:20Z: prune", "was history",
    ):  # fmt: skip
        assert said in text


def test_no_volume_and_no_point() -> None:
    assert "No volume is protected." in parsed().text
    bare = VolumeContent(
        "b", "promoted", "/dev/sda", None, 1, None, None, Punctuality(Verdict.UNSCHEDULED)
    )
    found = parsed(bare)
    assert "There are none." in found.text
    assert "not measured" in found.text
    assert not [tag for tag, _ in found.seen if tag == "svg"]


HOSTILE = "<script>alert(1)</script>\"'&amp;]]>--><!-- \x00\x1b[31m\udcff\u202e é"


def test_hostile_names_are_text() -> None:
    evil = replace(
        VOLUME, name=HOSTILE, state=HOSTILE, device=HOSTILE, recovery=HOSTILE,
        problems=[HOSTILE], failed=[FailedJob(HOSTILE, NOW, HOSTILE, HOSTILE)],
        punctuality=Punctuality(Verdict.UNKNOWN, (HOSTILE,), None, HOSTILE),
        points=[replace(deleted(1, HOSTILE), id=HOSTILE, fault=HOSTILE, comment=HOSTILE)],
    )  # fmt: skip
    found = parsed(evil)
    assert found.text.count("<script>alert(1)</script>\"'&amp;]]>--><!-- ") > 10
    assert "\x00" not in found.text


@given(st.text(st.characters(codec=None)))
def test_any_text_comes_back_but_for_what_no_document_may_hold(text: str) -> None:
    made = markup.element("p", text, "", text, markup.element("b"), text, title=text)
    back = ET.fromstring(markup.document(made))
    legible = markup.legible(text)
    once = legible.replace("\r\n", "\n").replace("\r", "\n")
    twice = (legible * 2).replace("\r\n", "\n").replace("\r", "\n")
    assert (back.text or "") == twice
    assert (back[0].tail or "") == once
    # Attributes are written with references for what parsers would make spaces of.
    assert back.get("title") == legible


def test_a_thousand_points_stay_legible_and_small() -> None:
    points = [deleted(1000 + each, age_hours=2000 - each) for each in range(1000)]
    points += [point(each, age_hours=1000 - each) for each in range(1000)]
    many = replace(VOLUME, points=points, overwritten=list(VOLUME.overwritten) * 32)
    found = parsed(many)
    assert len(page(Content("host", NOW, [many]))) < 2**20
    assert sum("here" in (attributes.get("class") or "") for _, attributes in found.seen) <= COLUMNS
    assert f"The newest {ROWS} of 2000 points" in found.text
    # No two marks of a kind lie over each other.
    places = [(mark.get("class"), mark.get("x"), mark.get("y")) for mark in marks(points)]
    assert len(places) == len(set(places))


def test_lanes_and_deleted_points() -> None:
    points = [
        deleted(1, age_hours=100), point(2, age_hours=50), point(3, Lane.LIVE, Lane.REPLICA)
    ]  # fmt: skip
    drawn = [(mark.get("class"), mark.get("x")) for mark in marks(points)]
    last = f"{LEFT + (COLUMNS - 1) * 6}"
    assert drawn == [
        ("live here", last), ("replica here", last),
        ("history gone", f"{LEFT}"), ("history here", f"{LEFT + COLUMNS // 2 * 6}"),
    ]  # fmt: skip
    assert summary(points).startswith("2 points; 1 live, 1 replica, 1 history; taken 2026-09-19")
    assert summary(points[:1]) == "0 points; 1 deleted ones"
    nowhere = [point(1, Lane.NOWHERE)]
    assert [mark.get("class") for mark in marks(nowhere)] == ["nowhere here"]


def test_a_point_that_is_worth_nothing_is_no_good_one() -> None:
    wrong = replace(point(1), fault="byte 5 differs")
    assert [mark.get("class") for mark in marks([wrong, point(2)])] == [
        "history faulty", "history here",
    ]  # fmt: skip
    assert described([wrong, wrong]).startswith("2 faulty points, ")
    assert summary([wrong, point(2)]).endswith("; 1 of them faulty")


def test_what_marks_say() -> None:
    kept = replace(point(1), keep=True, fault="torn")
    assert described([kept]) == "point 00000000 of 2026-09-21T14:13:20Z, kept, torn"
    assert described([point(1, age_hours=1), point(2)]) == (
        "2 points, 2026-09-21T13:13:20Z to 2026-09-21T14:13:20Z"
    )
    reasons = ["prune", "prune", "a", "b", "c", None]
    gone = [deleted(number, why) for number, why in enumerate(reasons)]
    assert described(gone).endswith(": prune (2), a (1), b (1), others (2)")
    assert described(gone[-1:]).endswith("deleted 2026-09-21T14:13:20Z: why was not recorded")


def test_every_drawing_has_a_text() -> None:
    drawings = [bars("srv", VOLUME.overwritten), timeline("srv", VOLUME.points, NOW)]
    for drawing in drawings:
        assert drawing is not None
        assert drawing.get("role") == "img"
        assert drawing.get("aria-label")
        assert [drawing[0].tag, drawing[1].tag] == ["title", "desc"]
        assert all(mark.find("title") is not None for mark in drawing.iter("rect"))


def test_bars_are_as_high_as_what_was_overwritten() -> None:
    drawing = bars("srv", [Overwritten(1, 0), Overwritten(2, 2**30), Overwritten(3, 2**29)])
    assert drawing is not None
    assert [mark.get("height") for mark in drawing.iter("rect")] == ["1", "90", "45"]
    assert bars("srv", []) is None
    assert bars("srv", [Overwritten(1, 0)]) is not None


@pytest.mark.parametrize(
    ("start", "end"), [(NOW, NOW), (NOW, NOW + 1), (NOW - 400 * 24 * HOUR, NOW)]
)
def test_moments_are_on_the_axis(start: int, end: int) -> None:
    axis = Axis(start, end, LEFT, COLUMNS)
    assert axis.column(start - HOUR) == axis.column(start) == 0
    assert axis.column(end + HOUR) == COLUMNS - 1
    labels = [each.text for each in axis.drawn(0, 10) if each.tag == "text"]
    assert len(labels) == TICKS
    assert labels[0] is not None
    assert len(labels[0]) == (10 if end - start > 3 * 24 * HOUR else 16)


@pytest.mark.parametrize(
    ("runs", "verdict", "said"),
    [
        ((), Verdict.IN_TIME, "no further run"),
        ((NOW + HOUR,), Verdict.IN_TIME, "the next run is at"),
        ((NOW - 60 * SECOND, NOW + HOUR), Verdict.IN_TIME, "the next run is at"),
        ((NOW - 61 * SECOND, NOW + HOUR), Verdict.DUE, "has run since"),
        ((NOW - HOUR, NOW - HOUR, NOW), Verdict.DUE, "has run since"),
        ((NOW - HOUR, NOW - 2 * HOUR), Verdict.LATE, "late: runs of a, b"),
    ],
)
def test_late_is_what_two_runs_did_not_renew(
    runs: tuple[int, ...], verdict: Verdict, said: str
) -> None:
    found = judged(["a", "b"], runs, NOW, 60 * SECOND)
    assert found.verdict is verdict
    assert found.due_ns == min(runs, default=None)
    assert said in sentence(found)
