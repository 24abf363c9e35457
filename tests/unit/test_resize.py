"""The plan of a resize: its order, what it records, and what finishing it goes by."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from catalogue_samples import a_point, a_volume, an_area

from dmsnap.catalogue.model import AreaRole, Job, JobState, JobStep, StepState, Volume, VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import NoSpaceError, WrongStateError
from dmsnap.service.resizing import aim, enlargement, resize, sizes
from dmsnap.service.resizing.aim import ResizeRequest
from dmsnap.service.resizing.resize import Resizing
from dmsnap.service.session import Session
from dmsnap.units import GIB, MIB


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """A volume of 1 GiB without a recovery volume, on a device of 2 GiB; dm is not there."""
    with Catalogue.open(tmp_path / "catalogue.db") as catalogue:
        volume = replace(
            a_volume(), state=VolumeState.PROTECTED, recovery=None, recovery_id=None,
            size_bytes=GIB, store=str(tmp_path),
        )  # fmt: skip
        catalogue.add_volume(volume)
        catalogue.add_area(replace(an_area(volume, AreaRole.ERA_METADATA), point_id=None))
        configuration: Any = SimpleNamespace(state_directory=tmp_path)
        made = Session(configuration, catalogue)
        monkeypatch.setattr(aim, "require_settled", lambda *_: 2 * GIB)
        monkeypatch.setattr(sizes, "is_behind", lambda _: False)
        yield made


def volume_of(session: Session) -> Volume:
    return session.catalogue.volume("srv")


def roles(session: Session) -> list[AreaRole]:
    return sorted(area.role for area in session.catalogue.areas(volume_of(session).id))


def test_what_can_be_taken_back_comes_first(session: Session) -> None:
    plan = Resizing(session, volume_of(session), ResizeRequest()).plan()
    assert [step.name for step in plan.steps] == [
        "create-metadata", "format-metadata", "record", "grow-stack", "release",
    ]  # fmt: skip
    final = [step.name for step in plan.steps if step.final]
    assert final == ["grow-stack", "release"]
    assert all(step.undo for step in plan.steps if not step.final)
    assert not plan.forward


def test_the_record_is_one_change_and_taken_back_as_one(session: Session) -> None:
    before = volume_of(session)
    steps = {step.name: step for step in Resizing(session, before, ResizeRequest()).plan().steps}
    steps["create-metadata"].do()
    assert roles(session) == [AreaRole.ERA_METADATA, AreaRole.UNFINISHED_SPARE]
    steps["record"].do()
    after = volume_of(session)
    assert (after.size_bytes, after.tracking_id == before.tracking_id) == (2 * GIB, False)
    assert roles(session) == [AreaRole.ERA_METADATA, AreaRole.RETIRED]
    (retired,) = session.catalogue.areas(after.id, AreaRole.RETIRED)
    steps["record"].undo()  # type: ignore[misc]
    assert volume_of(session) == before
    (metadata,) = session.catalogue.areas(after.id, AreaRole.ERA_METADATA)
    assert metadata.id == retired.id
    steps["create-metadata"].undo()  # type: ignore[misc]
    assert roles(session) == [AreaRole.ERA_METADATA]


def test_live_points_are_dropped_once_it_is_recorded_and_only_when_they_may_be(
    session: Session,
) -> None:
    session.catalogue.add_point(replace(a_point(volume_of(session)), invalid_reason=None))
    with pytest.raises(WrongStateError, match="1 live points of srv have its former size"):
        Resizing(session, volume_of(session), ResizeRequest())
    plan = Resizing(session, volume_of(session), ResizeRequest(drop_points=True)).plan()
    names = [step.name for step in plan.steps]
    assert names[names.index("record") :] == ["record", "drop-points", "grow-stack", "release"]


def test_a_store_without_room_is_told_of_first(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = SimpleNamespace(free_bytes=lambda: MIB)
    monkeypatch.setattr(resize, "open_space", lambda _: full)
    with pytest.raises(NoSpaceError, match="the era metadata of 2 GiB take"):
        Resizing(session, volume_of(session), ResizeRequest())


def test_nothing_to_follow_is_nothing_to_do(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aim, "require_settled", lambda *_: GIB)
    assert Resizing(session, volume_of(session), ResizeRequest()).plan().steps == []
    monkeypatch.setattr(sizes, "is_behind", lambda _: True)
    behind = Resizing(session, volume_of(session), ResizeRequest()).plan()
    assert [step.name for step in behind.steps] == ["grow-stack", "release"]


@pytest.mark.parametrize(
    ("size_bytes", "steps", "expected", "grown"),
    [
        (2 * GIB, ("record", "grow-stack", "release"), False, 0),  # it was not recorded
        (GIB, ("record", "grow-stack", "release"), True, 1),
        (GIB, ("grow-stack", "release"), True, 1),
        (GIB, ("move-label",), False, 0),
    ],
)
def test_it_is_finished_once_it_is_recorded(
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
    size_bytes: int,
    steps: tuple[str, ...],
    *,
    expected: bool,
    grown: int,
) -> None:
    calls: list[Volume] = []
    monkeypatch.setattr(enlargement, "grow", lambda _, volume: calls.append(volume))
    monkeypatch.setattr(enlargement, "release", lambda *_: None)
    volume = volume_of(session)
    job = Job(
        7, "resize", {"name": "srv", "size_bytes": size_bytes, "label_bytes": 0}, (volume.id,), 1,
        1, None, JobState.RUNNING, None,
        tuple(JobStep(name, StepState.BEGUN, None) for name in steps),
    )  # fmt: skip
    assert resize.finish(session, volume, job) is expected
    assert len(calls) == grown


def test_a_size_that_is_kept_is_recorded_and_taken_back(session: Session) -> None:
    before = volume_of(session)
    plan = Resizing(session, before, ResizeRequest(keep_size=True)).plan()
    (step,) = plan.steps
    assert step.name == "record"
    step.do()
    assert volume_of(session) == replace(before, device_bytes=2 * GIB)
    assert step.undo is not None
    step.undo()
    assert volume_of(session) == before
    assert (plan.arguments["keep_size"], plan.arguments["size_bytes"]) == (True, GIB)
