"""What is said of points: set later, recorded in both kinds of database, brought to its end."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from catalogue_samples import a_point, a_volume
from test_keeping import a_label, ids

from dmsnap._native.label import HistoryFlag, Label
from dmsnap.catalogue import jobs
from dmsnap.catalogue.clock import now_ns, parse_time, storable
from dmsnap.catalogue.model import JobState, Point, Volume
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import UnreachableError, WrongStateError, WrongWordError
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.journal import Plan
from dmsnap.service.points import keeping, point, properties
from dmsnap.service.points.point import PointView
from dmsnap.service.points.properties import Change, Properties
from dmsnap.service.session import Session

LATER_NS = 2**62


class House:
    """A volume with one point, and a label that may hold it."""

    def __init__(self, catalogue: Catalogue, directory: Path) -> None:
        self.session = Session(Configuration(run_directory=directory), catalogue)
        self.volume = replace(a_volume(), recovery=None)
        self.label: Label | None = None
        self.marks: list[tuple[UUID, bool]] = []
        catalogue.add_volume(self.volume)
        self.point = replace(
            a_point(self.volume), area_id=None, keep=False, expires_ns=None, comment=None
        )
        catalogue.add_point(self.point)

    def on_label(self, *, marked: bool = False) -> None:
        """The point is the replica's."""
        flags = HistoryFlag.KEEP if marked else HistoryFlag(0)
        self.label = replace(a_label(1), point_uuid=self.point.id, flags=flags)

    def change(self, **wanted: Any) -> PointView:
        changed = properties.change(self.session, str(self.point.id), Change(**wanted))
        assert isinstance(changed, PointView)
        return changed

    @property
    def recorded(self) -> Properties:
        found = self.session.catalogue.find_point(self.point.id)
        assert found is not None
        return Properties(found.keep, found.expires_ns, found.comment)


@pytest.fixture
def house(
    catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> House:
    made = House(catalogue, tmp_path_factory.mktemp("run"))

    @contextmanager
    def held(_session: Session, name: str) -> Iterator[Volume]:
        yield catalogue.volume(name)

    def mark(_volume: Volume, point_id: UUID, keep: bool) -> None:
        made.marks.append((point_id, keep))

    monkeypatch.setattr(properties, "held", held)
    monkeypatch.setattr(properties, "label_of", lambda _: made.label)
    monkeypatch.setattr(point, "labels_of", lambda volumes: [made.label for _ in volumes])
    monkeypatch.setattr(keeping, "mark_on_label", mark)
    return made


def test_what_is_not_named_stays(house: House) -> None:
    assert house.change(comment="before the upgrade").comment == "before the upgrade"
    assert house.change(expires_ns=LATER_NS).expires_ns == LATER_NS
    view = house.change(keep=True)
    assert (view.keep, view.expires_ns, view.comment) == (True, LATER_NS, "before the upgrade")
    assert house.recorded == Properties(True, LATER_NS, "before the upgrade")
    house.change(expires_ns=0, comment="")
    assert house.recorded == Properties(True)
    house.change(keep=False)
    assert house.recorded == Properties(False)
    assert house.marks == []
    states = {job.state for job in jobs.recent(house.session.catalogue, 9)}
    assert states == {JobState.DONE}


def test_only_a_mark_is_on_the_label(house: House) -> None:
    house.on_label()
    house.change(comment="x", expires_ns=LATER_NS)
    assert house.marks == []
    house.change(keep=True)
    assert house.marks == [(house.point.id, True)]


def test_a_mark_that_only_the_label_has_stays(house: House) -> None:
    """As after a rebuild: whoever comments on a point takes nothing away from it."""
    house.on_label(marked=True)
    house.change(comment="x")
    assert house.recorded == Properties(True, None, "x")
    house.change(keep=False)
    assert house.marks == [(house.point.id, False)]


def test_a_point_that_only_a_label_knows_is_refused(house: House) -> None:
    house.label = a_label(1)
    unknown = ids(house.label)[1]
    with pytest.raises(WrongStateError, match="only the label") as caught:
        properties.change(house.session, str(unknown), Change(comment="x"))
    assert "point keep" in (caught.value.hint or "")


def test_a_failure_takes_all_of_it_back(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.on_label()
    recorded = house.session.catalogue.update_point
    calls: list[Point] = []

    def failing(changed: Point) -> None:
        calls.append(changed)
        recorded(changed)
        if len(calls) == 1:
            raise UnreachableError("the catalogue cannot be reached")

    monkeypatch.setattr(house.session.catalogue, "update_point", failing)
    with pytest.raises(UnreachableError):
        house.change(keep=True, comment="x")
    assert house.recorded == Properties(False)
    assert house.marks == [(house.point.id, True), (house.point.id, False)]


def test_a_job_that_was_cut_off_is_finished(house: House) -> None:
    house.on_label()
    house.change(comment="former")
    asked = Properties(True, LATER_NS, "x")
    text = str(house.point.id)
    plan = properties.change(house.session, text, Change(True, LATER_NS, "x"), dry_run=True)
    assert isinstance(plan, Plan)
    assert [step.name for step in plan.steps] == ["mark", "record"]
    assert "until 2116-02-20" in plan.descriptions()[1]
    catalogue = house.session.catalogue
    jobs.begin(
        catalogue, plan.operation, [house.volume.id], arguments=plan.arguments, pid=1,
        steps=["mark", "record"],
    )  # fmt: skip
    (job,) = jobs.unfinished(catalogue, house.volume.id)
    assert properties.finish(house.session, house.volume, job)
    assert house.recorded == asked
    assert house.marks == [(house.point.id, True)]
    properties.again(house.session, **{**plan.arguments, "comment": None}, dry_run=False)  # type: ignore[arg-type]
    assert house.recorded == replace(asked, comment=None)


@pytest.mark.parametrize(
    "wanted",
    [
        {"comment": "two\nlines"},
        {"comment": "\x1b[2J"},
        {"comment": "from right to left: \u202e"},
        {"comment": "a half \udc80"},
        {"comment": "x" * 201},
        {"expires_ns": now_ns() - 10**9},
    ],
)
def test_what_cannot_be_said(house: House, wanted: dict[str, Any]) -> None:
    with pytest.raises(WrongWordError):
        house.change(**wanted)
    with pytest.raises(WrongWordError):
        point.create(house.session, [house.volume.name], keep=False, dry_run=False, **wanted)
    assert house.recorded == Properties(False)


def test_a_time_that_no_catalogue_holds_is_none() -> None:
    assert parse_time("2262-04-11") < 2**63
    for later in ("2262-04-12", "9999-12-31T23:59:59Z"):
        with pytest.raises(ValueError, match="later than"):
            parse_time(later)
    with pytest.raises(ValueError, match="later than"):
        storable(2**63)
