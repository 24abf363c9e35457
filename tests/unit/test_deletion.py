"""Points that are deleted together: what becomes of the others when one cannot go."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
from catalogue_samples import a_point, a_volume, an_area

from dmsnap.catalogue import hook_runs, jobs
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import JobState, PlaceKind, Point, Volume
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import BusyError
from dmsnap.recovery import replica
from dmsnap.service import journal
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.configuration.declaration import Hook
from dmsnap.service.journal import Plan
from dmsnap.service.luns.luns import Wanted
from dmsnap.service.points import deletion, prune
from dmsnap.service.points.deletion import Deletion
from dmsnap.service.points.point import Place, PointView
from dmsnap.service.schedules.hooks import Hooks, Phase
from dmsnap.service.session import Session
from dmsnap.snapshot import live

Removal = Callable[..., None]
DAY_NS = 86400 * 10**9


class House:
    """A volume that has live points and no devices, and a hook that writes down that it ran."""

    def __init__(self, directory: Path, catalogue: Catalogue) -> None:
        self.session = Session(Configuration(), catalogue)
        self.volume: Volume = replace(
            a_volume(), recovery=None, recovery_id=None, store=str(directory)
        )
        catalogue.add_volume(self.volume)
        self.points = [self.point_of(at) for at in range(3)]
        self.log = directory / "log"
        script = directory / "hook"
        script.write_text(f'#!/bin/sh\necho "$DMSNAP_PHASE $DMSNAP_OUTCOME" >>{self.log}\n')
        script.chmod(0o755)
        directory.chmod(0o755)
        self.hooks = Hooks(("srv",), {"gone": Hook(phase=Phase.UNSNAP, command=(str(script),))})

    def point_of(self, created_ns: int) -> Point:
        area = an_area(self.volume)
        self.session.catalogue.add_area(area)
        point = replace(
            a_point(self.volume, created_ns), keep=False, area_id=area.id, invalid_reason=None
        )
        self.session.catalogue.add_point(point)
        return point

    def prune(self) -> None:
        ids = [point.id for point in self.points]
        plan = prune.removal_plan(self.session, self.volume, ids, (), self.hooks)
        journal.run(self.session.catalogue, plan)

    @property
    def ran(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "House":
    monkeypatch.setattr(live, "undivide", lambda *_: None)
    return House(tmp_path, Catalogue.open(tmp_path / "catalogue.db"))


def failing(points: list[Point]) -> Removal:
    """Devices that are not there are removed, but for those of ``points``."""

    def remove(_volume: Volume, point_id: UUID) -> None:
        if point_id in {point.id for point in points}:
            raise BusyError("the device is open")

    return remove


@pytest.mark.parametrize("stuck", [[0], [1], [2], [0, 2]])
def test_one_that_cannot_go_keeps_no_other(
    house: House, monkeypatch: pytest.MonkeyPatch, stuck: list[int]
) -> None:
    """And who waits for the others to go is told so at once: nobody else would do it."""
    staying = [house.points[at] for at in stuck]
    monkeypatch.setattr(live, "remove", failing(staying))
    with pytest.raises(BusyError, match="is open"):
        house.prune()
    catalogue = house.session.catalogue
    assert {point.id for point in catalogue.live_points(house.volume.id)} == {
        point.id for point in staying
    }
    assert house.ran == ["unsnap done"]
    (job,) = jobs.recent(catalogue, 9)
    assert job.state is JobState.FAILED
    (run,) = hook_runs.of_job(catalogue, job.id)
    assert (run.hook, run.phase, run.step) == ("gone", "unsnap", "remove-live")
    for point in house.points:
        recorded = catalogue.find_point(point.id)
        assert (recorded is not None) == (point in staying)


def test_where_none_could_go_nobody_is_told(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "remove", failing(house.points))
    with pytest.raises(BusyError):
        house.prune()
    assert house.ran == []
    assert len(house.session.catalogue.live_points(house.volume.id)) == 3


def test_where_all_go_it_is_told_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "remove", failing([]))
    house.prune()
    assert house.ran == ["unsnap done"]
    assert house.session.catalogue.live_points(house.volume.id) == []


def test_what_a_recovery_volume_has_that_is_away_is_not_forgotten(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor where it was recorded by a clock that was ahead: nobody asks what is now by the time."""
    catalogue = house.session.catalogue
    house.volume = replace(house.volume, recovery="/dev/dmsnap-no-such-disk", recovery_id=uuid4())
    ahead = [house.point_of(now_ns() + days * DAY_NS) for days in (300, 400)]
    house.points = [*house.points, *ahead]
    catalogue.record_replica(house.volume, [point.id for point in (ahead[1], house.points[1])])
    monkeypatch.setattr(live, "remove", failing([]))
    house.prune()
    staying = {point.id for point in catalogue.points(house.volume.id)}
    assert staying == {house.points[1].id, ahead[1].id}
    assert catalogue.live_points(house.volume.id) == []


def test_what_the_history_has_still_is_not_forgotten(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was to go from both sides: its snapshot is gone, and its undo store was not come to."""
    both, stuck, other = house.points
    monkeypatch.setattr(live, "remove", failing([stuck]))
    monkeypatch.setattr(replica, "label_of", lambda _volume: SimpleNamespace(history=()))
    monkeypatch.setattr(replica, "require_changeable", lambda _volume: None)
    deletion = Deletion(
        house.session, house.volume, live=house.points, earlier=[both.id],
        gone=[point.id for point in house.points], reason="prune", hooks=house.hooks,
    )  # fmt: skip
    with pytest.raises(BusyError):
        journal.run(house.session.catalogue, Plan("prune", [house.volume.id], deletion.steps()))
    found = {point.id: point.area_id for point in house.session.catalogue.points(house.volume.id)}
    assert found == {both.id: None, stuck.id: stuck.area_id}
    assert other.id not in found
    assert house.ran == ["unsnap done"]


@pytest.mark.parametrize(
    ("places", "on_primary", "readable", "wanted"),
    [
        (["live"], True, True, Wanted.SERVING),
        (["history"], False, True, Wanted.REPLICA),
        (["live", "history"], True, True, Wanted.ALL),
        # Its snapshot is lost, and is removed with it.
        (["history"], True, True, Wanted.ALL),
        ([], True, True, Wanted.ALL),
        # Where the recovery volume cannot be looked at, what is recorded counts.
        (["live"], True, False, Wanted.SERVING),
        (["history"], False, False, Wanted.REPLICA),
        (["live", "history"], True, False, Wanted.ALL),
        ([], False, False, Wanted.ALL),
    ],
)
def test_what_a_deletion_needs(
    house: House,
    monkeypatch: pytest.MonkeyPatch,
    places: list[str],
    on_primary: bool,
    readable: bool,
    wanted: Wanted,
) -> None:
    """Nothing is asked of a disk that may be just what is dead."""
    volume = replace(house.volume, recovery="/dev/copy", recovery_id=uuid4())
    house.session.catalogue.update_volume(volume)
    point = house.points[0]
    if not on_primary:
        point = replace(point, area_id=None)
        house.session.catalogue.update_point(point)
    kinds = {PlaceKind(place) for place in places}
    monkeypatch.setattr(deletion, "label_of", lambda _: "label" if readable else None)
    monkeypatch.setattr(deletion, "recorded_kinds", lambda *_: kinds)
    seen = [Place(place, "/dev/copy") for place in places if readable or place == "live"]
    view = PointView(point.id, volume.name, 1, False, None, tuple(seen), None)
    assert deletion.needed_luns(house.session, view) is wanted
