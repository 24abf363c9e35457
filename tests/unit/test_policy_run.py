"""Runs of policies: what fails of one volume stops no other, and hides nothing else of its own."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from catalogue_samples import a_volume

from dmsnap.catalogue.model import VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import DeadlineError, DmsnapError, ExitCode, LockedError, of_volume
from dmsnap.host import systemd
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.configuration.declaration import Declarations, Policy, Subclient
from dmsnap.service.points import point
from dmsnap.service.points.prune import PruneResult
from dmsnap.service.schedules import policy_run
from dmsnap.service.schedules.policy_run import Part, PolicyRun, RunPlan
from dmsnap.service.session import Session
from dmsnap.snapshot import live

NAMES = ["home", "pg", "wal"]


class Points:
    """Points are taken of volumes as ``point.create`` does, but for those that fail."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.failures: dict[str, DmsnapError] = {}

    def create(self, _session: Session, names: Sequence[str], **_asked: object) -> Any:
        self.asked.append(list(names))
        for name in names:
            if name in self.failures:
                raise self.failures[name]
        return [SimpleNamespace(volume=name, id=uuid4()) for name in names]


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Points:
    found = Points()
    monkeypatch.setattr(point, "create", found.create)
    return found


@pytest.fixture
def running(tmp_path: Path) -> Iterator[PolicyRun]:
    with Catalogue.open(tmp_path / "catalogue.db") as catalogue:
        for name in NAMES:
            catalogue.add_volume(replace(a_volume(name), state=VolumeState.PROTECTED))
        session = Session(Configuration(), catalogue)
        yield PolicyRun(session, "hourly", Policy(), [("all", NAMES)], UTC)


def locked(name: str) -> DmsnapError:
    return LockedError(f"{name} is locked by 'dmsnap sync'", volume=name)


def test_one_that_is_locked_keeps_no_other_from_its_point(
    points: Points, running: PolicyRun
) -> None:
    points.failures = {"home": locked("home"), "wal": locked("wal")}
    running.take_points()
    assert points.asked == [NAMES, ["pg", "wal"], ["pg"]]
    codes = {name: each.exit_code for name, each in running.volumes.items()}
    assert codes == {"home": ExitCode.LOCKED, "pg": 0, "wal": ExitCode.LOCKED}
    assert [bool(each.point) for each in running.volumes.values()] == [False, True, False]
    assert running.volumes["wal"].error == "wal is locked by 'dmsnap sync'"


def test_what_fails_of_nobody_in_particular_fails_of_all(
    points: Points, running: PolicyRun
) -> None:
    points.failures = {"pg": DeadlineError("a hook took too long")}
    running.take_points()
    assert points.asked == [NAMES]
    assert {each.error for each in running.volumes.values()} == {"a hook took too long"}


def test_what_waits_is_copied_though_no_point_was_taken(
    points: Points, running: PolicyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []
    points.failures = {"home": locked("home")}
    monkeypatch.setattr(PolicyRun, "_copy", lambda _, volume, _run: copied.append(volume.name))
    running.take_points()
    running.copy()
    assert copied == NAMES


def test_a_window_that_fails_says_of_which_volume(running: PolicyRun) -> None:
    """The core knows devices by their UUIDs alone."""
    volumes = running.session.catalogue.volumes()
    blaming = cast(Any, live)._of_their_volume
    for volume in volumes:
        device = f"DMSNAP-{volume.id}-front"
        with pytest.raises(DeadlineError) as caught, blaming(volumes):
            raise DeadlineError(f"step 2, suspend of {device}; everything was resumed")
        assert caught.value.fields["volume"] == volume.name
    with pytest.raises(DeadlineError) as caught, blaming(volumes):
        raise DeadlineError("no memory")
    assert "volume" not in caught.value.fields


def test_whose_an_error_is_stays() -> None:
    with pytest.raises(LockedError) as caught, of_volume("home"), of_volume("pg"):
        raise locked("wal")
    assert caught.value.fields["volume"] == "wal"


@pytest.fixture
def begun(running: PolicyRun, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The units that systemd was told to begin; what else a run does is noted among them."""
    found: list[str] = []
    declared = Declarations(
        policy={"an hour": Policy()},
        subclient={"all": Subclient(policy="an hour", volumes=tuple(NAMES))},
    )
    monkeypatch.setattr("dmsnap.service.volumes.membership.declared_now", lambda _: declared)
    monkeypatch.setattr(systemd, "is_running", lambda: True)
    monkeypatch.setattr(systemd, "begin", found.append)
    monkeypatch.setattr(PolicyRun, "copy", lambda _: found.append("copied"))

    def prune(_session: Session, names: Sequence[str], **asked: Any) -> list[PruneResult]:
        found.extend(f"{name} {','.join(asked.get('sides', ['all']))}" for name in names)
        return [PruneResult(name) for name in names]

    monkeypatch.setattr("dmsnap.service.points.prune.prune", prune)
    return found


def test_points_wait_for_no_copy(points: Points, running: PolicyRun, begun: list[str]) -> None:
    """What they leave to another unit may last for days; live points that are due go meanwhile."""
    points.failures = {"pg": locked("pg")}
    done = policy_run.run(running.session, "an hour", part=Part.POINTS, dry_run=False)
    assert isinstance(done, list)
    assert [bool(each.point) for each in done] == [True, False, True]
    unit = r"dmsnap-copy@an\x20hour.service"
    assert begun == ["home primary", "wal primary", unit]
    plan = policy_run.run(running.session, "an hour", part=Part.POINTS, dry_run=True)
    assert isinstance(plan, RunPlan)
    assert plan.descriptions()[1:] == [f"begin {unit}, which copies and prunes"]


@pytest.mark.parametrize(("part", "taken"), [(Part.COPIES, 0), (Part.ALL, 1)])
def test_what_comes_behind_points(
    part: Part, taken: int, points: Points, running: PolicyRun, begun: list[str]
) -> None:
    policy_run.run(running.session, "an hour", part=part, dry_run=False)
    assert len(points.asked) == taken
    assert begun == ["copied", "home all", "pg all", "wal all"]
